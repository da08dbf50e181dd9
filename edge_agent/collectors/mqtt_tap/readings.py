"""Readings of one batch of messages: values by quality, failures by reason. A failure is told when it begins."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.collectors.plant.messages import Failures, Message, Values
from shared.protocol.messages import Quality


class Readings:
    """Collects what messages say of tags, until it is taken."""

    def __init__(self) -> None:
        self._values: dict[Quality, Values] = {}
        self._failures: dict[str, list[int]] = {}
        self._failed: dict[int, str] = {}

    def add(self, index: int, value: float | str, t_us: int, quality: Quality = "good") -> None:
        """The tag has this value."""
        self._failed.pop(index, None)
        into = self._values.setdefault(quality, Values(t_us=t_us, indexes=[], values=[], quality=quality))
        into.indexes.append(index)
        into.values.append(value)
        into.times_us.append(t_us)

    def fail(self, index: int, reason: str) -> None:
        """The tag has no value."""
        if self._failed.get(index) != reason:
            self._failed[index] = reason
            self._failures.setdefault(reason, []).append(index)

    def repeat_failures(self) -> None:
        """Tell standing failures again, in case a report was lost."""
        self._failed.clear()

    def drain(self) -> Iterator[Message]:
        """What has been added since the last call."""
        values, self._values = self._values, {}
        failures, self._failures = self._failures, {}
        yield from values.values()
        for reason, indexes in failures.items():
            yield Failures(indexes=indexes, reason=reason)
