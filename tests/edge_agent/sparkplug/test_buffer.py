"""Store and forward: every change is sent at least once, whatever is lost and when; and which server is next."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.sparkplug.buffer import MAX_PENDING, STREAM, Buffer
from edge_agent.sparkplug.core.naming import Place
from edge_agent.sparkplug.core.reporting import Point
from edge_agent.sparkplug.core.rotation import Rotation
from edge_agent.sparkplug.core.tags import Change
from edge_agent.sparkplug.servers import MAX_MESSAGE, MAX_QUEUED, _Attempt
from edge_agent.store.outbox import Outbox, OutboxFull
from shared.sparkplug.effects import Will
from shared.transport.mqtt import Inbound, Options

RESEND_S = 5.0


def change(number: int) -> Change:
    return Change(Place("", "a"), Point(float(number), 192, number), True)


def numbers(changes: list[Change]) -> list[int]:
    return [one.point.t_ms for one in changes]


def open_buffer(file: Path, resend_s: float = RESEND_S) -> Buffer:
    return Buffer(Outbox(file, 10**7, "e"), resend_s)


def drain(buffer: Buffer, now_s: float) -> list[int]:
    found: list[int] = []
    while (row := buffer.next()) is not None:
        found += numbers(row[0])
        buffer.sent(row[1], now_s)
    return found


def test_what_was_stored_survives_a_restart_in_its_order(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path / "b.sqlite")
    buffer.store([change(1), change(2)])
    assert buffer.waiting == 2
    buffer.commit(0.0)
    buffer = open_buffer(tmp_path / "b.sqlite")  # the old one was killed
    assert (buffer.waiting, drain(buffer, 0.0), buffer.waiting) == (2, [1, 2], 0)


def test_sent_rows_are_deleted_only_after_the_connection_has_lasted(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path / "b.sqlite")
    buffer.store([change(1)])
    buffer.commit(0.0)
    assert drain(buffer, 10.0) == [1]
    buffer.tick(14.0)
    buffer.lost(14.0)
    assert drain(buffer, 20.0) == [1]  # again
    buffer.tick(26.0)
    buffer.lost(26.0)
    assert drain(buffer, 30.0) == []


def test_live_changes_just_before_a_loss_are_sent_again(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path / "b.sqlite")
    buffer.sent_live([change(1)], 0.0)
    buffer.sent_live([change(2)], 8.0)
    buffer.lost(10.0)
    buffer.commit(10.0)
    assert drain(buffer, 11.0) == [2]


def test_a_clean_end_leaves_nothing_to_send_again(tmp_path: Path) -> None:
    buffer = open_buffer(tmp_path / "b.sqlite")
    buffer.store([change(1)])
    buffer.commit(0.0)
    drain(buffer, 1.0)
    buffer.close(connected=True)
    assert drain(open_buffer(tmp_path / "b.sqlite"), 2.0) == []


def test_a_full_disk_bounds_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path / "b.sqlite", 10**7, "e")
    buffer = Buffer(outbox, RESEND_S)

    def full(*_arguments: object) -> None:
        raise OutboxFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "accept", full)
        buffer.store([change(number) for number in range(MAX_PENDING + 7)])
        buffer.commit(0.0)
    assert (buffer.waiting, buffer.dropped) == (MAX_PENDING, 7)
    buffer.commit(1.0)
    assert drain(buffer, 1.0)[0] == 7


def test_the_disk_is_bounded_and_the_oldest_changes_go_first(tmp_path: Path) -> None:
    buffer = Buffer(Outbox(tmp_path / "b.sqlite", 10**6, "e"), RESEND_S)
    for start in range(0, 100_000, 1000):
        buffer.store([change(number) for number in range(start, start + 1000)])
        buffer.commit(float(start))
    assert (tmp_path / "b.sqlite").stat().st_size <= 1_100_000
    found = drain(buffer, 1e6)
    assert found[-1] == 99_999
    assert found == list(range(found[0], 100_000))


def test_a_damaged_row_does_not_block_the_others(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "b.sqlite", 10**7, "e")
    buffer = Buffer(outbox, RESEND_S)
    for number in range(3):
        buffer.store([change(number)])
        buffer.commit(float(number))
    outbox._db.execute("UPDATE rows SET payload=x'00' WHERE first=2")
    outbox._db.execute(f"UPDATE rows SET payload=? WHERE first=1 AND stream='{STREAM}'", (b'{"items": 5}',))
    assert drain(buffer, 9.0) == [2]


acts = st.lists(
    st.tuples(st.sampled_from(["live", "store", "tick", "drain", "lose", "restart"]), st.floats(0.1, 4.0)), max_size=40
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(life=acts)
def test_every_change_that_a_broker_may_have_missed_is_sent_again(
    tmp_path_factory: pytest.TempPathFactory, life: list[tuple[str, float]]
) -> None:
    """A lost connection may have swallowed what was sent in its last RESEND_S seconds: that must be sent once more."""
    file = tmp_path_factory.mktemp("buffer") / "b.sqlite"
    buffer, now_s, number = open_buffer(file), 0.0, 0
    in_doubt: dict[int, float] = {}
    owed: set[int] = set()
    for act, wait_s in life:
        now_s += wait_s
        in_doubt = {one: sent_s for one, sent_s in in_doubt.items() if now_s - sent_s <= RESEND_S}
        if act == "live":
            number += 1
            buffer.sent_live([change(number)], now_s)
            in_doubt[number] = now_s
        elif act == "store":
            number += 1
            buffer.store([change(number)])
            owed.add(number)
        elif act == "drain":
            sent = drain(buffer, now_s)
            owed -= set(sent)
            in_doubt |= dict.fromkeys(sent, now_s)
        elif act == "tick":
            buffer.tick(now_s)
        else:
            buffer.lost(now_s)
            owed |= set(in_doubt)
            in_doubt = {}
            if act == "restart":
                buffer.commit(now_s)
                buffer = open_buffer(file)
    buffer.commit(now_s)
    assert owed <= set(drain(buffer, now_s))


# -- servers -------------------------------------------------------------------------------------------


def test_unreachable_servers_are_tried_in_turn_with_a_growing_wait_after_each_round() -> None:
    rotation, now_s, tried, waits = Rotation(3, lambda: 1.0), 0.0, [], []
    for _ in range(9):
        tried.append(rotation.index)
        rotation.down(now_s, next_server=False)
        waits.append(rotation.at_s - now_s)
        now_s = rotation.at_s
    assert tried == [0, 1, 2] * 3
    assert waits == [0.5, 0.5, 1.0, 0.5, 0.5, 2.0, 0.5, 0.5, 4.0]


def test_a_lost_connection_is_tried_again_at_the_same_server() -> None:
    rotation = Rotation(2, lambda: 1.0)
    rotation.up(0.0)
    rotation.down(100.0, next_server=False)
    assert (rotation.index, rotation.at_s) == (0, 101.0)


def test_without_its_primary_host_the_node_goes_to_the_next_server_and_does_not_spin() -> None:
    rotation, now_s = Rotation(2, lambda: 1.0), 0.0
    for _ in range(20):
        rotation.up(now_s)
        rotation.down(now_s + 0.01, next_server=True)
        now_s = rotation.at_s
    assert now_s > 120
    rotation.up(now_s)
    rotation.down(now_s + 60, next_server=True)  # it had lasted
    assert rotation.at_s - now_s - 60 == 0.5


def test_a_single_server_is_tried_again_with_a_wait() -> None:
    rotation = Rotation(1, lambda: 1.0)
    rotation.down(0.0, next_server=False)
    assert (rotation.index, rotation.at_s) == (0, 1.0)


# -- the queue of what happened ------------------------------------------------------------------------


def test_a_flood_is_dropped_and_does_not_displace_the_state_of_the_host() -> None:
    attempt = _Attempt(
        Options(client_id="a", filters=[]), ("127.0.0.1", 1), Will(topic="a", payload=b"", retain=False), ""
    )
    for _ in range(1000):
        attempt._message(inbound("spBv1.0/plant/NCMD/press-1"))
    attempt._message(inbound("spBv1.0/STATE/scada"))
    attempt._message(inbound("spBv1.0/STATE/scada", b"x" * (MAX_MESSAGE + 1)))
    assert (len(attempt.queue), attempt.dropped) == (MAX_QUEUED + 1, 801)


def inbound(topic: str, payload: bytes = b"") -> Inbound:
    return Inbound(topic=topic, payload=payload, traceparent="", acknowledge=lambda: None)
