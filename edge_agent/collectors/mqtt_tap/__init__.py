"""Collector `mqtt_tap`: values that a plant's own broker carries, as plain numbers, JSON or Sparkplug."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edge_agent.collectors.mqtt_tap.tags import TapTag
from edge_agent.collectors.plant.collector import PlantCollector
from edge_agent.collectors.plant.options import DEFAULT_GROUP, Group, PlantOptions, read_tags
from edge_agent.collectors.sources.options import absolute
from edge_agent.config import CollectorTable, options
from shared.transport.mqtt import parse_address
from shared.transport.tls import TlsVersion

PRODUCER = "edge_agent.collectors.mqtt_tap.client:produce"
LOCAL = {"localhost", "127.0.0.1", "::1"}


class TapTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files: the CA of the broker, and for mutual TLS the client's certificate and key.

    `minimum` "1.2" is for brokers without TLS 1.3.
    """

    ca: str
    certificate: str = ""
    key: str = ""
    minimum: TlsVersion = "1.3"

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key must be given together")


class TapGroup(Group, frozen=True, forbid_unknown_fields=True):
    """Tags whose messages come at least every `period_s`."""

    period_s: float = 60.0


class Options(PlantOptions, frozen=True, forbid_unknown_fields=True):
    """`address` of the broker is HOST:PORT, `protocol` its version of MQTT. `client_id` is by default the collector's
    name with a random end: a broker ends the older one of two equal clients. `timestamps`: `source` takes the time in
    a message if it has one, `read` that of its arrival. With `request_births` Sparkplug nodes whose birth was missed
    are asked for it.
    """

    address: str = ""
    protocol: Literal["5", "3.1.1"] = "5"
    client_id: str = ""
    user: str = ""
    password_file: str = ""
    tls: TapTls | None = None
    timestamps: Literal["read", "source"] = "source"
    request_births: bool = True
    bad_s: float = 600.0
    groups: dict[str, TapGroup] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.address:
            raise ValueError("address must be set: HOST:PORT")
        if self.password_file and not self.user:
            raise ValueError("password_file needs user")
        if "\0" in self.client_id or len(self.client_id) > 128:
            raise ValueError("client_id must have at most 128 characters")

    @property
    def all_groups(self) -> dict[str, TapGroup]:
        """All groups, the default one among them."""
        return {DEFAULT_GROUP: TapGroup()} | self.groups


class TapCollector(PlantCollector):
    """Values of one broker."""

    def __init__(self, table: CollectorTable, chosen: Options, tags: list[TapTag]) -> None:
        task = {"name": table.name, "options": msgspec.to_builtins(chosen), "tags": msgspec.to_builtins(tags)}
        super().__init__(table, chosen, tags, chosen.all_groups, PRODUCER, task)
        self._chosen = chosen

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        host = parse_address(self._chosen.address, self.name)[0]
        if self._chosen.tls is not None or host in LOCAL:
            return []
        password = " The password can be read on the network." if self._chosen.password_file else ""
        return [f"{host} is reached without TLS. Set `tls`.{password}"]


def open_collector(table: CollectorTable) -> TapCollector:
    """Entry point `mqtt_tap`."""
    chosen: Options = options(Options, table)
    place = f"collector '{table.name}'"
    parse_address(chosen.address, f"{place}.address")
    tags = read_tags(chosen, TapTag, place, chosen.all_groups)
    changed: dict[str, Any] = {
        "tags": ["in the task"], "tags_file": "", "password_file": absolute(chosen.password_file),
    }  # fmt: skip
    if tls := chosen.tls:
        paths = {"ca": absolute(tls.ca), "certificate": absolute(tls.certificate), "key": absolute(tls.key)}
        changed["tls"] = msgspec.structs.replace(tls, **paths)
    return TapCollector(table, msgspec.structs.replace(chosen, **changed), tags)
