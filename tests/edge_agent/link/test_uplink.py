"""What the uplink puts on the wire: deflated telemetry for a hub that reads it, plain JSON for every other."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import parse
from edge_agent.link.uplink import Uplink
from edge_agent.store.outbox import Outbox, RowBatch
from shared.protocol import topics
from shared.protocol.codec import DEFLATED, JSON, encode, inflate
from shared.protocol.messages import Birth, Event, Sample, Session, Stream
from shared.transport.mqtt import Inbound

CONFIG = """
[device]
id = "press-3"
profile = "x86-64"
state_dir = "unused"
[link]
discover = false
address = "127.0.0.1:1"
"""


class Wire:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, str]] = []

    def publish(self, topic: str, payload: bytes, content_type: str = JSON, **_: Any) -> bool:
        self.sent.append((topic.rpartition("/")[2], payload, content_type))
        return True


@pytest.mark.parametrize(("reads", "count", "content_type"), [
    ([DEFLATED], 50, DEFLATED), ([], 50, JSON), (["application/json+tomorrow"], 50, JSON), ([DEFLATED], 1, JSON),
])  # fmt: skip
def test_telemetry_is_deflated_only_for_a_hub_that_reads_it_and_where_it_pays(
    tmp_path: Path, reads: list[str], count: int, content_type: str
) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", 4_000_000, "e1")
    items = [Sample(metric="cpu.load", t_us=n, value=0.5) for n in range(count)]
    events = [Event(t_us=n, source="line", text="lamp broke") for n in range(50)]
    outbox.accept([RowBatch(stream="telemetry", items=items), RowBatch(stream="event", items=events)], "synced")
    config, _ = parse(CONFIG)
    uplink = Uplink(config, outbox, "", lambda call: call(), lambda session: Birth(device="press-3", session=session),
                    lambda _restart: None, lambda _rest, _inbound: None)  # fmt: skip
    wire = Wire()
    uplink._connection = wire  # type: ignore[assignment]
    uplink._will()
    uplink._up()
    word = Session(hub_epoch="h", protocol=1, session=uplink._connection_id, epoch="e1", upto={}, reads=reads)
    topic = topics.thing("press-3", "session")
    uplink._received(Inbound(topic=topic, payload=encode(word), traceparent="", acknowledge=lambda: None))

    def sent(name: str) -> tuple[bytes, str]:
        ((payload, kind),) = [(payload, kind) for rest, payload, kind in wire.sent if rest == name]
        return payload, kind

    def stored(stream: Stream) -> bytes:
        row = outbox.after(stream, 0)
        assert row is not None
        return row.payload

    assert sent("telemetry")[1] == content_type
    assert inflate(*sent("telemetry")) == stored("telemetry")
    assert sent("events") == (stored("event"), JSON)
    outbox.close()


def test_a_link_that_is_down_names_where_it_was_tried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, _ = parse(CONFIG.replace('"127.0.0.1:1"', '"127.0.0.1:1"\nfallback = ["127.0.0.1:2"]'))
    downs: queue.Queue[None] = queue.Queue()
    uplink = Uplink(config, Outbox(tmp_path / "o.sqlite", 4_000_000, "e1"), "",
                    lambda call: (call(), downs.put(None))[0], lambda session: Birth(device="press-3", session=session),
                    lambda _restart: None, lambda _rest, _inbound: None)  # fmt: skip
    uplink.start()
    for _ in range(2):
        downs.get(timeout=20)
    uplink.stop()
    fields = [record.fields for record in caplog.records if record.getMessage() == "link.down"]  # type: ignore[attr-defined]
    assert [one["address"] for one in fields[:2]] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert all("refused" in one["reason"] for one in fields[:2])
