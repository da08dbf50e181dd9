"""What waits for the writer: bounded by messages and by bytes, in order, and nobody waits for ever."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
from simulators.brokers import until

from cloud_hub.ingest.queue import IngestQueue


@dataclass(frozen=True)
class Message:
    payload: bytes


def filling(inbox: IngestQueue[Message], sizes: list[int]) -> threading.Thread:
    """Another thread puts messages of these sizes."""
    thread = threading.Thread(target=lambda: [inbox.put(Message(bytes(size))) for size in sizes], daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("sizes", "held"), [([1] * 20, 5), ([400] * 20, 2), ([5000] * 3, 1), ([1, 1, 5000, 1], 2), ([0] * 20, 5)]
)
def test_messages_and_bytes_are_bounded_and_nothing_is_lost(sizes: list[int], held: int) -> None:
    """The bytes of 500 messages of the largest size would else be half a gigabyte."""
    inbox: IngestQueue[Message] = IngestQueue(5, 1000)
    thread = filling(inbox, sizes)
    until("the inbox is full", lambda: len(inbox) == held)
    assert inbox.queued <= 1000 or len(inbox) == 1
    taken = 0
    while taken < len(sizes):
        taken += len(inbox.receive(2, 1 << 20))
        assert len(inbox) <= 5
    thread.join(10)
    assert (taken, inbox.queued) == (len(sizes), 0)


def test_a_batch_ends_with_the_message_that_passes_its_size() -> None:
    inbox: IngestQueue[Message] = IngestQueue(10, 1 << 20)
    filling(inbox, [100, 200, 300, 400]).join(10)
    assert [len(one.payload) for one in inbox.receive(10, 250)] == [100, 200]
    assert [len(one.payload) for one in inbox.receive(1, 1 << 20)] == [300]
    assert [len(one.payload) for one in inbox.receive(10, 1 << 20)] == [400]


def test_who_waits_is_let_go_when_it_is_closed() -> None:
    inbox: IngestQueue[Message] = IngestQueue(1, 1000)
    putting = filling(inbox, [1, 1])
    until("one waits", lambda: len(inbox) == 1)
    inbox.close()
    putting.join(10)
    assert not putting.is_alive()
    assert len(inbox.receive(10, 1000)) == 1
    assert inbox.receive(10, 1000) == []
