"""The embedded broker (rumqttd, by iotcore) for the demo, for tests and for a first look. Never for production.

It knows no access lists, demands no certificates and forgets its queues; so it listens on loopback only, and
anything else is refused. Production uses mosquitto (docs/broker.md).
"""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Any

from shared.errors import ConfigError
from shared.protocol.codec import MAX_PAYLOAD

log = logging.getLogger(__name__)

WARNING = "EMBEDDED BROKER: for trying out on this machine only. In production run mosquitto (docs/broker.md)."

_LISTENER = """
[{version}.1]
name = "{version}"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[{version}.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload}
max_inflight_count = 500
dynamic_filters = true
"""


def render_configuration(host: str, mqtt3: int, mqtt5: int) -> str:
    """The broker's TOML: one port for MQTT 3.1.1, one for MQTT 5; raises ConfigError off loopback."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            "broker.host",
            f"the embedded broker protects nothing and must not listen on '{host}'",
            "Use mosquitto there",
        )
    head = "id = 0\n[router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 200\n"
    head += "max_segment_size = 104857600\nmax_segment_count = 10\n"
    payload = MAX_PAYLOAD + 4096
    listeners = (("v4", mqtt3), ("v5", mqtt5))
    return head + "".join(_LISTENER.format(version=v, host=host, port=p, payload=payload) for v, p in listeners)


def open_broker(folder: Path, mqtt3: int, mqtt5: int, host: str = "127.0.0.1") -> Any:
    """A broker ready to `start`, listening on loopback; raises ConfigError."""
    try:
        from iotcore import Broker  # noqa: PLC0415 - only where it is wanted
    except ImportError as error:
        cure = "Install it: pip install 'tidegate[demo]', or run mosquitto"
        raise ConfigError("broker", f"iotcore is not installed ({error})", cure) from error
    file = folder / "broker.toml"
    file.write_text(render_configuration(host, mqtt3, mqtt5), "utf-8")
    return Broker(config_path=str(file))
