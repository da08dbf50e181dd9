"""What a client process and its collector tell each other, as MessagePack in `Note` and `Request`.

Tags are named by their index in the tag list. All messages can be repeated; a lost one is made good by the next.
"""

from __future__ import annotations

import contextlib
from queue import Empty, Queue

import msgspec

from edge_agent.clock import monotonic_s
from edge_agent.collectors.sources.protocol import Asked, Note
from shared.protocol.messages import Quality

KIND = "plant"
Value = float | str | bool


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """To or from a client process."""


class Connected(_Message, frozen=True):
    """The source answers."""

    text: str


class Values(_Message, frozen=True):
    """Readings: `values[i]` belongs to the tag `indexes[i]`. `times_us` is empty if all were taken at `t_us`.

    `force`: they are samples whatever the deadband says, as after a write.
    """

    t_us: int
    indexes: list[int]
    values: list[float | str]
    times_us: list[int] = []
    quality: Quality = "good"
    force: bool = False


class Failures(_Message, frozen=True):
    """These tags have no value, for `reason`. Sent when it begins, and again at times while it lasts."""

    indexes: list[int]
    reason: str


class Unchanged(_Message, frozen=True):
    """The tags of this group are subscribed, and the source is alive: no news means no change."""

    group: str


class Statistics(_Message, frozen=True):
    """Since the client process started: requests, those that failed, readings left out; round trip of the last ones."""

    requests: int
    errors: int
    late: int
    round_trip_s: float


class Remarked(_Message, frozen=True):
    """Something a person should know."""

    text: str
    warning: bool = True


class Write(_Message, frozen=True):
    """Set a tag; the value is in the tag's unit. Not after `until_s` on the machine's monotonic clock: its caller has
    been told by then that it failed.
    """

    number: int
    index: int
    value: Value
    until_s: float

    @property
    def expired(self) -> str:
        """Why it must not be carried out any more, or ''."""
        return "" if monotonic_s() < self.until_s else "it waited too long: nothing was written"


class Written(_Message, frozen=True):
    """Outcome of a Write: '' or why it failed."""

    number: int
    reason: str


Message = Connected | Values | Failures | Unchanged | Statistics | Remarked | Write | Written
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def note(message: Message) -> Note:
    """The message as the client process yields it."""
    return Note(kind=KIND, data=_encoder.encode(message))


def encode(message: Message) -> bytes:
    """The message as the collector sends it."""
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """The message; raises msgspec.MsgspecError."""
    return _decoder.decode(data)


def drop_requests(requests: Queue[Asked]) -> None:
    """Forget requests of an earlier connection: their caller has been told that they failed."""
    with contextlib.suppress(Empty):
        while True:
            requests.get_nowait()
