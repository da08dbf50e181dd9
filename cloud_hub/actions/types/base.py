"""What most types have in common: one device that must be known, no undo, and a limited time to verify."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from cloud_hub.actions.catalogue import Inverse, Progress, Request, Touched
from cloud_hub.certificates import registry as certificates
from cloud_hub.database.tables import Device


class BaseAction:
    """Defaults: no precondition, no snapshot, nothing to verify, no undo. The hub's evidence never calls for it."""

    undoable = False

    def touched(self, session: Session, request: Request) -> Touched:
        """No device."""
        return Touched()

    def precondition(self, session: Session, request: Request) -> str:
        """None."""
        return ""

    def uncalled(self, session: Session, request: Request) -> str:
        """The hub has no evidence about other types."""
        return "the hub has no evidence that calls for it"

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """Nothing."""
        return {}

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """The answer of the other system counts."""
        return Progress(state="done", reason="the other system's answer counts")

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """There is none."""
        return "this type of action cannot be undone"

    @staticmethod
    def within(limit_s: float, request: Request, now_us: int) -> Progress:
        """Pending until `limit_s` after the execution, then failed."""
        if now_us - request.executed_us > limit_s * 1e6:
            return Progress(state="failed", reason=f"the twin did not show it within {limit_s:g} s")
        return Progress(state="pending")


class DeviceAction(BaseAction):
    """An action on one device."""

    def touched(self, session: Session, request: Request) -> Touched:
        """The device."""
        row = session.get(Device, request.device)
        return Touched(count=1, paths=((row.assigned_path or "") if row is not None else "",))

    def precondition(self, session: Session, request: Request) -> str:
        """The device was not removed."""
        return "the device was removed" if certificates.removed(session, request.device) else ""
