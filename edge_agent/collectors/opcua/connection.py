"""A session with an OPC UA server. The only module that imports asyncua; it runs in the client process alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timezone
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.client.ua_client import UaClientState
from asyncua.common.subscription import DataChangeEvent, StatusChangeEvent, Subscription
from asyncua.crypto import security_policies, uacrypto
from asyncua.ua.uaerrors import BadTooManyOperations, UaError, UaStatusCodeError
from cryptography import x509

from edge_agent.collectors.opcua import Options
from edge_agent.collectors.sources.options import read_secret
from shared.errors import ConfigError, NotReady

POLICIES: dict[str, Any] = {
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128_Sha256_RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256_Sha256_RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}
MODES = {"sign": ua.MessageSecurityMode.Sign, "sign_and_encrypt": ua.MessageSecurityMode.SignAndEncrypt}
SESSION_MS = 60_000
"""The server forgets the session of a client that died after this time; servers allow only some sessions."""
KEEPALIVE_S = 2.0
OPEN_S = 20.0
LOST = (OSError, asyncio.TimeoutError, UaError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says of a variable. `severity` is 0 good, 1 uncertain, 2 bad; `status` its name, '' for good."""

    value: object
    variant: str
    severity: int
    status: str
    source_us: int | None


class Changes:
    """The newest value of each subscribed node, and whether the subscriptions live."""

    def __init__(self) -> None:
        self.newest: dict[ua.NodeId, Answer] = {}
        self.arrived = asyncio.Event()
        self.lost = ""

    def drain(self) -> dict[ua.NodeId, Answer]:
        """What has changed since the last call."""
        found, self.newest = self.newest, {}
        self.arrived.clear()
        return found


