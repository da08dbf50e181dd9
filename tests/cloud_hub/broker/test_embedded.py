"""The embedded broker is for this machine alone, and carries messages as a broker must."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from simulators.brokers import embedded_broker, listens, until

from cloud_hub.broker.embedded import open_broker, render_configuration
from shared.errors import ConfigError
from shared.protocol.codec import MAX_PAYLOAD
from shared.transport.mqtt import Connection, Inbound, Options


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "10.0.0.1", "localhost.example", "", "127.0.0.1.evil", "localhost"])  # fmt: skip  # noqa: E501
def test_any_other_address_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="must not listen") as refused:
        open_broker(tmp_path, 1, 2, host)
    assert refused.value.cure == "Use mosquitto there"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1"])
def test_loopback_is_allowed(host: str) -> None:
    assert f'listen = "{host}:1883"' in render_configuration(host, 1884, 1883)


def test_its_limit_is_that_of_the_wire() -> None:
    assert f"max_payload_size = {MAX_PAYLOAD + 4096}" in render_configuration("127.0.0.1", 1, 2)


def test_it_carries_a_message(tmp_path: Path) -> None:
    got: list[Inbound] = []
    up = threading.Event()
    with embedded_broker(tmp_path) as (mqtt3, mqtt5):
        assert listens(mqtt3)
        connection = Connection(
            Options(client_id="t", filters=["a/+"]), lambda: ("127.0.0.1", mqtt5), got.append, up.set, lambda _: None
        )
        connection.start()
        assert up.wait(10)
        assert connection.publish("a/b", b"hello", traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
        until("it arrives", lambda: got, 10)
        connection.stop()
    assert (got[0].topic, got[0].payload, got[0].traceparent[3:5]) == ("a/b", b"hello", "ab")
