"""The nouns that travel. One frozen dataclass a wire thing: MQTT, REST and both databases share it.

Times are UTC in int64 microseconds (`_us`). Ranges are checked in `__post_init__` with ValueError,
which msgspec and FastAPI both honour. Unknown fields are ignored by readers: room to grow.
The topic names the type, never the payload.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.ids import device_id, metric_name

Stream = Literal["alarm", "escalation", "event", "telemetry"]
STREAMS: tuple[Stream, ...] = ("alarm", "escalation", "event", "telemetry")
"""Classes of delivery, most urgent first; each has its own sequence per epoch."""

Quality = Literal["good", "uncertain", "bad"]
ClockQuality = Literal["synced", "holdover", "unsynced"]
MetricKind = Literal["gauge", "counter", "state", "score"]
Priority = Literal["low", "medium", "high", "critical"]
AlarmKind = Literal["high", "low", "no-data"]
"""`no-data` is of anomalies alone, where the hub hears nothing of a series; a device's own is `about` it."""
About = Literal["", "rate", "no-data", "flat", "expression", "anomaly", "peers", "service", "forecast"]
"""What of a metric an alarm is about: '' its value, or its change per second, its silence, its standing still; at the
hub also its whole course (`anomaly`), that course beside other devices (`peers`, `service`), and a limit that it will
probably cross (`forecast`)."""

Life = Literal[
    "normal", "unacknowledged", "acknowledged", "returned-unacknowledged", "shelved", "suppressed", "out-of-service"
]
"""States of an alarm by ISA-18.2: NORM, UNACK, ACKED, RTNUN, SHLVD, DSUPR and OOSRV of the standard."""

Level = Literal["debug", "info", "warning", "error"]
EscalationReason = Literal["unsure", "audit", "captured", "drift", "invalid", "no-gate", "no-model", "wrong-model"]
CommandState = Literal["accepted", "running", "succeeded", "failed", "refused", "expired", "cancelled"]
ENDED: frozenset[CommandState] = frozenset({"succeeded", "failed", "refused", "expired", "cancelled"})
"""States of a command after which no other comes."""

AppliedState = Literal["received", "applied", "verified", "refused"]


def check_finite(name: str, *values: float | None) -> None:
    """Raise ValueError unless every given number is finite; None means absent and is fine."""
    for value in values:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value}")


def check_times(*times_us: int) -> None:
    """Raise ValueError unless every time is a UTC microsecond count that fits 64 bits."""
    for t_us in times_us:
        if not 0 <= t_us < 1 << 62:
            raise ValueError(f"{t_us} is no time in microseconds")


def whole(name: str, *values: int) -> None:
    """Raise ValueError unless every value is a whole number from 0 on that a 64-bit column of a database can hold."""
    for value in values:
        if not 0 <= value < 1 << 62:
            raise ValueError(f"{name} must be within 0..2^62-1, not {str(value)[:40]}")


ID_LENGTH, PATH_LENGTH = 128, 1024
"""Characters of what is a key at the hub, at most: a database's index takes no more."""


