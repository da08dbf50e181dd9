"""The state of an alarm by ISA-18.2 (clause 5.6), told from what happened to it. A core."""

from __future__ import annotations

from typing import Literal, Protocol

from shared.messages import Life

SuppressionMethod = Literal["shelved", "suppressed", "out-of-service"]
"""Why nobody is called: an operator's choice for a while, by design (maintenance), or taken out of service."""

Verdict = Literal["real", "false-alarm"]


class Alarm(Protocol):
    """What is known of one; `state` is the device's word, raised or cleared."""

    state: str
    acked_us: int | None
    suppressed: str


def isa_state(alarm: Alarm) -> Life:
    """The state it is in. One that cleared while suppressed waits for nobody."""
    if alarm.state == "raised" and alarm.suppressed:
        method: Life = alarm.suppressed  # type: ignore[assignment]
        return method
    if alarm.state == "raised":
        return "unacknowledged" if alarm.acked_us is None else "acknowledged"
    return "normal" if alarm.acked_us is not None or alarm.suppressed else "returned-unacknowledged"
