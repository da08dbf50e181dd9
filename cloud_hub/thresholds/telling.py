"""How the loops of the thresholds raise and clear alarms of the hub's own."""

from __future__ import annotations

from collections.abc import Callable

from sqlmodel import Session

from shared.messages import Alarm

Tell = Callable[[Session, str, Alarm, int, str], None]
"""Takes (session, device, alarm, now_us, trace), as `incidents.alarm_changed` does."""
