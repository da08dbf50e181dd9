"""The interface of collector plug-ins. A new collector is one module and one line in pyproject.toml.

An entry point in group `tidegate.collectors` names a function `open_collector(table)` that reads its options
with `edge_agent.config.options` and returns a Collector. It may raise ConfigError. `collect` may raise
NotReady; the agent calls it again later. A collector never retries, sleeps or starts threads; a source that has to
block (a camera, a broker) is a producer in a process of its own: `edge_agent.collectors.sources`. An optional method
`warnings() -> list[str]` returns warnings for `check`, such as a file that does not exist yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shared.protocol.messages import Color, Event, InferenceRequest, InferenceResponse, Metric, Sample

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image for a model: `data` is uint8 in row order, channels last, `shape` (height, width, channels).

    `number` counts frames of this source; `t_us` is when it was taken.
    """

    source: str
    number: int
    t_us: int
    shape: tuple[int, int, int]
    data: bytes | memoryview
    color: Color = "gray"

    def __post_init__(self) -> None:
        size = len(self.data) if isinstance(self.data, bytes) else self.data.nbytes
        if min(self.shape) < 1 or math.prod(self.shape) != size:
            raise ValueError(f"frame of {self.source} holds {size} bytes, its shape says {self.shape}")
        if self.shape[2] != (1 if self.color == "gray" else 3):
            raise ValueError(f"frame of {self.source} is {self.color} and has {self.shape[2]} channels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Latest samples of several metrics for a model: `data` is float32, native byte order, `shape` (samples, metrics).

    The rows are in order of time; `names` are the metrics of the columns; `t_us` is the time of the last row.
    """

    source: str
    number: int
    t_us: int
    shape: tuple[int, int]
    data: bytes | memoryview
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        size = len(self.data) if isinstance(self.data, bytes) else self.data.nbytes
        if min(self.shape) < 1 or math.prod(self.shape) * FLOAT_BYTES != size:
            raise ValueError(f"window of {self.source} holds {size} bytes, its shape says {self.shape} of float32")
        if len(self.names) != self.shape[1]:
            raise ValueError(f"window of {self.source} has {len(self.names)} names for {self.shape[1]} metrics")


ModelInput = Frame | Window
"""What a model gets."""

Reading = Sample | Event | Frame | Window


class Collector(Protocol):
    """A source of readings on the device that is read periodically."""

    name: str
    period_s: float | None
    """Seconds between readings; None follows the agent's setting `period_s`."""
    metrics: list[Metric]
    """Metadata of its metrics, sent in the birth certificate."""

    def collect(self, now_us: int) -> Iterable[Reading]:
        """Return the current readings. Must return within a fraction of the period."""
        ...

    def close(self) -> None:
        """Release its resources."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """Additional methods of a Collector that resumes at its last position after a restart."""

    def checkpoint(self) -> bytes:
        """The current position; called after each `collect` and stored in the same commit as the readings."""
        ...

    def resume(self, value: bytes) -> None:
        """Continue at the latest stored checkpoint of this collector; called before the first `collect`."""
        ...


@runtime_checkable
class Observer(Protocol):
    """Additional members of a Collector that computes from samples of the device's other collectors."""

    observed: list[str]
    """Names of the metrics that it wants."""

    def observe(self, sample: Sample) -> None:
        """Called with each sample of these metrics, in order; must return at once."""
        ...


OnAnswer = Callable[[InferenceResponse], None]


class Ask(Protocol):
    """Asks a language model of the hub. `on_answer` is called once, in the agent's thread, within the deadline."""

    def __call__(self, request: InferenceRequest, on_answer: OnAnswer) -> None: ...


@runtime_checkable
class Inquirer(Protocol):
    """Additional method of a Collector that asks the hub's language models."""

    def use_questions(self, ask: Ask) -> None:
        """Called before the first `collect`. Answers are data from a language model: never execute them."""
        ...


Value = float | str | bool
"""What a metric of the device can be set to."""


@runtime_checkable
class Writer(Protocol):
    """Additional members of a Collector that can also set metrics of its source, such as registers of a PLC.

    The agent calls `write` only for a metric that a `[[sparkplug.writable]]` rule declares, that a person has enabled
    on this device, and whose rule has just allowed this value. A Writer needs no rules of its own, and never retries.
    """

    writable: list[str]
    """Names of the metrics that can be set; a subset of the names in `metrics`. Constant after construction."""

    def write(self, metric: str, value: Value, on_done: Callable[[str], None]) -> None:
        """Start to set `metric` to `value`, in the unit in which the metric is read; return at once.

        `on_done` is called exactly once, in the agent's thread: with "" when the source has confirmed the write, and
        otherwise with the reason for a person. The agent then reads the value back from the metric's samples.
        A value that the source cannot hold (type, range of the register) is a reason, not an exception.
        """
        ...
