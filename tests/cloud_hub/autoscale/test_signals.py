"""Each source of signals on a real database and real servers; what is missing, stale or broken is unknown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from simulators.births import born

from cloud_hub.autoscale.core import sources
from cloud_hub.autoscale.core.sources import Source
from cloud_hub.autoscale.core.targets import SignalEntry
from cloud_hub.autoscale.signals import SignalContext, read_all, read_source
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, EscalationRow, Incident
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.telemetry import samples
from shared.durations import SECOND_US
from shared.protocol.messages import Birth, Sample

NOW = 1_800_000_000_000_000


@pytest.fixture
def filled(db: Database) -> Database:
    """Four devices with a sample of `q` each, 1 to 4: three fresh ones, and one 10 minutes old."""
    with db.write() as session:
        marks = StreamOffsets(session)
        for number in range(1, 5):
            device = f"d{number}"
            born(session, Birth(device=device, session="s", epoch="e"), NOW)
            source = marks.get((device, "e", "telemetry")).source
            age_s = 600 if number == 4 else number
            found = [(1, Sample(metric="q", t_us=NOW - age_s * SECOND_US, value=float(number)))]
            samples.store_samples(session, samples.sample_rows(device, source, found))
        marks.save()
    return db


def value_of(db: Database, source: Source, **more: Any) -> tuple[float, int] | str:
    """(value, age in s) of a source, or why it is unknown."""
    found, reason = read_source(source, SignalContext(db, **more), 60.0, NOW)
    return reason if found is None else (found.value, (NOW - found.t_us) // SECOND_US)


def telemetry(**more: Any) -> Source:
    return sources.TelemetrySource(metric="q", **more)


@pytest.mark.sql
def test_telemetry_of_a_device_and_of_a_fleet(filled: Database) -> None:
    assert value_of(filled, telemetry(device="d2")) == (2.0, 2)
    assert value_of(filled, telemetry(device="d4")) == (4.0, 600), "the rule judges its age"
    for kind, value in (("mean", 2.0), ("sum", 6.0), ("max", 3.0), ("min", 1.0), ("count", 3.0)):
        assert value_of(filled, telemetry(where="*", aggregate=kind, coverage=0.7)) == (value, 3)
    assert value_of(filled, telemetry(where="id = 'd1'")) == (1.0, 1)


@pytest.mark.parametrize(("source", "says"), [
    (telemetry(device="d9"), "d9 has no samples of q"),
    (telemetry(where="*"), "3 of 4 devices that '*' finds have a fresh value, less than 80%"),
    (telemetry(where="id = 'd9'"), "there are no devices"),
    (telemetry(where="id ="), "The query cannot be read"),
    (sources.InferenceSource(pool="lage"), "there is no pool 'lage'; did you mean 'large'?"),
    (sources.EngineSource(addresses=("ftp://x",), metric="m"), "'ftp://x' is no address"),
    (sources.EngineSource(addresses=("http://127.0.0.1:1",), metric="m"), "cannot be reached"),
    (sources.PrometheusSource(url="http://127.0.0.1:1", query="up"), "no Prometheus at"),
    (sources.PrometheusSource(url="127.0.0.1", query="up"), "is no address"),
])  # fmt: skip
def test_what_cannot_be_read_says_why(filled: Database, source: Source, says: str) -> None:
    class Pool:
        waiting: dict[str, int] = {}  # noqa: RUF012
        running = 0

    found = value_of(filled, source, pools={"large": Pool()})
    assert isinstance(found, str)
    assert says in found


@pytest.mark.sql
def test_alarms_incidents_and_escalations_are_counted(filled: Database) -> None:
    with filled.write() as session:
        for number, (device, state, suppressed) in enumerate(
            [("d1", "raised", ""), ("d1", "cleared", ""), ("d2", "raised", ""), ("d2", "raised", "shelved")]
        ):
            session.add(AlarmRow(id=f"a{number}", device=device, metric="m", kind="high", priority="high", state=state,
                                 value=1.0, limit=0.0, raised_us=1, received_us=1, suppressed=suppressed))  # fmt: skip
        session.add(Incident(id="i1", device="d1", subject="m", opened_us=1))
        session.add(Incident(id="i2", device="d2", subject="m", opened_us=1, resolved_us=2, state="resolved"))
        for number, age_s in enumerate([1, 5, 70]):
            session.add(EscalationRow(id=f"e{number}", device="d1", model="m", digest="", number=number, reason="",
                                      label="", margin=0.1, height=1, width=1, frame=b"x", t_us=NOW,
                                      received_us=NOW - age_s * SECOND_US,
                                      answer="ok" if number == 0 else None))  # fmt: skip
    assert value_of(filled, sources.AlarmSource()) == (2.0, 0)
    assert value_of(filled, sources.AlarmSource(where="id = 'd1'", priority="high")) == (1.0, 0)
    assert value_of(filled, sources.AlarmSource(metric="other")) == (0.0, 0)
    assert value_of(filled, sources.IncidentSource()) == (1.0, 0)
    assert value_of(filled, sources.EscalationSource(window_s=10)) == (0.2, 0)
    assert value_of(filled, sources.EscalationSource(of="waiting", model="m")) == (2.0, 0)


class Server(ThreadingHTTPServer):
    """Answers every request with `body`."""

    body = b""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving(body: str) -> Iterator[str]:
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.body = body.encode()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


VLLM = """# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="a",engine="0"} 3.0
vllm:num_requests_waiting{model_name="a",engine="1"} 4.0
vllm:num_requests_waiting{model_name="b",engine="0"} 9.0
"""


@pytest.mark.one_database
def test_the_metrics_of_engines_are_added_up(db: Database) -> None:
    waiting = {"metric": "vllm:num_requests_waiting"}
    with serving(VLLM) as one, serving("<html>Bad gateway</html>") as broken:
        both = sources.EngineSource(addresses=(one, one), labels={"model_name": "a"}, **waiting)
        assert value_of(db, both) == (14.0, 0)
        assert value_of(db, sources.EngineSource(addresses=(one,), aggregate="max", **waiting)) == (16.0, 0)
        some = sources.EngineSource(addresses=(one, broken), coverage=0.5, **waiting)
        assert value_of(db, some) == (16.0, 0)
        found = value_of(db, sources.EngineSource(addresses=(one, broken), **waiting))
        assert "1 of 2 engines have a fresh value" in str(found)
        found = value_of(db, sources.EngineSource(addresses=(one,), metric="vllm:nothing"))
        assert "has no sample of vllm:nothing" in str(found)


@pytest.mark.one_database
@pytest.mark.parametrize(("data", "expected"), [
    ('{"resultType":"vector","result":[{"metric":{},"value":[1799999990,"7.5"]}]}', (7.5, 10)),
    ('{"resultType":"scalar","result":[1799999999,"2"]}', (2.0, 1)),
    ('{"resultType":"vector","result":[]}', "returns 0 series: does the metric exist?"),
    ('{"resultType":"vector","result":[{"metric":{"a":"1"},"value":[1,"1"]},{"metric":{"a":"2"},"value":[1,"1"]}]}',
     "returns 2 series: make it one number"),
    ('{"resultType":"vector","result":[{"metric":{},"value":[1799999990,"NaN"]}]}', "nan is no finite number"),
    ('{"resultType":"vector","result":[{"metric":{},"value":["x"]}]}', "returns a value that is none"),
    ('{"resultType":"matrix","result":[]}', "returns no instant values but a matrix"),
])  # fmt: skip
def test_an_instant_query_is_one_number_or_unknown(db: Database, data: str, expected: Any) -> None:
    with serving(f'{{"status":"success","data":{data}}}') as url:
        found = value_of(db, sources.PrometheusSource(url=url, query="q"))
    if isinstance(expected, str):
        assert expected in str(found)
    else:
        assert found == expected


def test_one_broken_signal_stops_no_other(filled: Database) -> None:
    class Broken:
        @property
        def waiting(self) -> Any:
            raise ZeroDivisionError("broken")

        running = 0

    entries = [
        SignalEntry(name="bad", per_instance=1.0, source=sources.InferenceSource(pool="p")),
        SignalEntry(name="good", per_instance=1.0, unit="1/s", source=telemetry(device="d1")),
        SignalEntry(name="other-unit", per_instance=1.0, unit="ms", source=sources.EscalationSource()),
    ]
    found = read_all(entries, SignalContext(filled, {"p": Broken()}), lambda: NOW)
    assert [(one.signal, one.value, one.unit) for one in found.readings] == [
        ("bad", None, ""), ("good", 1.0, "1/s"), ("other-unit", 0.0, "1/s"),
    ]  # fmt: skip
    assert found.errors == {"bad": "ZeroDivisionError: broken"}
