"""Probes a broker's security from outside and reports what is open (`tidegate-hub broker check`).

Two test identities of the hub's CA, valid for an hour, act as two devices: what one can read or write of the other, any
device can. No real device is disturbed. An access counts as refused only after a probe on the identity's own topics has
arrived.
"""

from __future__ import annotations

import math
import secrets
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cloud_hub.certificates.core.authority import Authority
from cloud_hub.certificates.files import CaFolder, write_file
from cloud_hub.clock import now_us
from shared.process.checks import connection_error
from shared.protocol import topics
from shared.protocol.codec import MAX_PAYLOAD
from shared.transport.mqtt import Address, Connection, Inbound, Options, Tls

Identity = tuple[str, Tls]
"""CN, and the files that prove it."""

HOUR_DAYS = 1 / 24
WAIT_S = 5.0
SETTLE_S = 1.0
"""How long to wait for messages that must not arrive, after those that must."""
SLOW_S = 0.03
"""A round trip on an idle connection beyond this and two of TCP's is Nagle's algorithm at work (about 40 ms)."""

_CONNECT = bytes.fromhex("1012 0004 4d515454 05 02 003c 00 0005 70726f6265")
"""MQTT 5 CONNECT, clean start, keep-alive 60 s, client id "probe" (MQTT 5.0, section 3.1)."""


def check_broker(address: Address, ca: CaFolder, aws_alias: bool) -> list[str]:
    """What is wrong with the broker at `address`; empty when nothing was found. ConfigError without a CA."""
    authority = ca.open()
    if reason := connection_error(address, None):
        return [f"{reason} Where it does not start, give its folder: --folder"]
    with tempfile.TemporaryDirectory(prefix="tidegate-check-") as name:
        folder = Path(name)
        first, second = (_identity(folder, authority, f"tidegate-check-{secrets.token_hex(4)}") for _ in range(2))
        stranger = _identity(folder, Authority.create("stranger", now_us()), "tidegate-check")
        problems = _listeners(address, first, stranger)
        try:
            return problems + _inside(address, first, second, aws_alias)
        except _Refused as error:
            return [*problems, f"a client with a certificate of the hub's CA: {error}"]


class _Refused(Exception):
    """A required access does not work, so nothing further can be checked."""


def _identity(folder: Path, authority: Authority, cn: str) -> Identity:
    issued = authority.client(cn, now_us(), HOUR_DAYS)
    tls = Tls(ca=str(folder / f"{cn}.ca"), certificate=str(folder / f"{cn}.pem"), key=str(folder / f"{cn}.key"))
    for path, content in ((tls.ca, authority.pem), (tls.certificate, issued.certificate), (tls.key, issued.key)):
        write_file(Path(path), content, secret=True)
    return cn, tls


# -- from outside ------------------------------------------------------------------------------------


def _listeners(address: Address, known: Identity, stranger: Identity) -> list[str]:
    new, old = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2
    tries = (
        ("it speaks MQTT without TLS. Let no listener be without certfile and keyfile", None, None),
        ("it lets in who has no certificate. Set: require_certificate true, allow_anonymous false", new, None),
        ("it lets in certificates of any CA. Set cafile to the hub's CA, and no other", new, stranger[1]),
        ("it speaks TLS 1.2. Set: tls_version tlsv1.3", old, known[1]),
    )
    return [text for text, version, tls in tries if accepts_connection(address, version, tls)]


def accepts_connection(address: Address, version: ssl.TLSVersion | None, tls: Tls | None) -> bool:
    """Whether a CONNECT is answered with success (a CONNACK whose reason is 0)."""
    try:
        with socket.create_connection(address, WAIT_S) as plain:
            if version is None:
                return _connects(plain)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who we are is in question, not they
            context.minimum_version = context.maximum_version = version
            if tls is not None:
                context.load_cert_chain(tls.certificate, tls.key)
            with context.wrap_socket(plain) as secured:
                return _connects(secured)
    except OSError:
        return False


def _connects(link: socket.socket) -> bool:
    link.sendall(_CONNECT)
    answer = link.recv(4)
    return len(answer) == 4 and answer[0] == 0x20 and answer[3] == 0


# -- from inside -------------------------------------------------------------------------------------


class _Client:
    """A connection that records the last payload received on each topic."""

    def __init__(self, address: Address, identity: Identity, filters: list[str], client_id: str = "") -> None:
        self.received: dict[str, bytes] = {}
        self._up, self.down, self.reason = threading.Event(), threading.Event(), ""
        self._condition = threading.Condition()
        options = Options(client_id=client_id or identity[0], filters=filters, tls=identity[1])
        self._connection = Connection(options, lambda: address, self._on_message, self._up.set, self._lost)
        self._connection.start()
        deadline = time.monotonic() + WAIT_S
        while not self._up.wait(0.02):
            if self.down.is_set() or time.monotonic() > deadline:
                self.stop()
                raise _Refused(self.reason or f"no answer within {WAIT_S:g} s")

    def _on_message(self, message: Inbound) -> None:
        with self._condition:
            self.received[message.topic] = message.payload
            self._condition.notify_all()

    def _lost(self, reason: str) -> None:
        self.reason = reason
        self.down.set()

    def publish(self, topic: str, payload: bytes = b"probe") -> None:
        self._connection.publish(topic, payload)

    def echo_s(self, topic: str, payload: bytes) -> float:
        """Seconds until a message published to its own topic comes back; infinity if it does not."""
        begun = time.monotonic()
        self.publish(topic, payload)
        with self._condition:
            came = self._condition.wait_for(lambda: self.received.get(topic) == payload, WAIT_S)
        return time.monotonic() - begun if came else math.inf

    def stop(self) -> None:
        self._connection.stop()


