"""Records stalled streams, whose batches cannot be read or stored and so are not acknowledged.

A stall starts with an event of the device and ends when the stream advances again; until then `/streams` shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, delete, insert, select
from sqlmodel import Session

from cloud_hub.database.tables import StalledStream
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.telemetry import samples
from shared.protocol.messages import Event

log = logging.getLogger(__name__)

_TABLE: Any = StalledStream.__table__  # type: ignore[attr-defined]
_READ = select(_TABLE.c.device, _TABLE.c.stream).where(_TABLE.c.device.in_(bindparam("b_devices", expanding=True)))
_INSERT = insert(_TABLE)
_DELETE = delete(_TABLE).where(_TABLE.c.device == bindparam("b_device"), _TABLE.c.stream == bindparam("b_stream"))


class StalledStreams:
    """The stalled streams of the devices of one transaction."""

    def __init__(self, session: Session, marks: StreamOffsets, now_us: int) -> None:
        self._session, self._marks, self._now_us = session, marks, now_us
        self._stalled: set[tuple[str, str]] = set()

    def load(self, devices: Collection[str]) -> None:
        """Load the stalled streams of these devices."""
        rows = self._session.connection().execute(_READ, {"b_devices": sorted(devices)})
        self._stalled.update((device, stream) for device, stream in rows)

    def begin(self, device: str, stream: str, reason: str) -> None:
        """Record a stall, once however often the device retries."""
        if (device, stream) in self._stalled:
            return
        self._stalled.add((device, stream))
        row = {"device": device, "stream": stream, "since_us": self._now_us, "reason": reason[:500]}
        self._session.connection().execute(_INSERT, row)
        event = Event(
            t_us=self._now_us, source="hub", level="error", text=f"stream {stream} is stalled: {reason[:500]}"
        )
        mark = self._marks.get(("", f"hub:{device}", "event"))
        mark.upto += 1
        samples.store_events(self._session, device, mark.source, [(mark.upto, event)], "")
        log.error("stream.stalled", extra={"fields": {"device": device, "stream": stream, "reason": reason[:500]}})

    def end(self, device: str, stream: str) -> None:
        """Record that a stream has advanced."""
        if (device, stream) in self._stalled:
            self._stalled.discard((device, stream))
            self._session.connection().execute(_DELETE, {"b_device": device, "b_stream": stream})
            log.info("stream.resumed", extra={"fields": {"device": device, "stream": stream}})
