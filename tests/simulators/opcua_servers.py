"""OPC UA servers: asyncua's own on loopback, with slow answers, bad values and deaths."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID
from simulators.brokers import free_port

URI = "http://plant.example/line"
SERVER_URI = "urn:freeopcua:python:server"
CLIENT_URI = "urn:plant.example:tidegate"


@dataclass
class UaPlc:
    """A server with the variables `ns=2;s=<name>`; tests change them while it runs."""

    port: int
    nodes: dict[str, Any] = field(default_factory=dict)
    server: Any = None
    loop: Any = None

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/plant"

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def put(self, name: str, value: object, status: int = 0) -> None:
        variant = self.call(self.nodes[name].read_data_type_as_variant_type())
        now = datetime.now(timezone.utc)
        data = ua.DataValue(ua.Variant(value, variant), ua.StatusCode(status), SourceTimestamp=now)
        self.call(self.nodes[name].write_value(data))

    def get(self, name: str) -> Any:
        return self.call(self.nodes[name].read_value())

    def die(self) -> None:
        """Stop the server, and end all sessions without a word."""
        self.cut()
        self.call(self.server.stop())

    def rise(self) -> None:
        """Start it again; its clients' sessions and subscriptions are gone."""
        self.call(self.server.start())

    def cut(self) -> None:
        """Close all connections; the server goes on."""

        async def close() -> None:
            for client in list(self.server.bserver.clients):
                client.transport.close()

        self.call(close())

    def pause(self, seconds: float) -> None:
        """Answer nothing for so long."""

        async def sleep() -> None:
            import time

            time.sleep(seconds)

        asyncio.run_coroutine_threadsafe(sleep(), self.loop)


class OneUser:
    """Lets in `operator` with the password `correct`; others only if `anonymous`."""

    def __init__(self, *, anonymous: bool) -> None:
        self._anonymous = anonymous

    def get_user(
        self, _server: Any, username: Any = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        if username is None:
            return User(role=UserRole.User) if self._anonymous else None
        return User(role=UserRole.User) if (username, password) == ("operator", "correct") else None


@dataclass(frozen=True)
class Keys:
    """Certificates of a server and a client."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)


def make_keys(folder: Path) -> Keys:
    async def make() -> None:
        for name, uri, usage in (
            ("server", SERVER_URI, ExtendedKeyUsageOID.SERVER_AUTH),
            ("client", CLIENT_URI, ExtendedKeyUsageOID.CLIENT_AUTH),
        ):
            await setup_self_signed_certificate(
                folder / f"{name}-key.pem", folder / f"{name}.der", uri, "localhost", [usage], {}
            )

    asyncio.run(make())
    return Keys(folder)


@contextmanager
def ua_plc(
    variables: Mapping[str, tuple[object, str]], port: int = 0, keys: Keys | None = None, *, anonymous: bool = True
) -> Iterator[UaPlc]:
    """A server with these variables: value and built-in type by name. With `keys` it only speaks encrypted."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    plc = UaPlc(port or free_port())
    plc.loop = asyncio.new_event_loop()
    thread = threading.Thread(target=plc.loop.run_forever, daemon=True)
    thread.start()

    async def start() -> None:
        plc.server = Server(user_manager=OneUser(anonymous=anonymous))
        await plc.server.init()
        plc.server.disable_clock()
        plc.server.set_endpoint(plc.url)
        policy = ua.SecurityPolicyType.NoSecurity
        if keys is not None:
            policy = ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt
            await plc.server.load_certificate(keys.path("server.der"))
            await plc.server.load_private_key(keys.path("server-key.pem"))
        plc.server.set_security_policy([policy])
        space = await plc.server.register_namespace(URI)
        for name, (value, variant) in variables.items():
            node = await plc.server.nodes.objects.add_variable(
                ua.NodeId(name, space), name, value, ua.VariantType[variant]
            )
            await node.set_writable()
            plc.nodes[name] = node
        await plc.server.start()

    async def stop() -> None:
        await plc.server.stop()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        plc.call(start())
        yield plc
    finally:
        plc.call(stop())
        plc.loop.call_soon_threadsafe(plc.loop.stop)
        thread.join(5)
        plc.loop.close()