def _inside(address: Address, first: Identity, second: Identity, aws_alias: bool) -> list[str]:
    own = [_topic(first), *([_topic(first, topics.AWS)] if aws_alias else [])]
    client = _Client(address, first, own)
    try:
        problems = _own(client, own, _tcp_s(address))
    finally:
        client.stop()
    return problems + _bound(address, first) + _others(address, first, second)


def _topic(identity: Identity, prefix: str = topics.PREFIX) -> str:
    return topics.shadow(identity[0], "", "get", prefix)


def _tcp_s(address: Address) -> float:
    begun = time.monotonic()
    with socket.create_connection(address, WAIT_S):
        return time.monotonic() - begun


def _own(client: _Client, own: list[str], tcp_s: float) -> list[str]:
    """What each identity must be able to do; without its own topics there is nothing more to try."""
    if client.echo_s(own[0], b"first") == math.inf:
        raise _Refused(f"an identity cannot use its own topics ({own[0]}). Let the access list allow things/%u/#")
    problems = []
    if own[1:] and client.echo_s(own[1], b"first") == math.inf:
        problems.append("$aws is missing: no shadow of AWS's clients. Run: tidegate-hub broker setup --aws-alias")
    if client.echo_s(own[0], bytes(MAX_PAYLOAD)) == math.inf:
        problems.append(f"messages of {MAX_PAYLOAD} bytes do not pass. Set max_packet_size {MAX_PAYLOAD + 4096}")
    trip_s = statistics.median(client.echo_s(own[0], bytes([number])) for number in range(7))
    return problems + is_nagle_delayed(trip_s, tcp_s)


def is_nagle_delayed(trip_s: float, tcp_s: float) -> list[str]:
    """Nagle's algorithm, guessed from an idle round trip beside the time that TCP's own took."""
    if trip_s < 2 * tcp_s + SLOW_S:
        return []
    text = f"a message took {trip_s * 1e3:.0f} ms there and back, TCP {tcp_s * 1e3:.0f} ms"
    return [f"{text}: nodelay is off, or the broker is busy. Set: set_tcp_nodelay true"]


def _bound(address: Address, identity: Identity) -> list[str]:
    """The same certificate under another client id must be the same session: else client ids are anybody's."""
    client = _Client(address, identity, [_topic(identity)])
    try:
        _Client(address, identity, [_topic(identity)], client_id=f"{identity[0]}-2").stop()
        bound = client.down.wait(SETTLE_S)
    except _Refused:
        bound = True
    finally:
        client.stop()
    return (
        []
        if bound
        else ["client ids are free: one device can end another's session. Set: use_username_as_clientid true"]
    )


def _others(address: Address, first: Identity, second: Identity) -> list[str]:
    """What `first` can hear and say of `second`; a broker that refuses the subscription is as good as a silent one."""
    theirs = [_topic(second), topics.thing(second[0], "acks"), f"{topics.SPARKPLUG}/check/NDATA/{second[0]}"]
    victim = _Client(address, second, [topics.thing(second[0], "#")])
    problems = []
    try:
        for wide in ("#", topics.thing("+", "#"), topics.thing(second[0], "#"), f"{topics.SPARKPLUG}/#", "$SYS/#"):
            if _overhears(address, first, wide, lambda: victim.echo_s(theirs[0], wide.encode())):  # noqa: B023
                problems.append(f"a device hears others' messages by '{wide}'. Allow it things/%u/# and no more")
        intruder = _Client(address, first, [_topic(first)])
        for topic in theirs:
            intruder.publish(topic, b"intruder")
        intruder.echo_s(_topic(first), b"last")
        time.sleep(SETTLE_S)
        intruder.stop()
        if b"intruder" in victim.received.values():
            problems.append("a device can speak in another's name. Allow it to write things/%u/# and no more")
    finally:
        victim.stop()
    return problems


def _overhears(address: Address, identity: Identity, wide: str, speak: Callable[[], float]) -> bool:
    try:
        spy = _Client(address, identity, [wide, _topic(identity)])
    except _Refused:
        return False
    speak()
    spy.echo_s(_topic(identity), b"last")  # of one connection, in order: what was said before has come before
    time.sleep(0.1)
    spy.stop()
    return any(topic != _topic(identity) for topic in spy.received)
