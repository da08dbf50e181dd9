"""One HTTP connection pool to one engine: key, trust, deadline for the whole exchange, errors by fault.

httpx limits each read; a server that sends a byte a second would hold its caller for hours. Here each wait ends at the
deadline. A wait is limited on its own, not the generator as a whole: a timeout must never hit the consumer's own code.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx

from cloud_hub.inference.engines.errors import EngineBroken, EngineTimeout, EngineUnreachable
from cloud_hub.inference.engines.refusals import refusal
from shared.errors import ConfigError, NotReady, TidegateError

T = TypeVar("T")
MAX_ERROR = 1 << 16
"""The part of a refusal that is read, in bytes."""
_LIMITS = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30.0)
"""Of one client. httpx's own pool compares all its connections with each other at each request, so here a client has
one connection, and `Connection` keeps the free clients.
"""
MAX_IDLE = 64


class Connection:
    """Sends requests to `url`. `key` is asked for each request, may raise ConfigError, and is shown nowhere."""

    def __init__(
        self, name: str, url: str, *, key: Callable[[], str], connect_s: float, place: str, ca_file: str = ""
    ) -> None:  # fmt: skip
        self.name, self.url = name, url.rstrip("/")
        self._key, self._place, self._connect_s = key, place, connect_s
        self._trust = trust(ca_file, place)
        self._idle: list[httpx.AsyncClient] = []
        self._clients: set[httpx.AsyncClient] = set()

    @asynccontextmanager
    async def exchange(
        self, method: str, path: str, *, content: bytes | None = None, deadline_s: float, traceparent: str = ""
    ) -> AsyncIterator[Exchange]:
        """A response with status 200; raises as `Engine.chat`. `path` may be a whole URL of the same server."""
        end = asyncio.get_running_loop().time() + deadline_s
        client = self._take()
        try:
            request = self._request(client, method, path, content, traceparent)
            response = await _until(end, client.send(request, stream=True))
            try:
                if response.status_code != 200:
                    raise await self._refused(response, end)
                yield Exchange(response, end, self.name)
            finally:
                await response.aclose()
        except TimeoutError:
            raise EngineTimeout(f"{self.name}: no complete answer within {deadline_s:g} s", 5.0) from None
        except httpx.HTTPError as error:
            raise self._translated(error) from None
        finally:
            await self._give_back(client)

    async def get(self, path: str, *, deadline_s: float, max_bytes: int) -> bytes:
        """A whole response."""
        async with self.exchange("GET", path, deadline_s=deadline_s) as exchange:
            return await exchange.read(max_bytes)

    async def aclose(self) -> None:
        """Close all connections; the next request opens new ones, in whatever event loop it runs."""
        clients, self._clients, self._idle = self._clients, set(), []
        for client in clients:
            await client.aclose()

    def _take(self) -> httpx.AsyncClient:
        """The client that was used last, whose connection is probably alive, or a new one."""
        if self._idle:
            return self._idle.pop()
        timeout = httpx.Timeout(None, connect=self._connect_s)
        client = httpx.AsyncClient(verify=self._trust, timeout=timeout, limits=_LIMITS, trust_env=False)
        self._clients.add(client)
        return client

    async def _give_back(self, client: httpx.AsyncClient) -> None:
        if client in self._clients and len(self._idle) < MAX_IDLE:
            self._idle.append(client)
            return
        self._clients.discard(client)
        await client.aclose()

    def _request(
        self, client: httpx.AsyncClient, method: str, path: str, content: bytes | None, traceparent: str
    ) -> httpx.Request:  # fmt: skip
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if traceparent:
            headers["traceparent"] = traceparent
        url = path if "://" in path else self.url + path
        return client.build_request(method, url, headers=headers, content=content)

    async def _refused(self, response: httpx.Response, end: float) -> TidegateError:
        """The error for a status; the key is cut out of what the server wrote."""
        body = bytearray()
        async for part in _parts(response.aiter_bytes(), end):
            body += part
            if len(body) > MAX_ERROR:
                break
        text, key = body.decode("utf-8", "replace"), self._key()
        return refusal(self.name, self._place, response, text.replace(key, "***") if key else text)

    def _translated(self, error: httpx.HTTPError) -> TidegateError:
        kind = type(error).__name__
        if isinstance(error, httpx.ConnectTimeout):
            return EngineUnreachable(f"{self.name}: cannot be reached within {self._connect_s:g} s", 5.0)
        if isinstance(error, httpx.ConnectError) and "CERTIFICATE" in str(error).upper():
            cure = "Name the certificate of its authority in ca_file, or renew the server's certificate"
            return ConfigError(self._place, f"{self.name}: its certificate is not trusted", cure)
        if isinstance(error, httpx.ConnectError):
            return EngineUnreachable(f"{self.name}: cannot be reached ({kind})", 5.0)
        early = "without sending a response" in str(error)  # also a kept connection that the server had given up
        if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError) and not early:
            return EngineBroken(f"the response broke off or is no HTTP ({kind})", self.name)
        return NotReady(f"{self.name}: the connection was lost ({kind})", 5.0)


class Exchange:
    """A response that is being read."""

    def __init__(self, response: httpx.Response, end: float, name: str) -> None:
        self.response, self._end, self._name = response, end, name

    def parts(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes."""
        return _parts(self.response.aiter_bytes(), self._end)

    async def read(self, max_bytes: int) -> bytes:
        """The body; raises EngineBroken if it is longer than `max_bytes`."""
        body = bytearray()
        async for part in self.parts():
            body += part
            if len(body) > max_bytes:
                raise EngineBroken(f"the response is longer than {max_bytes} bytes", self._name)
        return bytes(body)


async def _until(end: float, awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout_at(end):
        return await awaitable


async def _parts(source: AsyncIterator[bytes], end: float) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            part = await _until(end, anext(source))
        except StopAsyncIteration:
            return
        yield part


def read_key(path: str, place: str) -> str:
    """The key in a file, '' without a file; raises ConfigError, which never shows what the file holds."""
    if not path:
        return ""
    cure = "Name a readable file that holds nothing but the key"
    try:
        key = Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not ASCII"  # its text could show the key
        raise ConfigError(place, f"'{path}' {reason}", cure) from None
    if not key or not key.isprintable():
        raise ConfigError(place, f"'{path}' holds no key", cure)
    return key


def trust(ca_file: str, place: str) -> ssl.SSLContext:
    """Whose certificates are trusted; raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        cure = "Name a PEM file with the certificate of the server's authority"
        raise ConfigError(f"{place}.ca_file", f"'{ca_file}' cannot be used ({error.strerror})", cure) from None
