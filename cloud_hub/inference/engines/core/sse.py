"""Server-sent events: where one ends, and what it holds."""

from __future__ import annotations

import re

DONE = b"[DONE]"
_BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class EventSplitter:
    """Cuts a stream of bytes into events, each with its blank line. Raises ValueError for an endless event."""

    def __init__(self, max_bytes: int) -> None:
        self._rest, self._searched, self._max = bytearray(), 0, max_bytes

    def feed(self, part: bytes) -> list[bytes]:
        """The events that `part` completes."""
        self._rest += part
        events, start = [], 0
        while found := _BLANK.search(self._rest, max(start, self._searched)):
            events.append(bytes(self._rest[start : found.end()]))
            start = self._searched = found.end()
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - 3)
        if len(self._rest) > self._max:
            raise ValueError(f"an event is longer than {self._max} bytes")
        return events

    @property
    def pending(self) -> bool:
        """Whether half an event is left."""
        return bool(self._rest.strip())


def event_data(event: bytes) -> bytes | None:
    """The data of an event, or None if it has none (a comment)."""
    fields = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(one.removeprefix(b" ") for one in fields) if fields else None
