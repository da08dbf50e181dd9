"""What a producer yields, and the messages between a source process and the agent.

A message is two lengths (four bytes each, little-endian), a MessagePack header and the bytes of a frame.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any, Protocol

import msgspec

from shared.protocol.messages import Color

MAX_FRAME_BYTES = 64 << 20
"""Largest frame that a source hands over, 64 MiB: an 8K image is refused rather than filling a small device."""
_LENGTHS = struct.Struct("<II")


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """An image: `data` is uint8 in row order, channels last, `shape` (height, width, channels), `t_us` of capture.

    `token` identifies it to the collector, for example as a file. `skipped` counts the images so far that the
    producer left out (`max_fps`, `every`).
    """

    t_us: int
    shape: tuple[int, int, int]
    data: bytes | bytearray | memoryview
    color: Color
    token: str = ""
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An input that holds no usable image, such as a broken file: reported once and left out."""

    token: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something for the producer's own collector, handed over in order with the images."""

    kind: str
    data: bytes


Produced = Captured | Skipped | Note | None
"""None: nothing new, but alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of the collector to its producer, such as to write a value."""

    kind: str
    data: bytes


class Producer(Protocol):
    """A generator function. It may block. It raises NotReady when its source is lost, and is then called again."""

    def __call__(self, options: dict[str, Any]) -> Iterator[Produced]:
        """Open the source and yield what it delivers; returns at the end of a file."""
        ...


class InteractiveProducer(Protocol):
    """A Producer that also takes requests of its collector. `requests` is bounded; further ones are left out."""

    def __call__(self, options: dict[str, Any], requests: Queue[Asked]) -> Iterator[Produced]:
        """Like `Producer`. Requests that arrived before the source was opened again are still in the queue."""
        ...


class Spec(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """First message, from the agent: the producer as `module:function`, its options, whether it takes requests."""

    producer: str
    options: dict[str, Any]
    interactive: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An `Asked`, from the agent."""

    kind: str
    data: bytes


class Image(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Header of a `Captured`; the bytes follow."""

    t_us: int
    shape: tuple[int, int, int]
    color: Color
    token: str
    skipped: int


class Remark(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A `Note`."""

    kind: str
    data: bytes


class Omitted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A `Skipped`."""

    token: str
    reason: str


class State(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The source is `up`, was `lost`, or has `ended` (end of a file); `text` says more."""

    state: str
    text: str = ""


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nothing new, but the process is alive."""


Message = Spec | Request | Image | Omitted | Remark | State | Alive
_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def send(channel: socket.socket, message: Message, data: bytes | bytearray | memoryview = b"") -> None:
    """Send a message; blocks while the other side does not read. Raises OSError when it is gone."""
    header = _encoder.encode(message)
    channel.sendall(_LENGTHS.pack(len(header), len(data)) + header)
    if data:
        channel.sendall(data)


def receive(channel: socket.socket) -> tuple[Message, memoryview] | None:
    """The next message with its bytes; None at the end. Raises OSError (a timeout too) and ValueError."""
    head = _read(channel, _LENGTHS.size)
    if head is None:
        return None
    length, size = _LENGTHS.unpack(head)
    if size > MAX_FRAME_BYTES or length > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {length} and {size} bytes")
    header, data = _read(channel, length), _read(channel, size)
    return None if header is None or data is None else (_decoder.decode(header), data)


def _read(channel: socket.socket, size: int) -> memoryview | None:
    """Exactly `size` bytes, or None at the end; the interpreter lock is free while they arrive."""
    whole = memoryview(bytearray(size))
    done = 0
    while done < size:
        got = channel.recv_into(whole[done:])
        if not got:
            return None
        done += got
    return whole.toreadonly()
