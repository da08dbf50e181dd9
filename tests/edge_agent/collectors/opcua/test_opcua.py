"""Collector `opcua` against asyncua's own server: subscriptions and polling, bad values, losses, security, writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examiners.collectors import Site, examine_collector
from simulators.brokers import free_port, until
from simulators.opcua_servers import URI, Keys, UaPlc, make_keys, ua_plc
from simulators.plant_collectors import Watched, watched

from edge_agent.collectors import Writer, opcua
from edge_agent.config import CollectorTable
from shared.protocol.messages import Event, Sample

VARIABLES: dict[str, tuple[object, str]] = {
    "speed": (5, "Int16"), "temp": (20.5, "Double"), "flow": (1.5, "Float"), "name": ("pump", "String"),
    "zones": ([1.0, 2.0], "Double"), "on": (False, "Boolean"), "count": (7, "UInt32"),
}  # fmt: skip
GROUPS = {"default": {"period_s": 0.1}, "polled": {"period_s": 0.1, "mode": "poll"}}
UNCERTAIN, BAD = 0x408F0000, 0x80310000
"""UncertainNoCommunicationLastUsableValue... and BadNoCommunication, as codes of Part 4."""


@pytest.fixture(scope="module")
def server() -> Iterator[UaPlc]:
    with ua_plc(VARIABLES) as plc:
        yield plc


@pytest.fixture
def plc(server: UaPlc) -> UaPlc:
    for name, (value, _variant) in VARIABLES.items():
        server.put(name, value)
    return server


def tag(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "node": f"ns=2;s={name}"} | more


TAGS = [
    tag("speed", writable=True, scale=0.1), tag("temp", group="polled", unit="Cel"), tag("flow", writable=True),
    tag("name", type="string", writable=True), tag("zones", index=1), tag("on", type="bool", writable=True),
    {"name": "by-uri", "node": f"nsu={URI};s=count", "group": "polled"},
]  # fmt: skip


def opened(plc: UaPlc, tags: list[dict[str, Any]], **options: Any) -> Any:
    given = {"url": plc.url, "groups": GROUPS, "timeout_s": 2.0} | options
    return watched(opcua.open_collector, "opcua", tags=tags, **given)


def test_it_passes_the_examiner_of_collectors(plc: UaPlc) -> None:
    opened_: list[Any] = []

    def open_collector(table: CollectorTable) -> Any:
        opened_.append(opcua.open_collector(table))
        return opened_[-1]

    def happens() -> None:
        source = opened_[-1].source
        if source._thread is not None:
            until("tags", lambda: len(source._waiting) > 3)

    options = {"url": plc.url, "groups": GROUPS, "tags": TAGS}
    table = CollectorTable(kind="opcua", name="the-plc", period_s=None, options=options)
    examine_collector(
        Site(open_collector=open_collector, table=table, happens=happens, kinds=(Sample, Event), source_times=True)
    )
    assert isinstance(opened_[0], Writer)


def test_values_are_subscribed_and_polled_and_bad_ones_told(plc: UaPlc) -> None:
    tags = [*TAGS, tag("gone"), tag("lost", group="polled"), {"name": "alien", "node": "nsu=http://x;i=5"}]
    with opened(plc, tags) as seen:
        expected = {"speed": 0.5, "temp": 20.5, "flow": 1.5, "name": "pump", "zones": 2.0, "on": 0.0, "by-uri": 7.0}
        for name, value in expected.items():
            seen.shows(name, value)
        for name in ("gone", "lost", "alien"):
            seen.shows(name, None, "bad")
        seen.says("no value of plc/gone: cannot be subscribed: BadNodeIdUnknown")
        seen.says("no value of plc/lost: BadNodeIdUnknown")
        seen.says("no value of plc/alien: the server has no namespace http://x")
        plc.put("speed", 70)
        plc.put("temp", 30.0)
        seen.shows("speed", 7.0)
        seen.shows("temp", 30.0)
        plc.put("flow", float("nan"))
        seen.shows("flow", None, "bad")
        plc.put("flow", 2.5)
        seen.shows("flow", 2.5)
        plc.put("speed", 80, UNCERTAIN)
        seen.shows("speed", 8.0, "uncertain")
        plc.put("temp", 31.0, BAD)
        seen.shows("temp", None, "bad")
        seen.says("BadNoCommunication")


@pytest.mark.nightly
def test_a_value_that_never_changes_stays_good_while_its_server_lives(plc: UaPlc) -> None:
    with opened(plc, [tag("speed")], stale_s=1.0, resend_s=1.0) as seen:
        seen.shows("speed", 5.0)
        seen.forget()
        until("it is sent again", lambda: len(seen.samples("speed")) > 3)
        assert {sample.quality for sample in seen.samples("speed")} == {"good"}


def test_a_server_that_dies_in_the_middle_is_found_again_with_its_subscriptions(plc: UaPlc) -> None:
    with opened(plc, [tag("speed")], stale_s=0.3, bad_s=2.0) as seen:
        seen.shows("speed", 5.0)
        plc.die()
        try:
            seen.says("connection lost")
            seen.shows("speed", 5.0, "uncertain")
            seen.shows("speed", None, "bad")
        finally:
            plc.rise()
        seen.shows("speed", 5.0)
        plc.put("speed", 7)
        seen.shows("speed", 7.0)


@pytest.mark.nightly
def test_a_server_that_answers_nothing_is_lost_and_found_again(plc: UaPlc) -> None:
    with opened(plc, [tag("temp", group="polled")], timeout_s=0.5) as seen:
        seen.shows("temp", 20.5)
        plc.pause(1.5)
        seen.says("connection lost")
        plc.put("temp", 22.0)
        seen.shows("temp", 22.0)


def test_a_connection_that_is_cut_and_a_process_that_is_killed_are_replaced(plc: UaPlc) -> None:
    with opened(plc, [tag("speed")]) as seen:
        seen.shows("speed", 5.0)
        plc.cut()
        seen.says("connection lost: opc.tcp://")
        plc.put("speed", 6)
        seen.shows("speed", 6.0)
        os.kill(seen.collector.source.pid, signal.SIGKILL)
        seen.says("ended with -9")
        plc.put("speed", 7)
        seen.shows("speed", 7.0)


@pytest.mark.nightly
def test_an_address_that_nothing_listens_at_is_told(plc: UaPlc) -> None:
    with opened(plc, [tag("speed")], url=f"opc.tcp://127.0.0.1:{free_port()}") as seen:
        seen.says("cannot be opened (ConnectionRefusedError")
        assert seen.write("speed", 1.0).endswith("its tag does not say `writable = true`")


@pytest.mark.nightly
def test_the_time_of_the_server_is_taken_where_it_is_wanted(plc: UaPlc) -> None:
    with opened(plc, [tag("speed"), tag("temp", group="polled")], timestamps="source") as seen:
        seen.shows("speed", 5.0)
        seen.shows("temp", 20.5)
        until("two readings", lambda: len(seen.samples("temp")) > 2)
        times = {sample.t_us for sample in seen.samples("temp")}
        assert len(times) == 1, "the value was set once"


# -- security --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "password").write_text("correct\n")
    (folder / "wrong").write_text("wrong\n")
    return make_keys(folder)


@pytest.fixture(scope="module")
def secure(keys: Keys) -> Iterator[UaPlc]:
    with ua_plc({"speed": (5, "Int16")}, keys=keys, anonymous=False) as plc:
        yield plc


def signed(keys: Keys, **more: str) -> dict[str, str]:
    return {
        "security_policy": "Basic256Sha256", "certificate": keys.path("client.der"), "key": keys.path("client-key.pem"),
        "server_certificate": keys.path("server.der"), "user": "operator", "password_file": keys.path("password"),
    } | more  # fmt: skip


def test_an_encrypted_session_is_signed_in_with_the_password_of_a_file(secure: UaPlc, keys: Keys) -> None:
    with opened(secure, [tag("speed", writable=True)], **signed(keys)) as seen:
        seen.shows("speed", 5.0)
        assert seen.write("speed", 6.0) == ""
        assert seen.collector.warnings() == []
        assert "correct" not in repr(vars(seen.collector.source)), "the password stays in its file"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"password_file": "wrong"}, "BadUserAccessDenied"), ({"server_certificate": "client.der"}, "cannot be opened"),
        pytest.param({"password_file": "none"}, "cannot be read", marks=pytest.mark.nightly),
        pytest.param({"key": "wrong"}, "PEM or DER files", marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_what_does_not_authenticate_is_told_and_nothing_is_read(
    secure: UaPlc, keys: Keys, change: dict[str, str], told: str
) -> None:
    files = {name: keys.path(value) for name, value in change.items()}
    with opened(secure, [tag("speed")], **signed(keys, **files)) as seen:
        seen.says(told)
        assert not seen.samples("speed")
        assert "wrong" not in seen.texts.replace(str(Path(keys.folder)), "").replace("/wrong", "")


def test_check_warns_of_a_server_without_security(plc: UaPlc) -> None:
    with opened(plc, [tag("speed")]) as seen:
        (warning,) = seen.collector.warnings()
        assert "Set `security_policy`" in warning


# -- writing ---------------------------------------------------------------------------------------------


@pytest.fixture
def writer(plc: UaPlc) -> Iterator[Watched]:
    with opened(plc, TAGS) as seen:
        seen.shows("on", 0.0)
        yield seen


def test_values_are_written_read_back_and_refused_with_the_reason(plc: UaPlc, writer: Watched) -> None:
    for name, value in {"speed": -12.5, "flow": 0.1, "on": True, "name": "A7"}.items():
        assert writer.write(name, value) == "", name
    assert plc.get("speed") == -125
    assert plc.get("on") is True
    writer.shows("speed", -12.5)
    writer.shows("name", "A7")
    refused = {
        ("speed", 4000.0): "40000 does not fit into Int16", ("speed", "fast"): "'fast' is text",
        ("on", 2.0): "is no bool", ("name", 1.0): "is no text", ("temp", 1.0): "is not writable",
    }  # fmt: skip
    for (name, value), reason in refused.items():
        assert reason in writer.write(name, value)
    assert plc.get("speed") == -125
    plc.call(plc.nodes["flow"].set_read_only())
    assert writer.write("flow", 9.0) in {
        f"the server refused it: Bad{why}" for why in ("UserAccessDenied", "NotWritable")
    }
    plc.call(plc.nodes["flow"].set_writable())
