"""Wire messages, one frozen dataclass each. MQTT, REST and both databases use them.

Times are UTC in int64 microseconds (`_us`). `__post_init__` checks ranges and raises ValueError, which msgspec and
FastAPI translate. Readers ignore unknown fields, for forward compatibility. The topic determines the type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.ids import device_id, metric_name

Stream = Literal["alarm", "escalation", "event", "telemetry"]
STREAMS: tuple[Stream, ...] = ("alarm", "escalation", "event", "telemetry")
"""Streams of data, most urgent first; each has its own sequence numbers per epoch."""

Quality = Literal["good", "uncertain", "bad"]
ClockQuality = Literal["synced", "holdover", "unsynced"]
MetricKind = Literal["gauge", "counter", "state", "score"]
Priority = Literal["low", "medium", "high", "critical"]
AlarmKind = Literal["high", "low", "no-data"]
"""`no-data` is used by the hub's anomaly alarms, for a series without samples; a device's alarm has `about` instead."""
About = Literal["", "rate", "no-data", "flat", "expression", "anomaly", "peers", "service", "forecast"]
"""What an alarm is about: '' the value of the metric, `rate` its change per second, `no-data` missing samples, `flat` a
stuck value. On the hub also: its pattern over time (`anomaly`), that pattern compared with other devices (`peers`,
`service`), and a limit that it will probably cross (`forecast`)."""

Life = Literal[
    "normal", "unacknowledged", "acknowledged", "returned-unacknowledged", "shelved", "suppressed", "out-of-service"
]
"""States of an alarm by ISA-18.2: NORM, UNACK, ACKED, RTNUN, SHLVD, DSUPR and OOSRV of the standard."""

Level = Literal["debug", "info", "warning", "error"]
Color = Literal["gray", "rgb", "bgr"]
"""Order of the channels of an image."""
ArrayType = Literal["uint8", "float32"]
EscalationReason = Literal["unsure", "audit", "captured", "drift", "invalid", "no-gate", "no-model", "wrong-model"]
CommandState = Literal["accepted", "running", "succeeded", "failed", "refused", "expired", "cancelled"]
ENDED: frozenset[CommandState] = frozenset({"succeeded", "failed", "refused", "expired", "cancelled"})
"""Final states of a command."""

AppliedState = Literal["received", "applied", "verified", "refused"]


def check_finite(name: str, *values: float | None) -> None:
    """Raise ValueError unless every given number is finite; None means absent and is allowed."""
    for value in values:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value}")


def check_times(*times_us: int) -> None:
    """Raise ValueError unless every time is a UTC microsecond count that fits 64 bits."""
    for t_us in times_us:
        if not 0 <= t_us < 1 << 62:
            raise ValueError(f"{t_us} is no time in microseconds")


def check_counts(name: str, *values: int) -> None:
    """Raise ValueError unless every value is a non-negative integer that fits a 64-bit database column."""
    for value in values:
        if not 0 <= value < 1 << 62:
            raise ValueError(f"{name} must be within 0..2^62-1, not {str(value)[:40]}")


ID_LENGTH, PATH_LENGTH = 128, 1024
"""Maximum length of values that are keys on the hub: a database index allows no more."""


def check_length(name: str, text: str, most: int = ID_LENGTH) -> None:
    """Raise ValueError if `text` is too long for a key."""
    if len(text) > most:
        raise ValueError(f"{name} has {len(text)} characters, at most {most} are allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Metadata of a metric, sent in the birth certificate. `unit` is a UCUM code ('1' without a unit)."""

    name: str
    unit: str = "1"
    kind: MetricKind = "gauge"
    low: float | None = None
    high: float | None = None
    period_s: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        metric_name(self.name)
        check_finite("low/high", self.low, self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A metric's value at a time. Text for state metrics; None only with quality 'bad'."""

    metric: str
    t_us: int
    value: float | str | None
    quality: Quality = "good"

    def __post_init__(self) -> None:
        metric_name(self.metric)
        value, t_us = self.value, self.t_us
        if value is None and self.quality != "bad":
            raise ValueError("a sample without a value must have quality 'bad'")
        # Checked here first: saves two calls for each valid sample.
        if not 0 <= t_us < 1 << 62:
            check_times(t_us)
        if isinstance(value, float) and not math.isfinite(value):
            check_finite("value", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm that was raised or cleared; both messages have the same id.

    `value` and `limit` belong to what the alarm is `about`: a rate per second, or seconds without data or change.
    """

    id: str
    metric: str
    kind: AlarmKind
    state: Literal["raised", "cleared"]
    priority: Priority
    t_us: int
    value: float
    limit: float
    about: About = ""

    def __post_init__(self) -> None:
        check_length("id", self.id)
        metric_name(self.metric)
        check_times(self.t_us)
        check_finite("value/limit", self.value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmStateMessage:
    """State of an alarm on the hub, after a person acknowledged or shelved it: `actor` is that person, `comment` the
    latest comment.
    """

    id: str
    metric: str
    life: Life
    t_us: int
    actor: str = ""
    comment: str = ""
    verdict: str = ""

    def __post_init__(self) -> None:
        metric_name(self.metric)
        check_times(self.t_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event: a log line, a start, a fault."""

    t_us: int
    source: str
    text: str
    level: Level = "info"
    fields: dict[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_times(self.t_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """A model result that the gate did not keep, sent to the hub with its frame.

    `frame` is an image of `shape` (height, width, channels), uint8 in row order, channels last; or a window of metrics
    of `shape` (samples, metrics, 1), float32 in little-endian order. `label` is '' when the edge model gave no result;
    `margin` is in 0..1, for a classifier top1 - top2. `features` are the inputs of the gate's drift tests as the
    device computed them, so that the hub recalibrates with the same values. A `shape` (height, width), as the first
    agents sent it, is that of one channel.
    """

    id: str
    t_us: int
    model: str
    digest: str
    number: int
    reason: EscalationReason
    label: str
    margin: float
    shape: tuple[int, ...]
    frame: bytes
    dtype: ArrayType = "uint8"
    color: Color = "gray"
    features: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_times(self.t_us, self.number)
        for name in ("id", "model", "digest"):
            check_length(name, getattr(self, name))
        check_finite("margin/features", self.margin, *self.features.values())
        if len(self.shape) == 2:
            object.__setattr__(self, "shape", (*self.shape, 1))
        if len(self.shape) != 3:
            raise ValueError(f"shape must be height, width and channels, not {self.shape}")
        size = math.prod(self.shape) * (4 if self.dtype == "float32" else 1)
        if min(self.shape) < 1 or size != len(self.frame):
            raise ValueError(f"frame holds {len(self.frame)} bytes, its shape says {self.shape} of {self.dtype}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationAnswer:
    """The hub's answer to one escalation; `values` are numeric outputs of the expert by name."""

    id: str
    label: str
    confidence: float
    expert: str
    values: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_finite("confidence/values", self.confidence, *self.values.values())


ModelSource = Literal["edge", "expert", "fallback"]
"""Who gave a result: the edge model, the hub's expert, or nobody within the deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What a stream says of one input, for machines on site; the hub does not read it.

    `boxes` are objects with `label`, `score` and `x`, `y`, `w`, `h` as shares of the frame.
    """

    model: str
    number: int
    t_us: int
    label: str
    score: float
    by: ModelSource
    values: dict[str, float] = field(default_factory=dict)
    boxes: list[dict[str, str | float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_times(self.t_us, self.number)
        check_finite("score/values", self.score, *self.values.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Sequence numbers first..last of a stream that were lost on the device, and why; the hub acknowledges them."""

    last: int
    reason: Literal["evicted", "expired", "damaged"]

    def __post_init__(self) -> None:
        check_counts("last", self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Payload of the four data topics: consecutive items of one stream, numbered from `first`.

    Items are untyped here; `codec.ITEM_TYPE` gives their type by stream. A batch holds either items or a `lost` range,
    never both.
    """

    epoch: str
    first: int
    clock: ClockQuality = "synced"
    items: list[Any] = field(default_factory=list)
    lost: Lost | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.first < 1 << 62 or not self.epoch or len(self.epoch) > 32:
            raise ValueError("first must be 1 or more and epoch 1 to 32 characters")
        if bool(self.items) == (self.lost is not None):
            raise ValueError("a batch holds items or a lost range, and just one of them")
        if self.lost is not None and not self.first <= self.lost.last < 1 << 62:
            raise ValueError("a lost range must not end before it begins")

    @property
    def last(self) -> int:
        """Sequence number of the last item, or of the end of the lost range."""
        return self.lost.last if self.lost else self.first + len(self.items) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The hub's acknowledgement, sent after its commit: all of `stream` up to `upto` is durable."""

    epoch: str
    stream: Stream
    upto: int

    def __post_init__(self) -> None:
        check_counts("upto", self.upto)


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """Birth certificate of a device (retained). The device's Will is the same message with state 'offline'.

    `session` is new for each connection, so that a late Will cannot end a newer connection. `acked` is the sequence
    number up to which the device has deleted each stream after an acknowledgement: a hub that was restored from a
    backup must not wait for those items. `protocol` is the newest version that the device supports; a hub ignores
    streams that it does not know. `limits_without_source` are metrics that have a limit or an alarm rule, but no
    collector or model on the device.
    """

    device: str
    session: str
    state: Literal["online", "offline"] = "online"
    t_us: int = 0
    protocol: int = 1
    epoch: str = ""
    profile: str = ""
    version: str = ""
    asset_path: str = ""
    clock: ClockQuality = "synced"
    metrics: list[Metric] = field(default_factory=list)
    acked: dict[str, int] = field(default_factory=dict)
    limits_without_source: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        device_id(self.device)
        check_length("epoch", self.epoch, 32)
        check_times(self.t_us)
        check_counts("protocol", self.protocol)
        check_counts("acked", *self.acked.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The hub's answer to a birth: the hub's epoch, and the last sequence number it stored of each stream (`upto`).

    When the hub epoch has changed, the device resets its twin versions and fetches its documents. `protocol` is the
    version in use, unless the device is `refused`. `heartbeat`: this hub answers heartbeats. `hub_link` identifies the
    hub's connection to the broker: messages sent on an earlier connection may be lost, so the device fetches its
    documents again when it changes; '' (older hubs) always counts as changed. `reads` are the content types that this
    hub accepts in addition to plain JSON.
    """

    hub_epoch: str
    protocol: int
    session: str
    epoch: str
    upto: dict[str, int]
    refused: str = ""
    heartbeat: bool = False
    hub_link: str = ""
    reads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_counts("protocol", self.protocol)
        check_counts("upto", *self.upto.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Progress of one path of desired state. It is not part of the twin document."""

    shadow: str
    version: int
    path: str
    state: AppliedState
    reason: str = ""

    def __post_init__(self) -> None:
        check_counts("version", self.version)
        check_length("shadow", self.shadow)
        check_length("path", self.path, PATH_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequest:
    """Request to run a command once, such as restart, capture or diagnose."""

    id: str
    verb: str
    target: str
    expires_us: int
    args: dict[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_times(self.expires_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCancel:
    """Request to cancel a command. The device stops it if it is still running and always reports its final state.
    A command that it has not received yet is 'cancelled', and a later request with that id is not executed.
    """

    id: str
    expires_us: int

    def __post_init__(self) -> None:
        check_times(self.expires_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """State of a command, sent by the device; a repeated request with the same id gets the first result again.

    While it is running, `progress` is 0..1 (None when the command does not report progress) and `text` describes the
    current activity.
    """

    id: str
    state: CommandState
    t_us: int
    text: str = ""
    output: dict[str, str | float] = field(default_factory=dict)
    progress: float | None = None

    def __post_init__(self) -> None:
        check_times(self.t_us)
        check_finite("progress", self.progress)
        if self.progress is not None and not 0 <= self.progress <= 1:
            raise ValueError(f"progress must be within 0..1, not {self.progress}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Keepalive from a device that has received nothing for a while; the hub answers with the same message.

    `session` is that of the connection, as in the birth: an answer to an older connection is ignored.
    """

    session: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.session) <= 64:
            raise ValueError("session must be 1 to 64 characters")


InferenceClass = Literal["emergency", "normal", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """A device's question to a language model, answered within `deadline_s` or refused.

    `id` is the device's own; a repeated one is not asked twice. With `schema` the answer is JSON of that JSON Schema.
    `model` names a pool of the hub, or "auto".
    """

    id: str
    prompt: str
    system: str = ""
    model: str = "auto"
    request_class: InferenceClass = "normal"
    deadline_s: float = 60.0
    max_tokens: int = 500
    schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_length("id", self.id)
        check_length("model", self.model)
        check_finite("deadline_s", self.deadline_s)
        if not self.id or not self.prompt:
            raise ValueError("id and prompt must not be empty")
        if not 0 < self.deadline_s <= 3600 or not 1 <= self.max_tokens <= 100_000:
            raise ValueError("deadline_s must lie in 0..3600, max_tokens in 1..100000")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceResponse:
    """The answer to an InferenceRequest: `text`, or with state `refused` a `code`, its reason and when to ask again.

    The text is data from a language model: a device must never execute it.
    """

    id: str
    state: Literal["answered", "refused"]
    text: str = ""
    model: str = ""
    code: str = ""
    reason: str = ""
    retry_after_s: float | None = None
    cached: bool = False
