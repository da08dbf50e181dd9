"""The order of one node's messages by seq, with a bounded buffer for those that came too early."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

MODULUS = 256


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came: its topic's type and device are in `topic`, its seq in `payload`."""

    topic: str
    payload: bytes


class Place(Enum):
    """Where a message stands in the order."""

    NEXT = "next"
    EARLY = "early"
    """One before it is missing; it waits."""
    DUPLICATE = "duplicate"
    OVERFLOW = "overflow"
    """One before it is missing, and the buffer is full; or another waits with this seq, and this one is lost."""


class Sequence:
    """Puts the messages that follow an NBIRTH in order.

    A message that is not next may have been overtaken, or those before it are lost: seq alone does not tell. It counts
    as a duplicate only if the last message with its seq had the same content.
    """

    def __init__(self, max_waiting: int, max_bytes: int) -> None:
        self._max_waiting, self._max_bytes = max_waiting, max_bytes
        self._expected = 0
        self._waiting: dict[int, Message] = {}
        self._bytes = 0
        self._seen = array("q")

    @property
    def expected(self) -> int:
        """The seq of the next message."""
        return self._expected

    @property
    def waiting(self) -> int:
        """How many messages wait for one before them."""
        return len(self._waiting)

    def start(self, seq: int, payload: bytes) -> None:
        """An NBIRTH with this seq: everything before it is forgotten."""
        self._seen = array("q", bytes(8 * MODULUS))
        self._waiting.clear()
        self._bytes = 0
        self._advance(seq, payload)

    def offer(self, seq: int, message: Message) -> Place:
        """Where the message stands. After NEXT also take `following`."""
        if seq == self._expected:
            self._advance(seq, message.payload)
            return Place.NEXT
        if self._seen[seq] == hash(message.payload):
            return Place.DUPLICATE
        other = self._waiting.get(seq)
        if other == message:
            return Place.DUPLICATE
        if other is not None:
            return Place.OVERFLOW
        self._waiting[seq] = message
        self._bytes += len(message.payload)
        full = len(self._waiting) > self._max_waiting or self._bytes > self._max_bytes
        return Place.OVERFLOW if full else Place.EARLY

    def following(self) -> Iterator[Message]:
        """Messages that waited and are next now, in order."""
        while (message := self._waiting.pop(self._expected, None)) is not None:
            self._bytes -= len(message.payload)
            self._advance(self._expected, message.payload)
            yield message

    def give_up(self) -> list[Message]:
        """All messages that wait, in order: those before them count as lost."""
        expected = self._expected
        late = sorted(self._waiting.items(), key=lambda one: (one[0] - expected) % MODULUS)
        for seq, message in late:
            self._advance(seq, message.payload)
        self._waiting.clear()
        self._bytes = 0
        return [message for _, message in late]

    def _advance(self, seq: int, payload: bytes) -> None:
        self._seen[seq] = hash(payload)
        self._expected = (seq + 1) % MODULUS
