"""How the loops of the thresholds raise and clear alarms of the hub's own."""

from __future__ import annotations

from typing import Protocol

from sqlmodel import Session

from shared.messages import Alarm


class AlarmSink(Protocol):
    """What takes an alarm, as `incidents.alarm_changed` does; `service` is the device's, of evidence beside peers."""

    def __call__(
        self, session: Session, device: str, alarm: Alarm, now_us: int, trace: str, service: str = ""
    ) -> None: ...
