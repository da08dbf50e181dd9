"""Collector `modbus` against pymodbus' own server: values, refusals, silence, losses, writes; three transports."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from examiners.collectors import Site, examine_collector
from simulators.brokers import free_port, until
from simulators.modbus_devices import Plc, serial_plc, tcp_plc
from simulators.plant_collectors import Watched, watched

from edge_agent.collectors import Writer, modbus
from edge_agent.config import CollectorTable
from shared.protocol.messages import Event, Sample

FAST = {"default": {"period_s": 0.05}}


@pytest.fixture(scope="module")
def server() -> Iterator[Plc]:
    with tcp_plc(units=(1, 2)) as plc:
        yield plc


@pytest.fixture
def plc(server: Plc) -> Plc:
    server.well()
    server.put(0, *[0] * 200)
    server.put(0, *[0] * 200, unit=2)
    return server


def opened(plc: Plc, tags: list[dict[str, Any]], **options: Any) -> Any:
    given = {"address": f"127.0.0.1:{plc.port}", "groups": FAST, "timeout_s": 1.0} | options
    return watched(modbus.open_collector, "modbus", tags=tags, **given)


def holding(name: str, address: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "table": "holding", "address": address} | more


def floats(*values: float) -> list[int]:
    return list(struct.unpack(f">{2 * len(values)}H", struct.pack(f">{len(values)}f", *values)))


def test_it_passes_the_examiner_of_collectors(plc: Plc) -> None:
    tags = [holding("a", 0, writable=True), holding("gone", 7)]
    plc.missing = {7}
    opened_: list[Any] = []

    def open_collector(table: CollectorTable) -> Any:
        opened_.append(modbus.open_collector(table))
        return opened_[-1]

    def happens() -> None:
        source = opened_[-1].source
        if source._thread is not None:
            until("the tag", lambda: len(source._waiting) > 3)

    options = {"address": f"127.0.0.1:{plc.port}", "groups": FAST, "tags": tags}
    table = CollectorTable(kind="modbus", name="the-plc", period_s=None, options=options)
    examine_collector(
        Site(open_collector=open_collector, table=table, happens=happens, kinds=(Sample, Event), source_times=True)
    )
    assert isinstance(opened_[0], Writer)


def test_values_of_all_types_come_with_scale_unit_and_order(plc: Plc) -> None:
    plc.put(0, 215, 0xFFFE, 0x5678, 0x1234, *floats(1.5), 0b100)
    plc.put(10, *struct.unpack(">3H", b"pump\0\0"))
    tags = [
        holding("temp", 0, scale=0.1, unit="Cel"), holding("level", 1, type="int16"),
        holding("count", 2, type="uint32", word_order="little"), holding("flow", 4, type="float32"),
        holding("alarm", 6, bit=2), holding("off", 6, bit=3), holding("name", 10, type="string", length=3),
        {"name": "first", "address": "40001"}, {"name": "coil", "table": "coil", "address": 16 * 6 + 2},
    ]  # fmt: skip
    with opened(plc, tags) as seen:
        seen.shows("temp", 21.5)
        expected = {
            "level": -2.0, "count": float(0x12345678), "flow": 1.5, "alarm": 1.0, "off": 0.0, "name": "pump",
            "first": 215.0, "coil": 1.0,
        }  # fmt: skip
        for tag, value in expected.items():
            seen.shows(tag, value)
        kinds = {metric.name: metric.kind for metric in seen.collector.metrics}
        assert (kinds["plc/temp"], kinds["plc/name"]) == ("gauge", "state")


@pytest.mark.nightly
def test_neighbours_are_read_with_one_request(plc: Plc) -> None:
    with opened(plc, [holding(f"t{n}", n) for n in range(100)]) as seen:
        seen.shows("t99", 0.0)
        assert {request[1:] for request in plc.requests} == {(3, 0, 100)}


@pytest.mark.nightly
def test_groups_are_read_at_their_own_periods(plc: Plc) -> None:
    tags = [holding("fast", 0), holding("slow", 50, group="slow")]
    with opened(plc, tags, groups=FAST | {"slow": {"period_s": 3600}}) as seen:
        until("some readings", lambda: len(seen.samples("fast")) > 5)
        assert len(seen.samples("slow")) == 1


def test_a_bad_tag_is_parked_and_told_while_the_others_go_on_and_comes_back(plc: Plc) -> None:
    plc.missing = {3}
    with opened(plc, [holding(f"t{n}", n) for n in range(8)]) as seen:
        seen.shows("t3", None, "bad")
        seen.shows("t7", 0.0)
        seen.says("no value of plc/t3: illegal data address (exception 2)")
        assert seen.collector.failures == {3: "illegal data address (exception 2)"}
        plc.missing = set()
        plc.put(3, 33)
        seen.shows("t3", 33.0)
        assert not seen.collector.failures


@pytest.mark.parametrize(("code", "text"), [(1, "illegal function (exception 1)"), (4, "device failure (exception 4)")])
def test_other_refusals_park_tags_too(plc: Plc, code: int, text: str) -> None:
    plc.refusals = {4: code}
    tags = [holding("good", 0), *({"name": f"bad{n}", "table": "input", "address": n} for n in range(3))]
    with opened(plc, tags) as seen:
        seen.says(text)
        seen.shows("bad2", None, "bad")
        seen.shows("good", 0.0)


@pytest.mark.nightly
def test_a_busy_device_is_asked_again_and_nothing_is_parked(plc: Plc) -> None:
    plc.refusals = {3: 6}
    with opened(plc, [holding("a", 0)]) as seen:
        until("requests", lambda: seen.read() or len(plc.requests) > 3)
        plc.refusals = {}
        seen.shows("a", 0.0)
        assert seen.samples("a")[0].quality == "good"


def test_a_register_that_holds_no_number_is_bad(plc: Plc) -> None:
    plc.put(0, 0x7FC0, 0)
    with opened(plc, [holding("a", 0, type="float32")]) as seen:
        seen.shows("a", None, "bad")
        seen.says("no number (NaN or infinite)")
        plc.put(0, *floats(2.5))
        seen.shows("a", 2.5)


def test_a_lost_connection_makes_values_uncertain_then_bad_and_is_restored(plc: Plc) -> None:
    plc.put(0, 5)
    with tcp_plc() as mine:
        mine.put(0, 5)
        with opened(mine, [holding("a", 0)], stale_s=0.2, bad_s=2.0) as seen:
            seen.shows("a", 5.0)
            port = mine.port
            mine.call(mine.server.shutdown())
            seen.says("connection lost")
            seen.shows("a", 5.0, "uncertain")
            seen.shows("a", None, "bad")
            seen.shows("up", 0.0)
            with tcp_plc(port=port) as again:
                again.put(0, 6)
                seen.shows("a", 6.0)
                assert seen.texts.count("connected to") == 1, "the same text at most once a minute"


def test_connections_that_are_cut_in_the_middle_are_opened_again(plc: Plc) -> None:
    with opened(plc, [holding("a", 0)]) as seen:
        seen.shows("a", 0.0)
        plc.cut()
        seen.says("the connection was closed")
        plc.put(0, 9)
        seen.shows("a", 9.0)


@pytest.mark.nightly
def test_an_address_that_nothing_listens_at_is_told(plc: Plc) -> None:
    with opened(plc, [holding("a", 0)], address=f"127.0.0.1:{free_port()}") as seen:
        seen.says("cannot be reached ([Errno 111] Connection refused)")


def test_a_slow_device_loses_readings_that_are_counted_and_no_connection(plc: Plc) -> None:
    plc.slow_s = 0.2
    with opened(plc, [holding("a", 0)]) as seen:
        until("late readings", lambda: (seen.last("late") or (0,))[0] > 0)
        assert seen.last("a") == (0.0, "good")
        assert "lost" not in seen.texts
        assert seen.last("round-trip")[0] >= 0.2  # type: ignore[index]


def test_a_silent_unit_is_suspended_and_the_other_goes_on(plc: Plc) -> None:
    plc.mute = {2}
    tags = [holding("one", 0), *(holding(f"two{n}", 40 * n, unit_id=2) for n in range(4))]
    with opened(plc, tags, timeout_s=0.1) as seen:
        seen.says("unit 2 is asked less often: no answer within 0.1 s")
        seen.forget()
        until("unit 1 goes on", lambda: len(seen.samples("one")) > 5)
        plc.mute = set()
        seen.says("unit 2 answers again")
        seen.shows("two3", 0.0)


@pytest.mark.nightly
def test_when_no_unit_answers_the_connection_is_opened_again(plc: Plc) -> None:
    plc.mute = {1}
    with opened(plc, [holding("a", 0)], timeout_s=0.1) as seen:
        seen.says("connection lost: 127.0.0.1")
        assert "connected" not in seen.texts
        plc.mute = set()
        seen.shows("a", 0.0)
        seen.says("connected to")


def test_a_client_process_that_is_killed_or_hangs_is_started_again(plc: Plc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.collectors.plant.collector.STALL_S", 3.0)
    with opened(plc, [holding("a", 0, writable=True)]) as seen:
        seen.shows("a", 0.0)
        os.kill(seen.collector.source.pid, signal.SIGKILL)
        seen.says("connection lost: the source process ended with -9")
        plc.put(0, 1)
        seen.shows("a", 1.0)
        os.kill(seen.collector.source.pid, signal.SIGSTOP)
        seen.says("said nothing for 3 s")
        plc.put(0, 2)
        seen.shows("a", 2.0)


# -- writing ---------------------------------------------------------------------------------------------

WRITABLE = [
    holding("speed", 0, writable=True, scale=0.1, type="int16"), holding("flow", 2, writable=True, type="float32"),
    holding("bit", 4, writable=True, bit=3), {"name": "coil", "table": "coil", "address": 80, "writable": True},
    holding("recipe", 6, writable=True, type="string", length=4), holding("fixed", 10),
]  # fmt: skip


@pytest.fixture
def writer(plc: Plc) -> Iterator[Watched]:
    with opened(plc, WRITABLE, groups={"default": {"period_s": 0.3}}, verify_s=0.3) as seen:
        seen.shows("fixed", 0.0)
        yield seen


def test_values_are_written_read_back_and_shown(plc: Plc, writer: Watched) -> None:
    plc.put(4, 0b1000_0000_0000_0001)
    for tag, value in {"speed": -12.5, "flow": 0.1, "bit": True, "coil": True, "recipe": "A7"}.items():
        assert writer.write(tag, value) == "", tag
    assert plc.get(0) == [0xFFFF & -125]
    assert plc.get(2, 2) == floats(0.1)
    assert plc.get(4) == [0b1000_0000_0000_1001], "the other bits are left as they are"
    assert plc.get(5)[0] & 1
    writer.shows("speed", -12.5)
    writer.shows("recipe", "A7")


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        ("speed", 4000.0, "40000 does not fit into int16"), ("speed", "fast", "'fast' is text"),
        ("coil", 2.0, "2.0 is no bool"), ("bit", "on", "is no bool"), ("recipe", "123456789", "9 bytes"),
        ("fixed", 1.0, "its tag does not say `writable = true`"), ("none", 1.0, "is not writable"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_written_is_refused_with_the_reason(
    plc: Plc, writer: Watched, tag: str, value: Any, reason: str
) -> None:
    assert reason in writer.write(tag, value)
    assert not [request for request in plc.requests if request[1] not in {1, 3}], "nothing was sent"


def test_a_write_that_the_device_refuses_or_ignores_fails(plc: Plc, writer: Watched) -> None:
    plc.refusals = {6: 3}
    assert writer.write("speed", 1.0) == "the device refused it: illegal data value (exception 3)"
    plc.refusals = {22: 1}
    assert "cannot set single bits (function 22)" in writer.write("bit", True)
    plc.refusals = {}
    plc.ignores_writes = True
    assert writer.write("speed", 1.0) == "read back 0.0, not 1.0"


def test_a_write_without_an_answer_is_told_as_unknown_and_never_repeated(plc: Plc, writer: Watched) -> None:
    plc.refusals, plc.slow_s = {}, 0.0
    plc.mute = {1}
    answer = writer.write("speed", 5.0)
    assert "no answer within 1 s" in answer or "whether it was written is not known" in answer
    plc.mute = set()
    writer.forget()
    writer.shows("speed", 0.0)
    assert sum(request[1] == 6 for request in plc.requests) == 1


def test_nothing_is_written_while_the_connection_is_down(plc: Plc) -> None:
    with opened(plc, WRITABLE, address=f"127.0.0.1:{free_port()}") as seen:
        seen.says("cannot be reached")
        assert seen.write("speed", 1.0) == "the source is not connected: nothing was written"


def test_writes_that_nobody_answers_end_at_their_time_limit(plc: Plc) -> None:
    with opened(plc, WRITABLE, write_timeout_s=0.5) as seen:
        seen.shows("fixed", 0.0)
        os.kill(seen.collector.source.pid, signal.SIGSTOP)
        answers: list[str] = []
        for _ in range(40):
            seen.collector.write("plc/speed", 7.0, answers.append)
        assert answers == ["too many writes are waiting for an answer"] * 8
        until("all are answered", lambda: seen.read() or len(answers) == 40)
        assert "no answer within 0.5 s: whether it was written is not known" in answers[-1]
        os.kill(seen.collector.source.pid, signal.SIGCONT)
        seen.forget()
        until("it reads again", lambda: len(seen.samples("fixed")) > 3)
        assert plc.get(0) == [0], "a write that was given up is not carried out later"


# -- other transports ------------------------------------------------------------------------------------


def test_rtu_through_a_tcp_converter_survives_late_answers() -> None:
    with tcp_plc(rtu=True) as plc:
        plc.put(0, 1, 2)
        tags = [holding("a", 0, writable=True), holding("b", 100, group="other")]
        groups = FAST | {"other": {"period_s": 0.05}}
        with opened(plc, tags, transport="rtu_over_tcp", timeout_s=0.3, groups=groups) as seen:
            seen.shows("a", 1.0)
            plc.slow_s = 0.4
            seen.says("connection lost")
            plc.slow_s = 0.0
            seen.forget()
            until("it reads again", lambda: len(seen.samples("b")) > 3)
            assert {sample.value for sample in seen.samples("b")} == {0.0}, "no late answer was taken for another's"
            assert seen.write("a", 3.0) == ""


def test_a_serial_line_is_read_and_written_and_its_loss_is_told() -> None:
    with serial_plc() as (plc, port):
        plc.put(0, 11)
        with opened(plc, [holding("a", 0, writable=True)], transport="rtu", address=port, parity="none") as seen:
            seen.shows("a", 11.0)
            assert seen.write("a", 12.0) == ""
            assert seen.collector.warnings() == []


@pytest.mark.nightly
def test_a_serial_port_that_is_not_there_is_told_by_check_and_at_run_time(plc: Plc) -> None:
    with opened(plc, [holding("a", 0)], transport="rtu", address="/dev/nothing") as seen:
        (warning,) = seen.collector.warnings()
        assert "/dev/nothing is not there" in warning
        seen.says("/dev/nothing cannot be opened (it is not there)")
