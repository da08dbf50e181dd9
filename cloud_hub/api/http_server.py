"""The web server: uvicorn with bounds on connections and on the time that a request's headers may take.

uvicorn limits only the idle time between two requests: a connection that never completes a request would stay open.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloud_hub.settings import Rest

log = logging.getLogger(__name__)

HEADER_S = 10.0
"""The timeout from the connection, or the first byte of a further request, to the end of the headers."""
WRITE_S = 60.0
"""The timeout for the client to read from a full send buffer."""
ENDS_AT_SHUTDOWN = "tidegate.ends_at_shutdown"
"""A request whose scope has this key is a stream without an end: at shutdown its connection is closed."""
_BUSY = (b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 21\r\nRetry-After: 1\r\n"
         b"Connection: close\r\n\r\nToo many connections\n")  # fmt: skip


class BoundedProtocol(H11Protocol):
    """HTTP on one connection. `rest` holds the bounds; `config` makes a class for each server."""

    rest: Rest
    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    @property
    def host(self) -> str:
        """The address of the client."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        if not self._has_room():
            self.connections.discard(self)
            transport.write(_BUSY)
            transport.close()
            return
        self._time_headers()

    def _has_room(self) -> bool:
        if len(self.connections) > self.rest.max_connections:
            return False
        host = self.host
        mine = sum(
            1 for connection in self.connections if isinstance(connection, BoundedProtocol) and connection.host == host
        )
        return mine <= self.rest.max_connections_per_address or _is_proxy(host, self.rest.proxies)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then check whether a request has started."""
        super().data_received(data)
        self._time_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Let the request end; a stream without an end is ended."""
        super().shutdown()
        if self.cycle is not None and ENDS_AT_SHUTDOWN in self.cycle.scope:
            self.transport.close()

    def pause_writing(self) -> None:
        """Start the write timeout: the client does not read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the write timeout: the client reads again."""
        self._stop_write_timer()
        super().resume_writing()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _time_headers(self) -> None:
        """Run the timer only while headers are expected."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._header_timer is None and self.timeout_keep_alive_task is None:
            self._header_timer = self.loop.call_later(HEADER_S, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        log.info("rest.slow_headers", extra={"fields": {"address": self.host}})
        self.transport.abort()


def _is_proxy(host: str, proxies: list[str]) -> bool:
    """Whether an address is in `rest.proxies`: an address, a network, or * for all."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
        return any(network == "*" or address in ipaddress.ip_network(network, strict=False) for network in proxies)
    except ValueError:
        return host in proxies


class HubEventLoop(asyncio.SelectorEventLoop):
    """The event loop of the server, with a shorter TLS handshake timeout than asyncio's 60 s.

    A connection counts among the server's only after its handshake, so until then nothing else ends it.
    """

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen as asyncio does."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HEADER_S)
        return await super().create_server(*arguments, **options)


def config(app: Any, rest: Rest) -> uvicorn.Config:
    """The uvicorn configuration of the hub's REST."""
    protocol = type("Protocol", (BoundedProtocol,), {"rest": rest})
    made = uvicorn.Config(
        app, host=rest.host, port=rest.port, http=protocol, ws="none", log_config=None, access_log=False,
        loop=f"{__name__}:{HubEventLoop.__name__}",
        timeout_graceful_shutdown=5, forwarded_allow_ips=rest.proxies,
        ssl_certfile=rest.tls.certificate if rest.tls else None, ssl_keyfile=rest.tls.key if rest.tls else None,
    )  # fmt: skip
    made.load()
    if made.ssl is not None:
        made.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return made
