"""Times of values that a source gives."""

from __future__ import annotations

AHEAD_US = 5_000_000
"""A source's clock may be ahead of ours by this; further ahead, the time of arrival counts."""


def sample_time(source_us: int | None, now_us: int) -> int:
    """The source's time of a value, unless it has none or its clock is ahead of ours."""
    return source_us if source_us is not None and 0 < source_us <= now_us + AHEAD_US else now_us
