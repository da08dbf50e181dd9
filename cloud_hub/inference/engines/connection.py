"""One HTTP connection pool to one engine: key, trust, deadline for the whole exchange, errors by fault.

httpx limits each read; a server that sends a byte a second would hold its caller for hours. Here each wait ends at the
deadline. A wait is limited on its own, not the generator as a whole: a timeout must never hit the consumer's own code.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
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
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)


class Connection:
    """Sends requests to `url`. The key is read from its file for each request and shown nowhere."""

    def __init__(self, name: str, url: str, *, key_file: str, ca_file: str, connect_s: float, place: str) -> None:
        self.name, self.url = name, url.rstrip("/")
        self._key_file, self._place, self._connect_s = key_file, place, connect_s
        self._trust = _trust(ca_file, place)
        self._client: httpx.AsyncClient | None = None
        self.key()

    def key(self) -> str:
        """The key, or '' without one; raises ConfigError."""
        return read_key(self._key_file, f"{self._place}.key_file") if self._key_file else ""

    @asynccontextmanager
    async def exchange(
        self, method: str, path: str, *, content: bytes | None = None, deadline_s: float, traceparent: str = ""
    ) -> AsyncIterator[Exchange]:
        """A response with status 200; raises as `Engine.chat`. `path` may be a whole URL of the same server."""
        end = asyncio.get_running_loop().time() + deadline_s
        request = self._request(method, path, content, traceparent)
        try:
            response = await _until(end, self._open().send(request, stream=True))
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

    async def get(self, path: str, *, deadline_s: float, max_bytes: int) -> bytes:
        """A whole response."""
        async with self.exchange("GET", path, deadline_s=deadline_s) as exchange:
            return await exchange.whole(max_bytes)

    async def aclose(self) -> None:
        """Close all connections; the next request opens new ones, in whatever event loop it runs."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            timeout = httpx.Timeout(None, connect=self._connect_s)
            self._client = httpx.AsyncClient(verify=self._trust, timeout=timeout, limits=_LIMITS, trust_env=False)
        return self._client

    def _request(self, method: str, path: str, content: bytes | None, traceparent: str) -> httpx.Request:
        key = self.key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if traceparent:
            headers["traceparent"] = traceparent
        url = path if "://" in path else self.url + path
        return self._open().build_request(method, url, headers=headers, content=content)

    async def _refused(self, response: httpx.Response, end: float) -> TidegateError:
        """The error for a status; the key is cut out of what the server wrote."""
        body = bytearray()
        async for part in _parts(response.aiter_bytes(), end):
            body += part
            if len(body) > MAX_ERROR:
                break
        text, key = body.decode("utf-8", "replace"), self.key()
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

    async def whole(self, max_bytes: int) -> bytes:
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
    """The key in a file; raises ConfigError, which never shows what the file holds."""
    cure = "Name a readable file that holds nothing but the key"
    try:
        key = Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not ASCII"  # its text could show the key
        raise ConfigError(place, f"'{path}' {reason}", cure) from None
    if not key or not key.isprintable():
        raise ConfigError(place, f"'{path}' holds no key", cure)
    return key


def _trust(ca_file: str, place: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        cure = "Name a PEM file with the certificate of the server's authority"
        raise ConfigError(f"{place}.ca_file", f"'{ca_file}' cannot be used ({error.strerror})", cure) from None
