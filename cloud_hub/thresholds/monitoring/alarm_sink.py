"""The alarm sink: how monitoring raises and clears the hub's own alarms."""

from __future__ import annotations

from typing import Protocol

from sqlmodel import Session

from shared.protocol.messages import Alarm


class AlarmSink(Protocol):
    """Receives alarms, as `incidents.handle_alarm` does; `service` is given for alarms of the peer comparison."""

    def __call__(
        self, session: Session, device: str, alarm: Alarm, now_us: int, trace: str, service: str = ""
    ) -> None: ...
