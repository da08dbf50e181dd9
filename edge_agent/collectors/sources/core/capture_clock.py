"""Which images of a stream are wanted, and when they were taken."""

from __future__ import annotations

DRIFT = 2e-4
"""Most that a camera's clock is taken to be slower: 200 us a second."""
JUMP_US = 2_000_000
"""A stream whose own clock and the arrival differ by more than this has started anew."""


class CaptureClock:
    """Turns time stamps of a stream into UTC. The image that arrived with the least delay sets the offset; so the
    jitter of the network is removed, and a constant delay of the camera stays. The offset may grow by DRIFT, since the
    camera's clock may be slower than ours.
    """

    def __init__(self) -> None:
        self._offset_us, self._arrived_us = 0.0, 0

    def t_us(self, stream_us: int | None, arrived_us: int) -> int:
        """Time of capture. `stream_us` is the stream's own time stamp, None if it has none."""
        if stream_us is None:
            return arrived_us
        offset = float(arrived_us - stream_us)
        elapsed, first = max(0, arrived_us - self._arrived_us), not self._arrived_us
        allowed = self._offset_us + elapsed * DRIFT
        again = first or offset - allowed > JUMP_US
        self._offset_us, self._arrived_us = offset if again else min(offset, allowed), arrived_us
        return stream_us + round(self._offset_us)


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
