"""`[sparkplug]`: the device as a Sparkplug B edge node. docs/configuration/edge-sparkplug.md describes every key."""

from __future__ import annotations

import math
from string import Formatter
from typing import Literal

import msgspec

from shared.ids import first_duplicate
from shared.plant.write_rules import WriteRule
from shared.sparkplug.topics import check_id
from shared.transport.tls import TlsVersion

NAME_FIELDS = ("metric", "path", "collector", "device")
"""Fields of a template of names."""
MAX_SERVERS, MAX_DEVICES, MAX_RULES, MAX_PATTERN = 8, 200, 1000, 200


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table."""


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `value` is within `low` and `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be within {low:g}..{high:g}")


class ServerTls(_Table, frozen=True):
    """Paths of PEM files. Without `certificate` and `key` the device does not identify itself by TLS.

    `minimum` "1.2" is for brokers without TLS 1.3.
    """

    ca: str
    certificate: str = ""
    key: str = ""
    minimum: TlsVersion = "1.3"

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("give both certificate and key, or neither")


class Server(_Table, frozen=True):
    """A broker of the SCADA system. `password_file` holds the password of `username`."""

    address: str
    tls: ServerTls | None = None
    username: str = ""
    password_file: str = ""
    protocol: Literal["3.1.1", "5"] = "3.1.1"

    def __post_init__(self) -> None:
        if self.password_file and not self.username:
            raise ValueError("password_file needs a username")


class PlantDevice(_Table, frozen=True):
    """A Sparkplug device below the node, with the metrics that match `metrics`, named by the template `names`."""

    id: str
    metrics: list[str]
    names: str = "{metric}"

    def __post_init__(self) -> None:
        check_id(self.id, "device id")
        check_patterns(self.metrics)
        check_template(self.names)


class Reporting(_Table, frozen=True):
    """When a changed value is reported, for the metrics that match `metrics`."""

    metrics: list[str]
    deadband: float = 0.0
    deadband_percent: float = 0.0
    max_silence_s: float = 0.0

    def __post_init__(self) -> None:
        check_patterns(self.metrics)
        check_deadband(self.deadband, self.deadband_percent, self.max_silence_s)


class Sparkplug(_Table, frozen=True):
    """`node` is the device's id if empty. Without `primary_host` the node waits for no host application.

    `servers` are tried in order, one at a time. `metrics` and `names` are for metrics that no `devices` table takes.
    `publish_s` is how long changes are collected into one message. `buffer_mb` bounds the store for outages on disk.
    After a lost connection the last `resend_s` seconds are sent again, because Sparkplug data is not acknowledged.
    """

    group: str
    servers: list[Server]
    node: str = ""
    primary_host: str = ""
    aliases: bool = True
    metrics: list[str] = msgspec.field(default_factory=lambda: ["*"])
    names: str = "{metric}"
    devices: list[PlantDevice] = []
    deadband: float = 0.0
    deadband_percent: float = 0.0
    max_silence_s: float = 0.0
    reporting: list[Reporting] = []
    alarms: bool = True
    settings: bool = True
    publish_s: float = 1.0
    buffer_mb: float = 64.0
    resend_s: float = 30.0
    writable: list[WriteRule] = []

    def __post_init__(self) -> None:
        check_id(self.group, "group")
        for what, text in (("node", self.node), ("primary_host", self.primary_host)):
            if text:
                check_id(text, what)
        check_patterns(self.metrics, empty=True)
        check_template(self.names)
        check_deadband(self.deadband, self.deadband_percent, self.max_silence_s)
        within("publish_s", self.publish_s, 0.05, 60)
        within("buffer_mb", self.buffer_mb, 1, 1e5)
        within("resend_s", self.resend_s, 0, 300)
        within("the number of servers", len(self.servers), 1, MAX_SERVERS)
        within("the number of devices", len(self.devices), 0, MAX_DEVICES)
        within("the number of writable metrics", len(self.writable), 0, MAX_RULES)
        _check_unique("servers", [server.address for server in self.servers])
        _check_unique("devices", [device.id for device in self.devices])
        _check_unique("writable", [rule.metric for rule in self.writable])


def check_template(text: str) -> None:
    """Raise ValueError unless `text` is a template of names that can tell metrics apart."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"names '{text[:80]}': {error}. Write for example: names = \"{{collector}}/{{metric}}\""
        ) from None
    used = [field for _, field, _, _ in parts if field is not None]
    known = ", ".join(f"{{{field}}}" for field in NAME_FIELDS)
    if any(field not in NAME_FIELDS or form or conversion for _, field, form, conversion in parts if field is not None):
        raise ValueError(f"names '{text[:80]}' has a field that is not known; there are {known}")
    if not {"metric", "path"} & set(used):
        raise ValueError(f"names '{text[:80]}' gives all metrics the same name; use {{metric}} or {{path}}")


def check_patterns(patterns: list[str], *, empty: bool = False) -> None:
    """Raise ValueError unless these are patterns of metric names, such as `press.*`."""
    if not patterns and not empty:
        raise ValueError('metrics is empty; write for example: metrics = ["press.*"]')
    if len(patterns) > MAX_RULES or not all(0 < len(pattern) <= MAX_PATTERN for pattern in patterns):
        raise ValueError(f"metrics has at most {MAX_RULES} patterns of 1 to {MAX_PATTERN} characters")


def check_deadband(absolute: float, percent: float, silence_s: float) -> None:
    """Raise ValueError unless these are values of a deadband."""
    if not 0 <= absolute < math.inf:
        raise ValueError("deadband must be a number, at least 0")
    within("deadband_percent", percent, 0, 100)
    within("max_silence_s", silence_s, 0, 86400)


def _check_unique(what: str, names: list[str]) -> None:
    if (twice := first_duplicate(names)) is not None:
        raise ValueError(f"'{twice}' is there twice in {what}")
