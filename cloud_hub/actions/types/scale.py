"""`scale`: the instances of a target of the autoscaler, for a time. The policy's limits hold (docs/autoscaling.md)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Effect, Inverse, Parameters, Progress, Request, Tools
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.base import BaseAction
from cloud_hub.autoscale import service
from cloud_hub.database.tables import ScaleTarget
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage


class ScaleParameters(Parameters, frozen=True):
    """The desired instances of `target`, for `for_s` seconds; then the policy decides again."""

    target: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    replicas: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    for_s: Annotated[float, msgspec.Meta(ge=60, le=service.LONGEST_S)] = 3600.0


class ScaleAction(BaseAction):
    """Overrides the policy of a target; the autoscaler calls the platform."""

    name = "scale"
    reach = "hub"
    schema = ScaleParameters
    undoable = True

    def __init__(self, tools: Tools) -> None:
        """Nothing from outside is needed: the autoscaler reads the database."""

    def risk(self, parameters: ScaleParameters) -> Risk:
        """To nothing is high."""
        return "medium" if parameters.replicas else "high"

    def details(self, parameters: ScaleParameters) -> tuple[str, ...]:
        """`to/<replicas>/<target>`."""
        return (f"to/{parameters.replicas}/{parameters.target}",)

    def precondition(self, session: Session, request: Request) -> str:
        """The target is known, nobody has paused it, and its policy allows the count."""
        try:
            row = service.get(session, request.parameters.target)
            if row.mode == "paused":
                return f"'{row.name}' is paused by {row.control_by}: resume it first"
            return service.override_problem(session, row, request.parameters.replicas)
        except HubError as error:
            return error.detail

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """The instances before, for the undo."""
        row = service.get(session, request.parameters.target)
        return {"replicas": row.desired, "mode": row.mode}

    def execute(self, session: Session, request: Request, now_us: int) -> Effect:
        """Override the policy."""
        wanted = request.parameters
        row = service.override(
            session, wanted.target, wanted.replicas, now_us, actor=request.actor, for_s=wanted.for_s,
            reason=f"action {request.id}", trace=request.trace,
        )  # fmt: skip
        return Effect(effect={"replicas": wanted.replicas, "until_us": row.until_us})

    def progress(self, session: Session, request: Request, now_us: int) -> Progress:
        """The override is complete when it is stored; whether the platform follows is verified."""
        return Progress(state="done")

    def cancel(self, session: Session, request: Request, now_us: int, actor: str) -> list[OutgoingMessage]:
        """Nothing is left to stop."""
        return []

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """The platform has the instances."""
        row = session.get(ScaleTarget, request.parameters.target)
        if row is not None and row.desired == request.parameters.replicas:
            return Progress(state="done", reason="the platform has them")
        if now_us - request.executed_us < request.parameters.for_s * 1e6:
            return Progress(state="pending")
        reason = row.reason if row is not None else "the target is gone"
        return Progress(state="failed", reason=f"the platform never had them: {reason}")

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """The instances before, for the same time."""
        before = request.before["replicas"]
        if before is None:
            return f"the count before is not known: use `tidegate-hub autoscale resume {request.parameters.target}`"
        parameters = {"target": request.parameters.target, "replicas": before, "for_s": request.parameters.for_s}
        return Inverse(type="scale", parameters=parameters)
