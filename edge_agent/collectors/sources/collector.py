"""The collector around a background source: frames, events about the source, and its metrics."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.collectors import Frame, Reading
from edge_agent.collectors.sources.process import Arrived, BackgroundSource
from edge_agent.collectors.sources.protocol import Captured, Skipped, State
from edge_agent.config import CollectorTable
from shared.errors import ConfigError
from shared.ids import metric_name
from shared.protocol.messages import Event, Level, Metric, Sample

METRICS_PERIOD_US = 5_000_000
MAX_EVENTS = 100
"""Different events within REPEAT_US; with texts of foreign machines there could be any number."""
REPEAT_US = 60_000_000
"""An event with the same text is sent at most once in this time."""


def source_metrics(name: str) -> list[Metric]:
    """Metadata of the metrics of a background source; raises ValueError for a name that no metric may have."""
    return [
        Metric(name=metric_name(f"{name}/up"), unit="1", low=0, high=1, description="1: the source delivers"),
        Metric(name=f"{name}/fps", unit="Hz", low=0, description="frames handed to the models a second"),
        Metric(name=f"{name}/dropped", kind="counter", description="frames replaced by a newer one before their turn"),
        Metric(name=f"{name}/skipped", kind="counter", description="images left out by max_fps and every"),
        Metric(name=f"{name}/unusable", kind="counter", description="inputs that hold no image"),
        Metric(name=f"{name}/restarts", kind="counter", description="starts of its process after the first"),
    ]


class BackgroundCollector:
    """Hands over the frames of a background source, which is started by the first `collect`."""

    background = True
    """`check` waits for the first frame of such a collector."""

    def __init__(self, table: CollectorTable, source: BackgroundSource, period_s: float) -> None:
        self.name, self.period_s = table.name, period_s
        try:
            self.metrics = source_metrics(table.name)
        except ValueError as error:
            raise ConfigError(
                f"collector '{table.name}'.name", str(error), "It begins the names of its metrics"
            ) from error
        self.source, self._number = source, 0
        self._up, self._sent_us, self._sent_number = False, 0, 0
        self._events: dict[str, int] = {}

    def collect(self, now_us: int) -> Iterator[Reading]:
        """Yield what has arrived; never blocks."""
        self.source.start()
        for item in self.source.take():
            yield from self._arrived(item, now_us)
        self._sent_us = self._sent_us or now_us
        if not 0 <= now_us - self._sent_us < METRICS_PERIOD_US:
            yield from self._samples(now_us)

    def _arrived(self, item: Arrived, now_us: int) -> Iterator[Reading]:
        """What one item means to the models and the hub; a collector of its own kind may override it."""
        if isinstance(item, Captured):
            self._up = True
            yield self._frame(item)
        elif isinstance(item, Skipped):
            yield from self._unusable(item, now_us)
        elif isinstance(item, State):
            yield from self._state(item, now_us)

    def _frame(self, item: Captured) -> Frame:
        data = item.data if isinstance(item.data, (bytes, memoryview)) else bytes(item.data)
        frame = Frame(
            source=self.name, number=self._number, t_us=item.t_us, shape=item.shape, data=data, color=item.color
        )
        self._number += 1
        return frame

    def _unusable(self, item: Skipped, now_us: int) -> Iterator[Event]:
        text = f"{item.token}: {item.reason}" if item.token else item.reason
        yield from self._event(f"image left out: {text}", "warning", now_us)

    def _state(self, state: State, now_us: int) -> Iterator[Reading]:
        self._up = state.state == "up"
        if state.state == "lost":
            yield from self._event(f"source lost: {state.text}", "warning", now_us)
        else:
            yield from self._event(f"source {state.state}{': ' * bool(state.text)}{state.text}", "info", now_us)

    def _event(self, text: str, level: Level, now_us: int) -> Iterator[Event]:
        """An event, unless there was an equal one, or too many. The text may come from a foreign machine."""
        self._events = {old: t_us for old, t_us in self._events.items() if 0 <= now_us - t_us < REPEAT_US}
        if text in self._events or len(self._events) > MAX_EVENTS:
            return
        if len(self._events) == MAX_EVENTS:
            text, level = "further events are left out for a while: there are too many", "warning"
        self._events[text] = now_us
        shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text[:2000])
        yield Event(t_us=now_us, source=self.name, text=shown, level=level)

    def _samples(self, now_us: int) -> Iterator[Sample]:
        seconds = (now_us - self._sent_us) / 1e6
        counts = self.source.counts
        values = {
            "up": self._up, "fps": (self._number - self._sent_number) / max(1.0, seconds),
            "dropped": counts.dropped, "skipped": counts.skipped, "unusable": counts.unusable,
            "restarts": counts.restarts,
        }  # fmt: skip
        self._sent_us, self._sent_number = now_us, self._number
        for name, value in values.items():
            yield Sample(metric=f"{self.name}/{name}", t_us=now_us, value=float(value))

    def close(self) -> None:
        """End the source process."""
        self.source.close()