class OpcuaConnection:
    """A session. Its methods raise NotReady when it is lost or cannot be opened."""

    def __init__(self, chosen: Options, name: str) -> None:
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # what goes wrong is reported as events
        self._chosen = chosen
        self._client = Client(chosen.url, timeout=chosen.timeout_s, watchdog_intervall=chosen.timeout_s)
        self._client.session_timeout = SESSION_MS
        self._client.name = self._client.description = f"tidegate {name}"
        self._subscriptions: dict[str, Subscription] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.changes = Changes()

    # -- opening and closing -------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, authenticate both sides, sign in."""
        chosen = self._chosen
        try:
            if chosen.security_policy != "none":
                await self._secure()
            if chosen.user:
                self._client.set_user(chosen.user)
                self._client.set_password(read_secret(chosen.password_file, "password_file"))
            await asyncio.wait_for(self._client.connect(), OPEN_S)
        except LOST as error:
            raise NotReady(f"{chosen.url} cannot be opened ({reason(error)})") from error

    async def _secure(self) -> None:
        chosen = self._chosen
        try:
            self._client.application_uri = application_uri(Path(chosen.certificate))
            await self._client.set_security(
                POLICIES[chosen.security_policy], _file(chosen.certificate), _file(chosen.key),
                server_certificate=_file(chosen.server_certificate), mode=MODES[chosen.security_mode],
            )  # fmt: skip
        except (OSError, ValueError, TypeError) as error:
            cure = "Give PEM or DER files that the agent's user may read"
            raise ConfigError("certificate, key or server_certificate", str(error)[:300], cure) from error

    async def close(self) -> None:
        """End the session; a server that does not answer any more is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await asyncio.wait_for(self._client.disconnect(), self._chosen.timeout_s)
        except LOST:
            self._client.disconnect_socket()

    def check(self) -> None:
        """Raise NotReady if the session is lost."""
        if self._client.state is not UaClientState.CONNECTED or self.changes.lost:
            raise NotReady(f"{self._chosen.url}: {self.changes.lost or 'the connection was closed'}")

    # -- nodes ---------------------------------------------------------------------------------------

    async def node_ids(self, nodes: Iterable[str]) -> list[ua.NodeId | str]:
        """NodeIds of their texts; a text in its place is the reason why there is none."""
        try:
            uris = await self._client.get_namespace_array()
        except LOST as error:
            raise NotReady(f"{self._chosen.url}: {reason(error)}") from error
        return [_node_id(node, uris) for node in nodes]

    async def read(self, nodes: Sequence[ua.NodeId]) -> list[Answer]:
        """The values of nodes. Raises TooMany if the server wants fewer at once."""
        try:
            found = await self._client.uaclient.read_attributes(list(nodes), ua.AttributeIds.Value)
        except BadTooManyOperations as error:
            raise TooMany from error
        except LOST as error:
            raise NotReady(f"{self._chosen.url}: {reason(error)}") from error
        if len(found) != len(nodes):
            raise NotReady(f"{self._chosen.url}: {len(nodes)} values were asked for, {len(found)} came")
        return list(map(answer, found))

    async def write(self, node: ua.NodeId, value: bool | int | float | str, variant: str) -> str:
        """Write a value; '' or the status with which the server refused it."""
        # Neither status nor time: servers refuse to have them written (Part 4, 5.11.4).
        data = ua.DataValue(ua.Variant(value, ua.VariantType[variant]), StatusCode=None)
        try:
            (status,) = await self._client.uaclient.write_attributes([node], [data], ua.AttributeIds.Value)
        except LOST as error:
            raise NotReady(f"{self._chosen.url}: {reason(error)}") from error
        return "" if status.is_good() else str(status.name)

    # -- subscriptions -------------------------------------------------------------------------------

    async def subscribe(self, group: str, period_s: float, nodes: Sequence[ua.NodeId]) -> dict[ua.NodeId, str]:
        """Subscribe nodes in the subscription of the group; returns those that the server refused, and why."""
        try:
            if group not in self._subscriptions:
                await self._create(group, period_s)
            handles = await self._subscriptions[group].subscribe_data_change(
                [self._client.get_node(node) for node in nodes],
                queuesize=1,
                sampling_interval=ua.Double(1000 * period_s),
            )
        except BadTooManyOperations as error:
            raise TooMany from error
        except LOST as error:
            raise NotReady(f"{self._chosen.url}: {reason(error)}") from error
        refused = zip(nodes, handles, strict=True)
        return {node: str(handle.name) for node, handle in refused if isinstance(handle, ua.StatusCode)}

    async def _create(self, group: str, period_s: float) -> None:
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=1000 * period_s,
            RequestedMaxKeepAliveCount=max(1, round(KEEPALIVE_S / period_s)),
            RequestedLifetimeCount=max(30, 10 * round(SESSION_MS / 1000 / period_s)),
            MaxNotificationsPerPublish=10_000, PublishingEnabled=True,
        )  # fmt: skip
        subscription = await self._client.create_subscription(parameters, queue_maxsize=100_000)
        self._subscriptions[group] = subscription
        self._tasks.append(asyncio.create_task(self._follow(subscription)))

    async def _follow(self, subscription: Subscription) -> None:
        """Take the events of a subscription. When this ends, for whatever reason, the session is of no use any more:
        its keep-alives would vouch for values that nobody reads.
        """
        changes = self.changes
        try:
            async for event in subscription:
                self._happened(event)
        finally:
            changes.lost = changes.lost or "nobody reads the subscription any more"
            changes.arrived.set()

    def _happened(self, event: object) -> None:
        changes = self.changes
        if isinstance(event, DataChangeEvent):
            value = event.data.monitored_item.Value
            if value is not None:
                changes.newest[event.node.nodeid] = answer(value)
                changes.arrived.set()
        elif isinstance(event, StatusChangeEvent):
            changes.lost = f"the subscription ended ({event.notification.Status.name})"
            changes.arrived.set()

    def is_alive(self, group: str) -> bool:
        """Whether the subscription of the group was heard of lately, be it by a keep-alive."""
        subscription = self._subscriptions.get(group)
        return subscription is not None and subscription.last_publish_at is not None and not subscription.is_stale(2.0)


class TooMany(Exception):
    """The server wants fewer nodes in one request."""


def answer(value: ua.DataValue) -> Answer:
    """What a DataValue says, without the types of the library."""
    status = value.StatusCode
    code = 0 if status is None else int(status.value)
    variant = value.Value
    found = None if variant is None else variant.Value
    if isinstance(found, ua.LocalizedText):
        found = found.Text
    stamp = value.SourceTimestamp
    return Answer(
        found, "" if variant is None else str(variant.VariantType.name), min(2, code >> 30),
        "" if status is None or code >> 30 == 0 else str(status.name),
        None if stamp is None else int(stamp.replace(tzinfo=timezone.utc).timestamp() * 1e6),
    )  # fmt: skip


def _node_id(text: str, uris: Sequence[str]) -> ua.NodeId | str:
    if text.startswith("nsu="):
        uri, _, rest = text.removeprefix("nsu=").partition(";")
        if uri not in uris:
            return f"the server has no namespace {uri}"
        text = f"ns={list(uris).index(uri)};{rest}"
    try:
        return ua.NodeId.from_string(text)
    except (UaError, ValueError) as error:
        return f"{text[:100]} is no NodeId ({error})"


def _file(path: str) -> uacrypto.CertProperties:
    """A file for the library, which else takes its format from its name."""
    content = Path(path).read_bytes()
    return uacrypto.CertProperties(content, extension="pem" if content.startswith(b"-----") else "der")


def application_uri(certificate: Path) -> str:
    """The application's URI in a certificate, which the server compares (Part 4, 6.1.3); raises ValueError, OSError."""
    data = certificate.read_bytes()
    load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
    try:
        names = load(data).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return str(names.get_values_for_type(x509.UniformResourceIdentifier)[0])
    except (x509.ExtensionNotFound, IndexError) as error:
        raise ValueError(f"{certificate} names no application URI (subjectAltName URI:urn:...)") from error


def reason(error: Exception) -> str:
    """An error of the library for a person."""
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    name = type(error).__name__
    return name if isinstance(error, UaStatusCodeError) else f"{name}: {error}"[:300]
