"""`scale`: the replicas of the configured scaler. The platform keeps the idempotency key, and answers what it has."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Inverse, Parameters, Request, Tools
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.base import BaseAction
from cloud_hub.autoscale import ScaleRefused
from cloud_hub.errors import HubError


class ScaleParameters(Parameters, frozen=True):
    """The desired replicas."""

    replicas: Annotated[int, msgspec.Meta(ge=0, le=10_000)]


class ScaleAction(BaseAction):
    """Asks the platform for replicas."""

    name = "scale"
    reach = "hub"
    schema = ScaleParameters
    undoable = True
    timeout_s = 60.0

    def __init__(self, tools: Tools) -> None:
        self._scaler = tools.scaler

    def risk(self, parameters: ScaleParameters) -> Risk:
        """To nothing is high."""
        return "medium" if parameters.replicas else "high"

    def details(self, parameters: ScaleParameters) -> tuple[str, ...]:
        """`to/<replicas>`."""
        return (f"to/{parameters.replicas}",)

    def precondition(self, session: Session, request: Request) -> str:
        """A scaler is configured."""
        return "" if self._scaler is not None else "no scaler is configured (autoscale.kind)"

    def prepare(self, request: Request) -> dict[str, Any]:
        """The replicas before, for the undo."""
        return {"replicas": self._scaler.current().desired} if self._scaler is not None else {}

    def call(self, request: Request, key: str, now_us: int) -> dict[str, Any]:
        """Ask the platform."""
        if self._scaler is None:
            raise HubError(409, "No scaler", "no scaler is configured (autoscale.kind)")
        try:
            return {"replicas": self._scaler.scale(request.parameters.replicas, key)}
        except ScaleRefused as error:
            raise HubError(409, "The platform refuses", error.reason) from error

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """The replicas before."""
        return Inverse(type="scale", parameters={"replicas": request.before["replicas"]})
