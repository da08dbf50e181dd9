"""The HTTP connections to one engine: key, trust, deadline for the whole exchange, errors by fault.

A limit for each read is not enough: a server that sends a byte a second would hold its caller for hours. Here each wait
ends at the deadline. A wait is limited on its own, not the generator as a whole: a timeout must never hit what the
consumer does in between.

The client is aiohttp's: a request costs a sixth of the CPU of one by httpx (docs/benchmarks/glm.md).
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp

from cloud_hub.inference.engines.errors import EngineBroken, EngineTimeout, EngineUnreachable
from cloud_hub.inference.engines.refusals import refusal
from shared.errors import ConfigError, NotReady, TidegateError

T = TypeVar("T")
MAX_ERROR = 1 << 16
"""The part of a refusal that is read, in bytes."""
KEEP_ALIVE_S = 30.0
LARGE = 1 << 20


class Connection:
    """Sends requests to `url`. `key` is asked for each request, may raise ConfigError, and is shown nowhere."""

    def __init__(
        self, name: str, url: str, *, key: Callable[[], str], connect_s: float, place: str, ca_file: str = ""
    ) -> None:  # fmt: skip
        self.name, self.url = name, url.rstrip("/")
        self._key, self._place, self._connect_s = key, place, connect_s
        self._trust = trust(ca_file, place)
        self._client: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def exchange(
        self, method: str, path: str, *, content: bytes | None = None, deadline_s: float, traceparent: str = ""
    ) -> AsyncIterator[Exchange]:
        """A response with status 200; raises as `Engine.chat`. `path` may be a whole URL of the same server."""
        end = asyncio.get_running_loop().time() + deadline_s
        url = path if "://" in path else self.url + path
        headers = self._headers(content, traceparent)
        try:
            data = io.BytesIO(content) if content is not None and len(content) > LARGE else content  # sent in parts
            sent = self._session().request(method, url, data=data, headers=headers, allow_redirects=False)
            response = await _until(end, sent)
            try:
                if response.status != 200:
                    raise await self._refused(response, end)
                yield Exchange(response, end, self.name)
            finally:
                response.release()  # closes the connection, unless all was read
        except aiohttp.ConnectionTimeoutError:
            raise EngineUnreachable(f"{self.name}: cannot be reached within {self._connect_s:g} s", 5.0) from None
        except TimeoutError:
            raise EngineTimeout(f"{self.name}: no complete answer within {deadline_s:g} s", 5.0) from None
        except aiohttp.ClientError as error:
            raise self._translated(error) from None

    async def get(self, path: str, *, deadline_s: float, max_bytes: int) -> bytes:
        """A whole response."""
        async with self.exchange("GET", path, deadline_s=deadline_s) as exchange:
            return await exchange.read(max_bytes)

    async def aclose(self) -> None:
        """Close all connections; the next request opens new ones, in whatever event loop it runs."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _session(self) -> aiohttp.ClientSession:
        """The client, which belongs to the event loop that uses it first."""
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._trust, keepalive_timeout=KEEP_ALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._client

    def _headers(self, content: bytes | None, traceparent: str) -> dict[str, str]:
        key = self._key()
        headers = {"Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if content is not None:
            headers["Content-Type"] = "application/json"
        if traceparent:
            headers["traceparent"] = traceparent
        return headers

    async def _refused(self, response: aiohttp.ClientResponse, end: float) -> TidegateError:
        """The error for a status; the key is cut out of what the server wrote."""
        body = bytearray()
        async for part in _parts(response.content, end):
            body += part
            if len(body) > MAX_ERROR:
                break
        text, key = body.decode("utf-8", "replace"), self._key()
        wait = response.headers.get("Retry-After", "")
        return refusal(self.name, self._place, response.status, wait, text.replace(key, "***") if key else text)

    def _translated(self, error: aiohttp.ClientError) -> TidegateError:
        kind = type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            cure = "Name the certificate of its authority in ca_file, or renew the server's certificate"
            return ConfigError(self._place, f"{self.name}: its certificate is not trusted", cure)
        if isinstance(error, aiohttp.ClientConnectorError):
            return EngineUnreachable(f"{self.name}: cannot be reached ({kind})", 5.0)
        if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
            return EngineBroken(f"the response broke off or is no HTTP ({kind})", self.name)
        return NotReady(f"{self.name}: the connection was lost ({kind})", 5.0)


class Exchange:
    """A response that is being read."""

    def __init__(self, response: aiohttp.ClientResponse, end: float, name: str) -> None:
        self.content_type = response.headers.get("Content-Type", "")
        self._response, self._end, self._name = response, end, name

    def parts(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes."""
        return _parts(self._response.content, self._end)

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


async def _parts(content: aiohttp.StreamReader, end: float) -> AsyncGenerator[bytes, None]:
    while part := await _until(end, content.readany()):
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
