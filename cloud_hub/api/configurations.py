"""/api/v1/configurations: desired state for all devices that match a condition, and ownership of twin leaves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from sqlmodel import col, select

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.api.jobs import finite
from cloud_hub.clock import now_us
from cloud_hub.configurations import service as configurations
from cloud_hub.database import scopes
from cloud_hub.database.tables import Configuration, ConfigurationDevice
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins.core.owners import REMOVED
from shared.ids import NAME, SHADOW_NAME
from shared.twin_merge import format_path, leaves

router = APIRouter(prefix="/api/v1/configurations", tags=["configurations"])
owners_router = APIRouter(prefix="/api/v1/devices/{device}/twin", tags=["configurations"])

Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(max_length=256)]
Condition = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
SYSTEM_METRICS = ("targeted", "applied", "conflicts", "overridden", "refused", "in_force")


def _documents(content: dict[str, Any]) -> dict[str, Any]:
    for name in content:
        if name and not SHADOW_NAME.match(name):
            raise ValueError(f"'{name[:80]}' is no name of a twin document")
    return finite(content)


def _metrics(metrics: dict[str, str]) -> dict[str, str]:
    for name in metrics:
        if name in SYSTEM_METRICS:
            raise ValueError(f"'{name}' is a metric that every configuration has")
    return metrics


Metrics = Annotated[dict[Name, Condition], Field(max_length=5), AfterValidator(_metrics)]
Labels = Annotated[dict[Name, Text], Field(max_length=20)]
Priority = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class ConfigurationBody(BaseModel):
    """A configuration. `content` maps document names ('' is the classic one) to desired state without nulls."""

    model_config = ConfigDict(extra="forbid")
    target: Condition
    content: Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=8), AfterValidator(_documents)]
    priority: Priority = 0
    metrics: Metrics = {}
    labels: Labels = {}


class ConfigurationChange(BaseModel):
    """The fields that can change: all but the content."""

    model_config = ConfigDict(extra="forbid")
    target: Condition | None = None
    priority: Priority | None = None
    metrics: Metrics | None = None
    labels: Labels | None = None


class ConfigurationView(BaseModel):
    """A configuration with its devices counted by state: applied, conflict, overridden, refused."""

    configuration: Configuration
    devices: dict[str, int]
    metrics: dict[str, int] | None = None


class ReleaseBody(BaseModel):
    """Paths such as `settings.period_s`, each with all leaves below it, to return to the configurations."""

    model_config = ConfigDict(extra="forbid")
    document: str = Field(default="", max_length=64)
    paths: list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]] = Field(min_length=1, max_length=100)


class Owned(BaseModel):
    """A leaf of desired state and its owner. Without a value, the owner removed what a configuration had set."""

    path: str
    owner: str
    value: Any = None
    removed: bool = False


class OwnersView(BaseModel):
    """The owner of each leaf of a document, and the conflicts with configurations."""

    owners: list[Owned]
    conflicts: list[dict[str, Any]]


@router.get("")
def all_configurations(hub: TheHub, caller: Reader) -> list[ConfigurationView]:
    """List configurations, the highest priority first."""
    order = (col(Configuration.priority).desc(), col(Configuration.created_us).desc(), Configuration.id)
    with hub.db.read(scope=caller.scope) as session:
        counts = configurations.counts(session)
        rows = [r for r in session.exec(select(Configuration).order_by(*order)) if scopes.covers(caller.scope, r.scope)]
    return [ConfigurationView(configuration=row, devices=counts.get(row.id, {})) for row in rows]


@router.get("/{configuration_id}")
def configuration(configuration_id: str, hub: TheHub, caller: Reader) -> ConfigurationView:
    """Get a configuration with its current metrics."""
    with hub.db.read(scope=caller.scope) as session:
        row = configurations.get(session, configuration_id)
        return ConfigurationView(
            configuration=row, devices=configurations.counts(session).get(row.id, {}),
            metrics=configurations.metrics(session, row),
        )  # fmt: skip


@router.get("/{configuration_id}/devices")
def devices(
    configuration_id: str, hub: TheHub, caller: Reader,
    state: Literal["", "applied", "conflict", "overridden", "refused"] = "", after: str = "", limit: int = 100,
) -> list[ConfigurationDevice]:  # fmt: skip
    """The state of the configuration on its devices, by id; give the last id as `after` for the next page."""
    with hub.db.read(scope=caller.scope) as session:
        configurations.get(session, configuration_id)
        return configurations.devices(
            session, configuration_id, state=state, after=after, limit=min(max(limit, 1), 1000)
        )


@router.put("/{configuration_id}")
def put(
    configuration_id: str, body: ConfigurationBody, hub: TheHub, caller: Operator, answer: Response
) -> Configuration:  # fmt: skip
    """Create a configuration (201), or change one with the same content; 409 for other content."""
    if not NAME.match(configuration_id):
        raise HubError(422, "Invalid request", "path.configuration_id: use 1 to 64 of a-z A-Z 0-9 _ -")
    scope = None if caller.scope is None else list(caller.scope)
    row = Configuration(id=configuration_id, actor=caller.actor, created_us=now_us(), scope=scope, **body.model_dump())
    with hub.db.write(scope=caller.scope) as session:
        stored, new = configurations.put(session, row, hub.settings.twins.max_bytes, caller.trace)
    hub.notify("configurations")
    answer.status_code = 201 if new else 200
    return stored


@router.patch("/{configuration_id}")
def change(configuration_id: str, body: ConfigurationChange, hub: TheHub, caller: Operator) -> Configuration:
    """Change target, priority, metrics or labels."""
    with hub.db.write(scope=caller.scope) as session:
        changes = body.model_dump(exclude_none=True)
        row = configurations.change(session, configuration_id, changes, now_us(), caller.actor, caller.trace)
    hub.notify("configurations")
    return row


@router.delete("/{configuration_id}", status_code=204)
def remove(configuration_id: str, hub: TheHub, caller: Operator) -> None:
    """Delete a configuration; what it set is removed, or set by the next one."""
    with hub.db.write(scope=caller.scope) as session:
        configurations.remove(session, configuration_id, now_us(), caller.actor, caller.trace)
    hub.notify("configurations")


@owners_router.get("/owners")
def owners(device: str, hub: TheHub, caller: Reader, name: str = "") -> OwnersView:
    """The owner of each leaf of desired state in document `name`, and the conflicts."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        stored = twin_batch.read_documents(session, [device], [name])
        conflicts = configurations.conflicts(session, device, name)
    found = [(dict(leaves(document.state.get("desired", {}))), names) for document, names in stored.values()]
    rows = [
        Owned(
            path=format_path(path),
            owner=owner.removeprefix(REMOVED),
            value=values.get(path),
            removed=path not in values,
        )
        for values, names in found
        for path, owner in leaves(names)
    ]
    return OwnersView(owners=rows, conflicts=conflicts)


@owners_router.post("/release")
def release(device: str, body: ReleaseBody, hub: TheHub, caller: Operator) -> list[str]:
    """Return paths to the configurations, which then apply again; returns the leaves that others owned."""
    with hub.db.write(scope=caller.scope) as session:
        device_registry.get_device(session, device)
        found = configurations.release(
            session, device, body.document, body.paths, now_us(), caller.actor, caller.trace
        )  # fmt: skip
    hub.changed([device])
    return found
