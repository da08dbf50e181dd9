"""`model_rollback`: a model back to the bundle that was desired before. Verified when the twin reports it running."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Parameters, Progress, Request, Tools
from cloud_hub.actions.types.twin import TwinAction, desired_of
from cloud_hub.errors import HubError
from cloud_hub.twins import history
from cloud_hub.twins import service as twins
from cloud_hub.twins.core.reported_values import mapping, text

DOCUMENT = "models"
LOOK_BACK = 50
"""Versions of the document that are looked at."""
LOAD_S = 120.0
"""A model takes at most so long to load, or longer where `verify_s` says so."""


class RollbackParameters(Parameters, frozen=True):
    """The name of the model."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class ModelRollbackAction(TwinAction):
    """Changes desired `models.<name>`; the device keeps serving the old one while it loads."""

    name = "model_rollback"
    schema: type[Parameters] = RollbackParameters

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        self._verify_s = max(self._verify_s, LOAD_S)

    def details(self, parameters: Any) -> tuple[str, ...]:
        """`to-previous/<model>`."""
        return (f"to-previous/{parameters.model}",)

    def precondition(self, session: Session, request: Request) -> str:
        """There is an earlier bundle."""
        reason = super().precondition(session, request)
        if reason or _previous(session, request.device, request.parameters.model) is not None:
            return reason
        return "its twin's history has no earlier bundle of this model"

    def change(self, session: Session, request: Request) -> tuple[str, dict[str, Any]]:
        """The desired model as it was before its bundle changed."""
        previous = _previous(session, request.device, request.parameters.model)
        if previous is None:
            raise HubError(409, "No earlier bundle", "the history of the twin does not reach back to one")
        now = desired_of(session, request.device, DOCUMENT).get(request.parameters.model, {})
        gone = {key: None for key in mapping(now) if key not in previous}
        return DOCUMENT, {request.parameters.model: {**previous, **gone}}

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """The classic document reports the model with this bundle, running."""
        name = request.parameters.model
        wanted = text(request.effect["patch"][name]["bundle"])
        now = mapping(mapping(twins.reported(session, request.device).get("models")).get(name))
        if text(now.get("bundle")).rpartition("/")[2] == wanted.rpartition("/")[2] and now.get("state") == "running":
            return Progress(state="done", reason="the twin shows it")
        return self.within(self._verify_s, request, now_us)


def _previous(session: Session, device: str, model: str) -> dict[str, Any] | None:
    """The desired model before the bundle that is desired now, None if there was none."""
    now = text(mapping(desired_of(session, device, DOCUMENT).get(model)).get("bundle"))
    if not now:
        return None
    for change in history.changes(session, device, DOCUMENT, before=None, limit=LOOK_BACK):
        try:
            state = history.at(session, device, DOCUMENT, version=change.version).state
        except HubError:  # older rows were deleted
            return None
        there = mapping(mapping(mapping(state).get("desired")).get(model))
        if text(there.get("bundle")) not in ("", now):
            return dict(there)
    return None