def short(name: str, text: str, most: int = ID_LENGTH) -> None:
    """Raise ValueError unless `text` can be a key."""
    if len(text) > most:
        raise ValueError(f"{name} has {len(text)} characters, at most {most} are allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a metric is; told once, in the birth. `unit` is a UCUM code ('1' without a unit)."""

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
        # Asked here first: two calls less for each of the many good ones.
        if not 0 <= t_us < 1 << 62:
            check_times(t_us)
        if isinstance(value, float) and not math.isfinite(value):
            check_finite("value", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A limit crossed (`raised`) or left again (`cleared`); both carry the id given when it was raised.

    `value` and `limit` are of what it is `about`: of a rate per second, of silence and standing still in seconds.
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
        short("id", self.id)
        metric_name(self.metric)
        check_times(self.t_us)
        check_finite("value/limit", self.value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmStateMessage:
    """What people have made of an alarm, told by the hub: `who` did it, `comment` is the last one given."""

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
    """Something that happened: a log line, a start, a fault."""

    t_us: int
    source: str
    text: str
    level: Level = "info"
    fields: dict[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_times(self.t_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """A result that the gate would not keep, with its evidence.

    `frame` is `shape` (height, width) uint8 grey values in row order; `label` is '' when the
    edge model gave no answer; `margin` is top1 - top2 in 0..1. `features` are the numbers that the
    gate's drift panel watches, as the device computed them, so that the hub recalibrates on the same ones.
    """

    id: str
    t_us: int
    model: str
    digest: str
    number: int
    reason: EscalationReason
    label: str
    margin: float
    shape: tuple[int, int]
    frame: bytes
    features: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_times(self.t_us, self.number)
        for name in ("id", "model", "digest"):
            short(name, getattr(self, name))
        check_finite("margin/features", self.margin, *self.features.values())
        if min(self.shape) < 1 or self.shape[0] * self.shape[1] != len(self.frame):
            raise ValueError(f"frame holds {len(self.frame)} bytes, its shape says {self.shape}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationAnswer:
    """The hub's answer to one escalation."""

    id: str
    label: str
    confidence: float
    expert: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Rows first..last of a stream that will never come, and why; the acknowledgement passes over them."""

    last: int
    reason: Literal["evicted", "expired", "damaged"]

    def __post_init__(self) -> None:
        whole("last", self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the four data topics carry: consecutive items of one stream, numbered from `first`.

    Items are raw here; whoever stores them gives them their type by stream (`codec.ITEM_TYPE`). A batch holds
    either items or a `lost` range, never both.
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
    """The hub's own acknowledgement, sent after its commit: all of `stream` up to `upto` is durable."""

    epoch: str
    stream: Stream
    upto: int

    def __post_init__(self) -> None:
        whole("upto", self.upto)


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """A device's retained word about itself; its Will is the same with state 'offline'.

    `session` is new for each connection, so that a late Will cannot end a newer connection. `acked` is up to
    where the device has deleted each stream, on a hub's word: a hub that forgot cannot wait for those again.
    `protocol` is the newest version that it speaks; a hub passes over streams that it does not know.
    `limits_without_source` are metrics that a limit or watch waits for and that nothing on the device gives.
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
        short("epoch", self.epoch, 32)
        check_times(self.t_us)
        whole("protocol", self.protocol)
        whole("acked", *self.acked.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The hub's answer to a birth: its own epoch, and up to where it holds each stream of the device's epoch.

    A changed hub epoch tells the device to forget twin versions and to fetch its documents. `protocol` is the version
    that both speak, where they are not `refused`. `heartbeat`: this hub answers heartbeats. `hub_link` names the hub's
    own connection to the broker: what it said on another one may not have arrived, so documents are fetched again; ''
    (a hub of old) is always another one. `reads` are the content types that this hub reads beside plain JSON.
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
        whole("protocol", self.protocol)
        whole("upto", *self.upto.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Progress of one path of desired state; lives beside the twin document, never inside it."""

    shadow: str
    version: int
    path: str
    state: AppliedState
    reason: str = ""

    def __post_init__(self) -> None:
        whole("version", self.version)
        short("shadow", self.shadow)
        short("path", self.path, PATH_LENGTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequest:
    """A verb without a lasting state: restart, capture, diagnose."""

    id: str
    verb: str
    target: str
    expires_us: int
    args: dict[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_times(self.expires_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCancel:
    """The hub gives a command up. The device ends it, if it still runs, and says in any case how it ended;
    one that it never heard of is 'cancelled', and a request of that id that comes later is not carried out.
    """

    id: str
    expires_us: int

    def __post_init__(self) -> None:
        check_times(self.expires_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """The device's word on one command; repeated requests of one id get the first result again.

    While it runs: how far it is (`progress`, 0..1, None when the verb does not tell) and, in `text`, what it does.
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
    """A device whose link was silent asks whether anybody hears it; the hub's answer is the same message.

    `session` is the connection's, as in its birth: an answer to an older connection proves nothing.
    """

    session: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.session) <= 64:
            raise ValueError("session must be 1 to 64 characters")
