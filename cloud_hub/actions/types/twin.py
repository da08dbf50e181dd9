"""`twin`: a change of desired state of one device. Verified when the device reports it; undone by the values before."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Effect, Inverse, Parameters, Progress, Request, Tools
from cloud_hub.actions.core.patches import inverse, patch_details, unchanged
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.base import DeviceAction
from cloud_hub.devices import registry as device_registry
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins import service as twins
from cloud_hub.twins.core import plant
from cloud_hub.twins.core.owners import ACTION
from shared.twin import shadow


class TwinParameters(Parameters, frozen=True):
    """A patch of the desired part of a document; null removes. `document` '' is the classic one."""

    patch: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
    document: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9:_-]{0,64}\Z")] = ""

    def __post_init__(self) -> None:
        plant.refuse(self.document)


def desired_of(session: Session, device: str, document: str) -> shadow.State:
    """The desired part of a document."""
    return dict(twins.load(session, device, document).state.get("desired", {}))


class TwinAction(DeviceAction):
    """Patches the desired state as owner `action:<id>`."""

    name = "twin"
    schema: type[Parameters] = TwinParameters
    undoable = True

    def __init__(self, tools: Tools) -> None:
        self._verify_s, self._max_bytes = tools.settings.verify_s, tools.max_twin_bytes

    def risk(self, parameters: Any) -> Risk:
        """Medium: what it sets can be set back."""
        return "medium"

    def details(self, parameters: TwinParameters) -> tuple[str, ...]:
        """`set/<document>/<path>` or `remove/<document>/<path>` of each leaf."""
        return patch_details(parameters.document, parameters.patch)

    def precondition(self, session: Session, request: Request) -> str:
        """The device is known."""
        return "" if device_registry.exists(session, request.device) else "the device is not known"

    def change(self, session: Session, request: Request) -> tuple[str, shadow.State]:
        """The document and the patch."""
        return request.parameters.document, request.parameters.patch

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """What was desired at the places of the patch."""
        document, patch = self.change(session, request)
        return {"inverse": inverse(patch, desired_of(session, request.device, document))}

    def execute(self, session: Session, request: Request, now_us: int) -> Effect:
        """Change the desired state."""
        document, patch = self.change(session, request)
        messages = self.write(session, request, document, patch, now_us)
        version = twins.load(session, request.device, document).version
        return Effect(effect={"document": document, "patch": patch, "version": version}, messages=messages)

    def write(
        self, session: Session, request: Request, document: str, patch: shadow.State, now_us: int
    ) -> list[OutgoingMessage]:
        """Write a patch in the name of the action."""
        return twins.update_desired(
            session, request.device, document, patch, now_us, actor=ACTION + request.id, max_bytes=self._max_bytes,
            trace=request.trace,
        )  # fmt: skip

    def progress(self, session: Session, request: Request, now_us: int) -> Progress:
        """The change is complete when it is stored; whether the device follows is verified."""
        return Progress(state="done")

    def cancel(self, session: Session, request: Request, now_us: int, actor: str) -> list[OutgoingMessage]:
        """Nothing is left to stop."""
        return []

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """The device reports what is desired. What was removed is the device's own business."""
        wanted = shadow.merge({}, request.effect["patch"])
        reported = twins.reported(session, request.device, request.effect["document"])
        if not shadow.difference(wanted, reported):
            return Progress(state="done", reason="the twin shows it")
        return self.within(self._verify_s, request, now_us)

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """Set back, unless somebody else changed it since."""
        document, patch = request.effect["document"], request.effect["patch"]
        if not unchanged(patch, desired_of(session, request.device, document)):
            return "somebody changed it since: look at the twin's history"
        return Inverse(type="twin", parameters={"document": document, "patch": request.before["inverse"]})
