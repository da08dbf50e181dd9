"""Collector `opcua`: variables of an OPC UA server, subscribed or polled."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from edge_agent.collectors.opcua.tags import OpcuaTag
from edge_agent.collectors.plant.collector import PlantCollector
from edge_agent.collectors.plant.options import DEFAULT_GROUP, Group, PlantOptions, needs_library, read_tags
from edge_agent.collectors.sources.options import absolute
from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError

PRODUCER = "edge_agent.collectors.opcua.client:produce"
Policy = Literal["none", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]


class OpcuaGroup(Group, frozen=True, forbid_unknown_fields=True):
    """A group whose tags are subscribed with `period_s` as publishing interval, or polled that often."""

    mode: Literal["subscribe", "poll"] = "subscribe"


class Options(PlantOptions, frozen=True, forbid_unknown_fields=True):
    """`url` is that of the server, `opc.tcp://HOST:PORT/path`. With a `security_policy` other than `none` the messages
    are signed, or signed and encrypted (`security_mode`), with `certificate` and `key` of this client; and the server
    must have `server_certificate` (PEM or DER files).

    `user` signs in with the password in `password_file`. A request is answered within `timeout_s`; at most
    `max_nodes` are read by one. `timestamps`: `read` takes the time of reading, `source` that of the server's value.
    """

    url: str = ""
    security_policy: Policy = "none"
    security_mode: Literal["sign", "sign_and_encrypt"] = "sign_and_encrypt"
    certificate: str = ""
    key: str = ""
    server_certificate: str = ""
    user: str = ""
    password_file: str = ""
    allow_plain_password: bool = False
    timeout_s: float = 4.0
    max_nodes: int = 500
    timestamps: Literal["read", "source"] = "read"
    verify_s: float = 1.0
    groups: dict[str, OpcuaGroup] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.1 <= self.timeout_s <= 10 or not 1 <= self.max_nodes <= 10_000 or not 0 <= self.verify_s <= 5:
            raise ValueError("timeout_s must be within 0.1..10, max_nodes within 1..10000, verify_s within 0..5")
        files = (self.certificate, self.key, self.server_certificate)
        if self.security_policy != "none" and not all(files):
            raise ValueError("security_policy needs the files certificate, key and server_certificate")
        if self.security_policy == "none" and any(files):
            raise ValueError("certificate, key and server_certificate need a security_policy")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file must be given together")
        encrypted = self.security_policy != "none" and self.security_mode == "sign_and_encrypt"
        if self.user and not encrypted and not self.allow_plain_password:
            raise ValueError(
                "the password could be read on the network: set a security_policy with sign_and_encrypt, or "
                "allow_plain_password = true"
            )

    @property
    def all_groups(self) -> dict[str, OpcuaGroup]:
        """All groups, the default one among them."""
        return {DEFAULT_GROUP: OpcuaGroup()} | self.groups


class OpcuaCollector(PlantCollector):
    """Variables of one server."""

    def __init__(self, table: CollectorTable, chosen: Options, tags: list[OpcuaTag]) -> None:
        task = {"name": table.name, "options": msgspec.to_builtins(chosen), "tags": msgspec.to_builtins(tags)}
        super().__init__(table, chosen, tags, chosen.all_groups, PRODUCER, task)
        self._chosen = chosen

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        found = []
        if self._chosen.security_policy == "none":
            found.append("the server is not authenticated, and messages are not protected. Set `security_policy`")
        if self._chosen.user and self._chosen.allow_plain_password:
            found.append("`allow_plain_password`: the password may be read on the network")
        return found


def _check_url(url: str, place: str) -> None:
    parts = urlsplit(url)
    cure = 'Write for example: url = "opc.tcp://10.0.0.5:4840"'
    if parts.scheme != "opc.tcp" or not parts.hostname:
        raise ConfigError(place, f"'{url[:200]}' is no address of an OPC UA server", cure)
    if "@" in parts.netloc:
        raise ConfigError(place, "names a user or password", "Use `user` and `password_file`: no secret in this file")


def open_collector(table: CollectorTable) -> OpcuaCollector:
    """Entry point `opcua`."""
    chosen: Options = options(Options, table)
    place = f"collector '{table.name}'"
    _check_url(chosen.url, f"{place}.url")
    needs_library(table, "asyncua", "opcua")
    tags = read_tags(chosen, OpcuaTag, place, chosen.all_groups)
    task_options: dict[str, Any] = {"tags": ["in the task"], "tags_file": ""} | {
        name: absolute(getattr(chosen, name)) for name in ("certificate", "key", "server_certificate", "password_file")
    }
    return OpcuaCollector(table, msgspec.structs.replace(chosen, **task_options), tags)
