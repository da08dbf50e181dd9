"""Sends one HTTP request to a server that is not trusted to answer in time or in measure.

httpx limits the wait for each read, so a server that sends a byte a second would hold its caller for hours. Here the
whole exchange has one time limit, from the name lookup to the last byte, and the response has a size limit.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx


class ResponseTooLarge(httpx.HTTPError):
    """The response is larger than the caller allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A complete response; `content` is at most the requested maximum."""

    status: int
    reason: str
    headers: httpx.Headers
    content: bytes


def send_request(
    method: str, url: str | httpx.URL, *, headers: Mapping[str, str], content: bytes | None = None,
    query: Mapping[str, str] | None = None, trust: ssl.SSLContext | bool = True, proxy: str = "",
    timeout_s: float, max_bytes: int, cut: bool = False, trust_env: bool = False,
) -> HttpResponse:  # fmt: skip
    """The response to one request; follows no redirect. A proxy of the environment is used with `trust_env` only.

    A longer response than `max_bytes` is cut off if `cut`, else refused. Raises httpx.TimeoutException after
    `timeout_s`, ResponseTooLarge, other httpx.HTTPError, httpx.InvalidURL or ValueError. Call it in a worker thread.
    """

    async def exchange() -> HttpResponse:
        try:
            async with (
                asyncio.timeout(timeout_s),
                httpx.AsyncClient(verify=trust, timeout=timeout_s, trust_env=trust_env, proxy=proxy or None) as client,
                client.stream(method, url, headers=headers, content=content, params=query) as response,
            ):
                body = await _read(response, max_bytes, cut)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no complete response within {timeout_s:g} s") from error
        return HttpResponse(
            status=response.status_code, reason=response.reason_phrase, headers=response.headers, content=body
        )

    return asyncio.run(exchange())


def has_public_address(url: str) -> bool:
    """Whether all addresses of the URL's host are public ones; raises OSError if it has none now."""
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = {str(row[4][0]).partition("%")[0] for row in found}
    return all(ipaddress.ip_address(address).is_global for address in addresses)


async def _read(response: httpx.Response, max_bytes: int, cut: bool) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > max_bytes:
            if cut:
                break
            raise ResponseTooLarge(f"the response is longer than {max_bytes} bytes")
    return bytes(body[:max_bytes])
