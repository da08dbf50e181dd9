"""/api/v1/devices/{id}/twin: documents, desired changes, and the progress of desired state on the device."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, field_validator
from sqlmodel import Session

from cloud_hub import fleet, twins
from cloud_hub.api.hub import Hub, Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError
from cloud_hub.tables import AppliedRow

router = APIRouter(prefix="/api/v1/devices/{device}/twin", tags=["twins"])


class TwinView(BaseModel):
    """A twin document: state and metadata with the delta, as AWS device shadows show it."""

    state: dict[str, Any]
    metadata: dict[str, Any]
    version: int
    timestamp: int


class DesiredChange(BaseModel):
    """A merge patch of desired state: null deletes. `version` makes it conditional."""

    model_config = ConfigDict(extra="forbid")
    desired: dict[str, Any]
    version: int | None = None

    @field_validator("desired")
    @classmethod
    def _finite(cls, desired: dict[str, Any]) -> dict[str, Any]:
        """NaN would be written as null, and null deletes."""
        layer: list[Any] = [desired]
        while layer:  # a loop: the nesting is not judged yet
            if any(isinstance(value, float) and not math.isfinite(value) for value in layer):
                raise ValueError("numbers must be finite")
            layer = [
                inner
                for value in layer
                if isinstance(value, (dict, list))
                for inner in (value.values() if isinstance(value, dict) else value)
            ]
        return desired


def _view(session: Session, hub: Hub, device: str, name: str) -> TwinView:
    fleet.device(session, device)
    limit = hub.settings.twins.max_bytes
    (reply,) = twins.request(session, device, name, "get", b"", now_us(), who="", max_bytes=limit)
    if reply.verb == "get/rejected":
        raise HubError(reply.body["code"], "No such twin document", reply.body["message"])
    return TwinView(**reply.body)


def _read(hub: Hub, device: str, name: str) -> TwinView:
    with hub.db.read() as session:
        return _view(session, hub, device, name)


def _change(hub: Hub, device: str, name: str, change: DesiredChange, caller: Operator) -> TwinView:
    with hub.db.write(device) as session:
        fleet.device(session, device)
        messages = twins.desire(
            session, device, name, change.desired, now_us(), who=caller.who,
            max_bytes=hub.settings.twins.max_bytes, trace=caller.trace, version=change.version,
        )  # fmt: skip
        view = _view(session, hub, device, name)
    hub.publish(messages)
    return view


@router.get("")
def classic(device: str, hub: TheHub, _caller: Reader) -> TwinView:
    """The classic document: the device itself and its settings."""
    return _read(hub, device, "")


@router.patch("")
def change_classic(device: str, change: DesiredChange, hub: TheHub, caller: Operator) -> TwinView:
    """Change desired state of the classic document."""
    return _change(hub, device, "", change, caller)


@router.get("/documents")
def documents(device: str, hub: TheHub, _caller: Reader) -> dict[str, int]:
    """Names and versions of the device's documents; '' is the classic one."""
    with hub.db.read() as session:
        fleet.device(session, device)
        return {name: document.version for name, document in twins.documents(session, device).items()}


@router.get("/progress")
def progress(device: str, hub: TheHub, _caller: Reader) -> list[AppliedRow]:
    """The device's last word on each path of desired state: received, applied, verified or refused."""
    with hub.db.read() as session:
        fleet.device(session, device)
        return twins.progress(session, device)


@router.get("/name/{name}")
def named(device: str, name: str, hub: TheHub, _caller: Reader) -> TwinView:
    """A named document, such as 'thresholds' or 'gates'."""
    return _read(hub, device, name)


@router.patch("/name/{name}")
def change_named(device: str, name: str, change: DesiredChange, hub: TheHub, caller: Operator) -> TwinView:
    """Change desired state of a named document."""
    return _change(hub, device, name, change, caller)
