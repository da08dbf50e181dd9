"""Remote write: what is stored under which names, sent again or out of order; what is refused, and how."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators.actions import action_service
from simulators.remote_write import HEADERS, STALE, block, message, part, request, varint
from simulators.rest_app import RestApp
from sqlmodel import select

from cloud_hub import clock
from cloud_hub.access import tokens
from cloud_hub.api.dependencies import Hub
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, PrometheusSeries, TelemetrySample
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.prometheus import remote_write
from cloud_hub.prometheus.core import naming, protobuf
from cloud_hub.prometheus.remote_write import MAX_COMPRESSED, RemoteWriteReceiver
from cloud_hub.settings import Prometheus, Settings
from shared.errors import NotReady
from shared.ids import device_id, metric_name

NOW = 1_800_000_000_000_000
MS = NOW // 1000
LOAD = {"__name__": "node_load1", "instance": "web-1:9100", "job": "node"}


@pytest.fixture
def into(db: Database) -> RemoteWriteReceiver:
    return RemoteWriteReceiver(db, 1000)


def put(into: RemoteWriteReceiver, *series: Any, sender: str = "prom", scope: Any = None) -> remote_write.Outcome:
    return into.write(request(*series), sender, scope, NOW, "")


def samples(db: Database) -> list[tuple[str, str, int, float | None, str]]:
    with db.read() as session:
        rows = session.exec(
            select(TelemetrySample).order_by(TelemetrySample.device, TelemetrySample.metric, TelemetrySample.t_us)
        )  # type: ignore[arg-type]
        return [(row.device, row.metric, row.t_us - NOW, row.value, row.quality) for row in rows]


def names(db: Database) -> dict[tuple[str, str], Mapping[str, str]]:
    with db.read() as session:
        return {(row.device, row.metric): row.labels for row in session.exec(select(PrometheusSeries))}


def test_a_series_becomes_a_metric_of_a_device(db: Database, into: RemoteWriteReceiver) -> None:
    cpu = {**LOAD, "__name__": "node_cpu_seconds_total", "cpu": "0", "mode": "idle"}
    outcome = put(into, (LOAD, [(MS, 1.5), (MS + 15_000, 2.5)]), (cpu, [(MS, 100.0)]))
    assert (outcome.stored, outcome.invalid) == (3, 0)
    assert samples(db) == [
        ("web-1", "node/node_cpu_seconds_total/cpu-0/mode-idle", 0, 100.0, "good"),
        ("web-1", "node/node_load1", 0, 1.5, "good"), ("web-1", "node/node_load1", 15_000_000, 2.5, "good"),
    ]  # fmt: skip
    with db.read() as session:
        device = device_registry.get_device(session, "web-1")
        assert {one["name"]: one["kind"] for one in device.metrics} == {
            "node/node_load1": "gauge", "node/node_cpu_seconds_total/cpu-0/mode-idle": "counter",
        }  # fmt: skip
        assert device.profile == "prometheus"
        assert {row.actor for row in trail.rows(session, kind="device.registered")} == {"prom"}


def test_sent_again_or_out_of_order_it_is_the_same(db: Database, into: RemoteWriteReceiver) -> None:
    put(into, (LOAD, [(MS + 30_000, 3.0)]))
    put(into, (LOAD, [(MS, 1.0), (MS + 15_000, 2.0)]), (LOAD, [(MS, 9.0)]))
    again = put(into, (LOAD, [(MS, 1.0), (MS + 15_000, 2.0), (MS + 30_000, 3.0), (MS + 45_000, 4.0)]))
    assert again.stored == 1
    assert [row[2:4] for row in samples(db)] == [(0, 1.0), (15_000_000, 2.0), (30_000_000, 3.0), (45_000_000, 4.0)]


def test_stale_markers_and_what_is_no_number_are_no_values(db: Database, into: RemoteWriteReceiver) -> None:
    put(into, (LOAD, [(MS, 1.0), (MS + 1, STALE), (MS + 2, math.nan), (MS + 3, math.inf), (MS + 4, -0.0)]))
    assert [row[3:] for row in samples(db)] == [
        (1.0, "good"), (None, "bad"), (None, "bad"), (None, "bad"), (0.0, "good"),
    ]  # fmt: skip


def test_series_that_want_one_name_are_told_apart_for_good(db: Database, into: RemoteWriteReceiver) -> None:
    disk = {**LOAD, "__name__": "free"}
    one, two, three = disk | {"dev": "/a"}, disk | {"dev": "-a"}, disk | {"Dev": "-a"}
    put(into, (one, [(MS, 1.0)]))
    put(into, (two, [(MS, 2.0)]), (one, [(MS + 1, 1.0)]), (three, [(MS, 3.0)]))
    found = names(db)
    assert len(found) == 3
    assert found["web-1", "node/free/dev--a"]["dev"] == "/a"
    assert all(name.startswith("node/free/dev--a") for _, name in found)
    assert sorted(row[3] for row in samples(db)) == [1.0, 1.0, 2.0, 3.0]


def test_hosts_that_want_one_id_are_told_apart_and_an_agents_device_is_its_own(
    db: Database, into: RemoteWriteReceiver
) -> None:
    with db.write() as session:
        session.add(Device(id="web-1", profile="x86-64"))
    put(into, (LOAD, [(MS, 1.0)]), ({**LOAD, "instance": "web.1:9100"}, [(MS, 2.0)]))
    put(into, (LOAD, [(MS, 3.0)]), sender="other")
    devices = {row[0] for row in samples(db)}
    assert len(devices) == 3
    assert "web-1" not in devices
    assert all(one.startswith("web-1-") for one in devices)


def test_ports_of_one_host_are_one_device_and_replicas_are_one_series(db: Database, into: RemoteWriteReceiver) -> None:
    put(into, (LOAD | {"prometheus_replica": "a"}, [(MS, 1.0)]), (LOAD | {"prometheus_replica": "b"}, [(MS, 1.0)]))
    put(into, ({"__name__": "up", "instance": "web-1:8080", "job": "app"}, [(MS, 1.0)]))
    assert [row[:2] for row in samples(db)] == [("web-1", "app/up"), ("web-1", "node/node_load1")]


LABEL = st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}\Z"), st.text(min_size=1, max_size=200), max_size=5)


@given(LABEL, st.text(max_size=80), st.text(max_size=80))
def test_any_labels_make_good_names(more: dict[str, str], instance: str, job: str) -> None:
    labels = more | {"__name__": "a:b_total", "instance": instance, "job": job}
    try:
        checked = naming.validate_labels(list(labels.items()))
    except ValueError:
        return
    device_id(naming.device(naming.host(checked)))
    metric_name(naming.metric(checked))
    metric_name(naming.disambiguate(naming.metric(checked), naming.digest(checked), naming.METRIC_MOST))
    device_id(naming.disambiguate(naming.device(naming.host(checked)), naming.digest("s"), naming.DEVICE_MOST))


@given(LABEL, LABEL)
def test_digests_differ_where_labels_do(one: dict[str, str], two: dict[str, str]) -> None:
    assert (naming.digest("s", one) == naming.digest("s", two)) == (one == two)


def test_samples_of_a_removed_device_are_refused_until_it_is_restored(db: Database, into: RemoteWriteReceiver) -> None:
    put(into, (LOAD, [(MS, 1.0)]))
    other = {**LOAD, "instance": "web-9"}
    with db.write() as session:
        decommissioning.remove(session, "web-1", NOW, actor="anna")
    outcome = put(into, (LOAD, [(MS + 1, 2.0)]), ({**LOAD, "__name__": "new"}, [(MS, 1.0)]), (other, [(MS, 1.0)]))
    assert (outcome.stored, outcome.invalid) == (1, 2), "nobody else's are lost"
    assert "'web-1' was removed" in outcome.reason
    with db.write() as session:
        decommissioning.restore(session, "web-1", NOW, actor="anna")
    assert put(into, (LOAD, [(MS + 1, 2.0)])).stored == 1
    assert [row[0] for row in samples(db)] == ["web-1", "web-1", "web-9"]


def test_a_scope_holds_for_senders_too(db: Database, into: RemoteWriteReceiver) -> None:
    put(into, (LOAD, [(MS, 1.0)]), scope=("acme/a",))
    put(into, (LOAD, [(MS, 1.0)]), sender="b", scope=("acme/b",))
    with db.write() as session:
        rows = {row.id: row.assigned_path for row in device_registry.list_devices(session)}
        assert sorted(rows.values()) == ["acme/a", "acme/b"]
        device_registry.assign_asset_path(session, "web-1", "acme/c", NOW, within=None, actor="anna")
    outcome = put(into, (LOAD, [(MS + 1, 1.0)]), ({**LOAD, "instance": "web-9"}, [(MS, 1.0)]), scope=("acme/a",))
    assert (outcome.stored, outcome.invalid) == (1, 1)
    assert "beyond the token's scope" in outcome.reason
    with pytest.raises(HubError, match="one scope"):
        put(into, ({**LOAD, "instance": "web-7"}, [(MS, 1.0)]), scope=("acme/a", "acme/b"))


def test_there_is_an_end_to_new_series_and_the_known_ones_go_on(db: Database) -> None:
    into = RemoteWriteReceiver(db, 2)
    outcome = put(into, *(({**LOAD, "n": str(n)}, [(MS, float(n))]) for n in range(5)))
    assert (outcome.stored, outcome.invalid) == (2, 3)
    assert "prometheus.max_series" in outcome.reason
    assert put(into, ({**LOAD, "n": "0"}, [(MS + 1, 0.0)])).stored == 1


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"instance": "a"}, "__name__"), ({**LOAD, "__name__": "a b"}, "__name__"),
        ({**LOAD, "a-b": "c"}, "not a valid label name"),
        ({**LOAD, "a": "x" * 2000}, "1024"), ({**LOAD, **{f"l{n}": "x" for n in range(70)}}, "64 labels"),
        ({**LOAD, "a": "b\0"}, "NUL"),
    ],
)  # fmt: skip
def test_a_bad_series_is_refused_and_the_others_are_stored(
    db: Database, into: RemoteWriteReceiver, labels: dict[str, str], said: str
) -> None:
    outcome = put(into, (labels, [(MS, 1.0), (MS + 1, 1.0)]), (LOAD, [(MS, 1.0)]))
    assert (outcome.stored, outcome.invalid) == (1, 2)
    assert said in outcome.reason


@pytest.mark.parametrize("t_ms", [-1, -(1 << 63), MS + 3_700_000, (1 << 63) - 1])
def test_a_sample_of_a_wrong_clock_is_refused(db: Database, into: RemoteWriteReceiver, t_ms: int) -> None:
    outcome = put(into, (LOAD, [(t_ms, 1.0), (MS + 3_000_000, 1.0)]))
    assert (outcome.stored, outcome.invalid) == (1, 1)


# -- the bytes -------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_before_it_is_opened(into: RemoteWriteReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any) -> bytes:
        raise AssertionError("opened")

    monkeypatch.setattr(remote_write.cramjam.snappy, "decompress_raw", opened)
    for size in (remote_write.MAX_BYTES + 1, (1 << 32) - 1, (1 << 63)):
        with pytest.raises(HubError) as told:
            into.write(varint(size) + b"\xfe\x01\x00", "prom", None, NOW, "")
        assert told.value.status == 413


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x05", b"\xff" * 12, block(b"\x0a"), block(b"\x0a\x05abc"), block(b"\x0b"), block(b"\x00\x01"),
        block(part(1, part(1, b"\x0a\x02\xff\xfe"))), block(part(1, part(2, b"\x08\x01"))), block(b"\x08\x01"),
        block(part(1, part(2, b"\x09\x00"))), bytes(cramjam.snappy.compress(message([(LOAD, [(MS, 1.0)])]))),
        block(message([(LOAD, [(MS, 1.0)])]))[:-3],
    ],
)  # fmt: skip
def test_what_is_no_request_is_400(into: RemoteWriteReceiver, content: bytes) -> None:
    with pytest.raises(HubError) as told:
        into.write(content, "prom", None, NOW, "")
    assert told.value.status == 400


def test_too_many_samples_are_refused_whole(
    into: RemoteWriteReceiver, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_write, "MAX_SAMPLES", 10)
    with pytest.raises(HubError, match="more than 10"):
        put(into, (LOAD, [(MS + n, 1.0) for n in range(11)]))
    with pytest.raises(HubError, match="more than 10"):
        put(into, *(({"__name__": f"a{n}"}, []) for n in range(11)))
    assert samples(db) == []


@pytest.mark.parametrize(
    ("reader", "inner", "limit"), [("_sample", part(2, b""), 10), ("_Reader._label", part(1, b""), protobuf.MAX_LABELS)]
)
def test_the_limits_hold_while_one_series_is_read(
    monkeypatch: pytest.MonkeyPatch, reader: str, inner: bytes, limit: int
) -> None:
    """Many empty samples or labels in one series: refused at the first beyond the limit, not after all are read."""
    calls = []
    monkeypatch.setattr(f"{protobuf.__name__}.{reader}", calls.append)
    with pytest.raises(protobuf.Malformed, match=f"more than {limit}"):
        protobuf.read(part(1, inner * 5000), limit)
    assert len(calls) == limit


SERIES = st.lists(
    st.tuples(
        st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        st.lists(st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.floats(width=64)), max_size=4),
    ),
    max_size=4,
)


@given(SERIES)
def test_what_is_written_is_read_bit_for_bit(series: Any) -> None:
    found = protobuf.read(message(series), 1000)
    assert [dict(one.labels) for one in found] == [labels for labels, _ in series]
    packed = [[(t, struct.pack("<d", v)) for t, v in one.samples] for one in found]
    assert packed == [[(t, struct.pack("<d", v)) for t, v in some] for _, some in series]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(content: bytes) -> None:
    with suppress(protobuf.Malformed):
        assert isinstance(protobuf.read(content, 100), list)


def test_unknown_fields_are_passed_over() -> None:
    content = message([(LOAD, [(MS, 1.0)])]) + part(3, b"\x08\x01") + b"\x78\x05" + b"\x7d\x00\x00\x00\x00"
    assert len(protobuf.read(content, 10)) == 1


@pytest.mark.parametrize("content", [
    part(1, b"\x0a\x00" * 20_000), part(1, part(1, b"\x0a\x00" * 20_000)), part(1, b"\x1a\x00" * 20_000),
    b"\x1a\x00" * 20_000, part(1, part(2, b"\x18\x00" * 20_000)), part(1, b"\x12\x00" * 20_000), b"\x0a\x00" * 20_000,
], ids=["labels", "in a label", "in a series", "metadata", "in a sample", "samples", "series"])  # fmt: skip
def test_empty_fields_are_counted_while_they_are_read(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 MiB of two-byte fields, 1.5 MB on the wire, were read for minutes, and held gigabytes, uncounted."""
    read = 0
    fields = protobuf._fields

    def counting(content: bytes) -> Iterator[Any]:
        nonlocal read
        for one in fields(content):
            read += 1
            yield one

    monkeypatch.setattr(protobuf, "_fields", counting)
    with pytest.raises(protobuf.Malformed, match="more than"):
        protobuf.read(content, 10)
    assert read <= 10 * protobuf.MOST_FIELDS + 1


