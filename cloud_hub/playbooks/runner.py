"""What the engine needs of actions, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sqlmodel import Session

from cloud_hub.database.tables import PlaybookRun
from cloud_hub.playbooks.core.machine import Outcome
from cloud_hub.playbooks.core.plan import PlanStep
from cloud_hub.runtime.outgoing import OutgoingMessage


class StepRunner(Protocol):
    """Runs actions of steps. Every method works in the caller's transaction: what is rolled back never happened."""

    def start(self, session: Session, run: PlaybookRun, step: PlanStep, key: str, attempt: int, now_us: int) -> str:
        """Create the action with idempotency `key` and return its reference; HubError if it is refused.

        A key names one effect: with attempt 0 and a known key, it is the action that there is.
        """

    def poll(self, session: Session, refs: Sequence[str]) -> Mapping[str, Outcome]:
        """How these actions stand; one that is not kept any more has failed."""

    def undo(self, session: Session, run: PlaybookRun, step: PlanStep, ref: str, key: str, now_us: int) -> str:
        """Create the action that undoes `ref` and return its reference; HubError if it cannot be undone."""

    def cancel(self, session: Session, ref: str, reason: str, now_us: int) -> Sequence[OutgoingMessage]:
        """Ask that an action ends; publish the messages after the commit. HubError if it has ended."""
