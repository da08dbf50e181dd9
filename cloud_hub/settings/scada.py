"""Settings of `[sparkplug]`: the hub as Sparkplug primary host application."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.plant.write_rules import WriteRule
from shared.transport.tls import TlsVersion


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerTls(_Table):
    """PEM files of one MQTT server: `ca` alone verifies the server, the other two are for mutual TLS.

    `minimum` "1.2" is for servers without TLS 1.3.
    """

    ca: str
    certificate: str = ""
    key: str = ""
    minimum: TlsVersion = "1.3"

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("give certificate and key together")
        return self


class SparkplugServer(_Table):
    """One MQTT server. The host is connected to all of them at once; an edge node uses one at a time."""

    address: str = Field(min_length=1)
    username: str = ""
    password_file: str = ""
    protocol: Literal["5", "3.1.1"] = "5"
    tls: ServerTls | None = None


class SparkplugGroup(_Table):
    """A group to listen to. Its new nodes and devices get `asset_path`, which decides which tokens see them."""

    group: str = Field(min_length=1, max_length=256)
    asset_path: str = ""

    @field_validator("group")
    @classmethod
    def _id(cls, group: str) -> str:
        if set(group) & set("+/#") or not group.isprintable() or group == "STATE":
            raise ValueError("a group has no +, / or # and is not STATE")
        return group


class Writable(_Table):
    """A metric of a Sparkplug device that may be written, and the rule for it (`shared.plant.write_rules`)."""

    device: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    low: float | None = None
    high: float | None = None
    allowed: list[bool | float | str] = []
    max_step: float | None = None
    per_minute: int = 6
    min_interval_s: float = 0.0
    only_while: str = ""
    max_age_s: float = 10.0
    tolerance: float = 0.0
    verify_s: float = 10.0

    @model_validator(mode="after")
    def _good(self) -> Self:
        _ = self.rule
        return self

    @property
    def rule(self) -> WriteRule:
        """The rule; raises ValueError."""
        return WriteRule(**self.model_dump(exclude={"device"}))


class Sparkplug(_Table):
    """The host application `host_id`; off while it is empty. `groups` empty: all groups.

    A gap in the sequence numbers of a node may last `reorder_timeout_s`. At most `max_nodes` nodes and devices are
    registered, and `max_metrics` metrics of all of them. Each node may bring `node_rate` cost units a second (0: any
    number); a message costs one, and one more for every 50 metrics.
    """

    host_id: str = Field(default="", max_length=256)
    servers: list[SparkplugServer] = []
    groups: list[SparkplugGroup] = []
    reorder_timeout_s: float = Field(default=2.0, gt=0, le=60)
    max_nodes: int = Field(default=10_000, ge=1)
    max_metrics: int = Field(default=500_000, ge=1)
    node_rate: float = Field(default=500.0, ge=0)
    writable: list[Writable] = []

    @field_validator("host_id")
    @classmethod
    def _host_id(cls, text: str) -> str:
        if set(text) & set("+/#") or not text.isprintable():
            raise ValueError("a host id has no +, / or #")
        return text

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.host_id and not self.servers:
            raise ValueError("servers: name at least one, such as servers = [{ address = '10.0.0.5:8883' }]")
        names = [one.group for one in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("groups: one is named twice")
        metrics = [(one.device, one.metric) for one in self.writable]
        if len(set(metrics)) != len(metrics):
            raise ValueError("writable: a metric has two rules")
        return self
