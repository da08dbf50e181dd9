"""Quality of each tag over time, and which readings become samples.

`good` while it is read, `uncertain` with the last known value once it was not read for a while, `bad` without a value
after a longer while or when the source says that it has none (OPC UA Part 8 uses the same three).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from shared.protocol.messages import Quality

Value = float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aging:
    """How a tag ages: microseconds, and the deadband in its unit (None: each reading is a sample)."""

    stale_us: int
    bad_us: int
    resend_us: int
    deadband: float | None = None


@dataclass(frozen=True, slots=True)
class TagSample:
    """A sample of the tag with this index."""

    index: int
    t_us: int
    value: Value | None
    quality: Quality


@dataclass(slots=True)
class _State:
    aging: Aging
    fresh_us: int
    value: Value | None = None
    quality: Quality | None = None
    """Quality of the last sample; None before the first."""
    current: bool = False
    """Whether the source vouches for `value`: false after an error of this tag."""
    uncertain: bool = False
    sent_us: int = 0
    sent: Value | None = None


class TagQualities:
    """State of all tags of a collector. `now_us` is when it began to read them."""

    def __init__(self, agings: Sequence[Aging], now_us: int) -> None:
        self._states = [_State(aging, now_us) for aging in agings]

    def read(
        self, index: int, value: Value, t_us: int, now_us: int, *, quality: Quality = "good", force: bool = False
    ) -> TagSample | None:
        """The tag was read; returns its sample unless it changed by no more than the deadband."""
        if isinstance(value, float) and not math.isfinite(value):
            return self.failed(index, now_us)
        state = self._states[index]
        state.value, state.fresh_us, state.current, state.uncertain = value, now_us, True, quality != "good"
        if force or state.quality != quality or self._changed(state) or self._is_due(state, now_us):
            return self._sample(index, state, t_us, now_us, quality)
        return None

    def failed(self, index: int, now_us: int) -> TagSample | None:
        """The source has no value for this tag."""
        state = self._states[index]
        state.current, state.value = False, None
        if state.quality == "bad" and not self._is_due(state, now_us):
            return None
        return self._sample(index, state, now_us, now_us, "bad")

    def confirm(self, indexes: Iterable[int], now_us: int) -> None:
        """The source says that these tags have not changed, as the keep-alive of a subscription does."""
        for index in indexes:
            state = self._states[index]
            if state.current:
                state.fresh_us = now_us

    def tick(self, now_us: int) -> Iterator[TagSample]:
        """Samples of tags that have aged, and of those whose value has to be sent again."""
        for index, state in enumerate(self._states):
            state.fresh_us = min(state.fresh_us, now_us)  # the clock may be set back
            state.sent_us = min(state.sent_us, now_us)
            quality = self._aged(state, now_us)
            if quality is not None and (quality != state.quality or self._is_repeated(state, now_us)):
                yield self._sample(index, state, now_us, now_us, quality)

    def count(self, quality: Quality) -> int:
        """Tags whose last sample had this quality."""
        return sum(state.quality == quality for state in self._states)

    def _aged(self, state: _State, now_us: int) -> Quality | None:
        age = now_us - state.fresh_us
        if state.quality is None and age <= state.aging.bad_us:
            return None  # not read yet
        if state.value is None or age > state.aging.bad_us:
            return "bad"
        return "uncertain" if age > state.aging.stale_us or state.uncertain else "good"

    @staticmethod
    def _changed(state: _State) -> bool:
        band, value, sent = state.aging.deadband, state.value, state.sent
        if band is None or isinstance(value, str) or isinstance(sent, str) or value is None or sent is None:
            return band is None or value != sent
        return abs(value - sent) > band

    def _is_repeated(self, state: _State, now_us: int) -> bool:
        """Whether to send a sample again. A good one only if it was read or confirmed since: nothing is made up."""
        return self._is_due(state, now_us) and (state.quality != "good" or state.fresh_us > state.sent_us)

    @staticmethod
    def _is_due(state: _State, now_us: int) -> bool:
        return now_us - state.sent_us >= state.aging.resend_us

    @staticmethod
    def _sample(index: int, state: _State, t_us: int, now_us: int, quality: Quality) -> TagSample:
        value = None if quality == "bad" else state.value
        state.quality, state.sent_us, state.sent = quality, now_us, value
        return TagSample(index, t_us, value, quality)
