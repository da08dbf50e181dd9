"""Which images of a stream are wanted, and when they were taken."""

from __future__ import annotations

JUMP_US = 2_000_000
"""A stream whose own clock and the arrival differ by more than this has started anew."""


class CaptureClock:
    """Turns time stamps of a stream into UTC. The image that arrived with the least delay sets the offset; so the
    jitter of the network is removed, and a constant delay of the camera stays.
    """

    def __init__(self) -> None:
        self._offset_us: int | None = None

    def t_us(self, stream_us: int | None, arrived_us: int) -> int:
        """Time of capture. `stream_us` is the stream's own time stamp, None if it has none."""
        if stream_us is None:
            return arrived_us
        offset = arrived_us - stream_us
        if self._offset_us is None or offset < self._offset_us or offset - self._offset_us > JUMP_US:
            self._offset_us = offset
        return stream_us + self._offset_us


class Pacer:
    """Chooses images: each `every`-th one, and at most `max_fps` a second (0: all); counts the others in `skipped`."""

    def __init__(self, max_fps: float, every: int) -> None:
        self._period_us, self._every = 1e6 / max_fps if max_fps else 0.0, every
        self._seen, self._due_us = 0, 0.0
        self.skipped = 0

    def wanted(self, t_us: int) -> bool:
        """Whether the image taken at `t_us` is to be used."""
        chosen = self._seen % self._every == 0
        self._seen += 1
        early_us = self._due_us - t_us
        # A tenth of the period is allowed for jitter; a clock that was set back does not stop the stream.
        if not chosen or self._period_us / 10 < early_us <= 2 * self._period_us:
            self.skipped += 1
            return False
        steady = abs(early_us) < self._period_us
        self._due_us = (self._due_us if steady else t_us) + self._period_us
        return True
