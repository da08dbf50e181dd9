"""Derives the ISA-18.2 state of an alarm (clause 5.6). Pure."""

from __future__ import annotations

from typing import Literal, Protocol

from shared.protocol.messages import Life

SuppressionMethod = Literal["shelved", "suppressed", "out-of-service"]
"""How an alarm is suppressed: by an operator for a while, by design (maintenance), or out of service."""

Verdict = Literal["real", "false-alarm"]


class Alarm(Protocol):
    """The fields that determine the state; `state` is raised or cleared, as the device reports it."""

    state: str
    acked_us: int | None
    suppressed: str


def isa_state(alarm: Alarm) -> Life:
    """The ISA-18.2 state. An alarm that cleared while suppressed needs no acknowledgement."""
    if alarm.state == "raised" and alarm.suppressed:
        method: Life = alarm.suppressed  # type: ignore[assignment]
        return method
    if alarm.state == "raised":
        return "unacknowledged" if alarm.acked_us is None else "acknowledged"
    return "normal" if alarm.acked_us is not None or alarm.suppressed else "returned-unacknowledged"