# -- over REST -------------------------------------------------------------------------------------------


@pytest.fixture
def client(db: Database) -> Iterator[Any]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient
    hub = Hub(
        settings=Settings(prometheus=Prometheus(max_series=100)), db=db, publish=lambda messages: None,
        notify=lambda name: None, actions=action_service(), connected=lambda: True,
    )  # fmt: skip
    with db.write() as session:
        made = {
            role: tokens.create(session, role, role, clock.now_us(), "test")
            for role in ("writer", "viewer", "operator")
        }
    with TestClient(RestApp(hub), raise_server_exceptions=False) as one:
        one.made = made  # type: ignore[attr-defined]
        yield one


def post(client: Any, content: bytes, role: str = "writer", **headers: str) -> Any:
    more = {key.replace("_", "-"): value for key, value in headers.items()}
    sent = HEADERS | {"Authorization": f"Bearer {client.made[role]}"} | more
    return client.post("/v1/prometheus/write", content=content, headers=sent)


def now_ms() -> int:
    return clock.now_us() // 1000


def test_a_writer_may_write_and_nothing_else(client: Any, db: Database) -> None:
    assert post(client, request((LOAD, [(now_ms(), 1.0)]))).status_code == 204
    assert len(samples(db)) == 1
    assert post(client, request((LOAD, [(now_ms(), 1.0)])), "viewer").status_code == 403
    assert post(client, request((LOAD, [(now_ms(), 1.0)])), "operator").status_code == 403
    headers = {"Authorization": f"Bearer {client.made['writer']}"}
    assert client.get("/api/v1/devices", headers=headers).status_code == 403
    assert client.post("/v1/prometheus/write", content=b"", headers=HEADERS).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/x-protobuf;proto=prometheus.WriteRequest"}, 204),
        ({"Content_Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}, 415),
        ({"Content_Type": "application/json"}, 415), ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Encoding": ""}, 415),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_415(client: Any, headers: dict[str, str], status: int) -> None:
    assert post(client, request((LOAD, [(now_ms(), 1.0)])), **headers).status_code == status


def test_bad_samples_are_400_and_the_good_ones_stored(client: Any, db: Database) -> None:
    answer = post(client, request((LOAD, [(now_ms(), 1.0)]), ({"a": "b"}, [(now_ms(), 1.0)])))
    assert answer.status_code == 400
    assert "1 samples refused, 1 stored" in answer.json()["detail"]
    assert len(samples(db)) == 1


def test_a_database_that_is_away_is_5xx_so_that_it_is_sent_again(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise NotReady("away")

    monkeypatch.setattr(RemoteWriteReceiver, "write", away)
    assert post(client, request((LOAD, [(now_ms(), 1.0)]))).status_code == 503


def test_too_large_is_413(client: Any) -> None:
    assert post(client, b"x" * (MAX_COMPRESSED + 1)).status_code == 413
