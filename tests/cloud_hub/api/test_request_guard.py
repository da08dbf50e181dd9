"""What a stranger can cost the hub over REST: raw sockets against the real web server."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import until
from simulators.enrolment import enrolment_hub
from simulators.rest import RestHub, answer, rest_hub

from cloud_hub.api import http_server, request_guard

JSON = "Content-Type: application/json"
CLOSE = "Connection: close"
BIG = 99 << 20


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestHub]:
    with rest_hub(tmp_path_factory.mktemp("rest")) as one:
        yield one


def flood(connection: socket.socket, size: int) -> int:
    """Send a body of `size` bytes for as long as the other side takes it."""
    part, sent = b"[]," * 20_000, 0
    with contextlib.suppress(OSError):
        while sent < size:
            connection.sendall(part)
            sent += len(part)
    return sent


PATHS = [
    ("POST", "/api/v1/query", 401), ("PATCH", "/api/v1/devices/press-3/twin", 401), ("GET", "/healthz", 401),
    ("POST", "/v1/prometheus/write", 401), ("POST", "/nowhere", 401), ("POST", "/things/press-3/shadow", 403),
    ("POST", "/.well-known/est/simpleenroll", 401),
]  # fmt: skip


@pytest.mark.parametrize("how", ["declared", "chunked"])
@pytest.mark.parametrize(("method", "path", "status"), PATHS)
def test_without_a_token_no_body_is_read(hub: RestHub, method: str, path: str, status: int, how: str) -> None:
    hub.read = 0
    length = f"Content-Length: {BIG}" if how == "declared" else "Transfer-Encoding: chunked"
    with hub.connect() as connection:
        connection.sendall(hub.head(f"{method} {path}", JSON, length, token=""))
        if how == "chunked":
            connection.sendall(b"%x\r\n" % BIG)
        sent = flood(connection, BIG)
        found, _ = answer(connection)
    assert found in {status, 0}  # the end of the connection may overtake the answer
    assert sent < BIG
    assert hub.read < 4 << 20


def test_the_answer_comes_before_the_body_is_sent(hub: RestHub) -> None:
    for token, status in (("", 401), (None, 413)):
        with hub.connect() as connection:
            head = hub.head("POST /api/v1/query", JSON, f"Content-Length: {BIG}", CLOSE, token=token)
            connection.sendall(head)
            assert connection.recv(4096).split()[1] == str(status).encode()


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/api/v1/query"), ("PATCH", "/api/v1/devices/press-3/twin"), ("GET", "/api/v1/devices"),
])  # fmt: skip
def test_a_chunked_body_is_counted_while_it_comes(hub: RestHub, method: str, path: str) -> None:
    hub.read = 0
    with hub.connect() as connection:
        connection.sendall(hub.head(f"{method} {path}", JSON, "Transfer-Encoding: chunked") + b"%x\r\n" % BIG)
        flood(connection, BIG)
        assert answer(connection)[0] in {413, 0}
    assert hub.read < 8 << 20


@pytest.mark.parametrize("body", [
    json.dumps({"desired": {f"k{n}": 1 for n in range(300_000)}}),
    json.dumps({"desired": {f"k{n}": 1 for n in range(60_000)}}),
    json.dumps({"desired": {"a": [[]] * 200_000}}),
    '{"desired": ' + '{"a":' * 60_000 + "1" + "}" * 60_000 + "}",
], ids=["300,000 keys", "60,000 keys", "200,000 lists", "60,000 levels"])  # fmt: skip
def test_a_patch_of_too_many_values_never_reaches_the_parser(hub: RestHub, body: str, monkeypatch: Any) -> None:
    reached: list[str] = []
    monkeypatch.setattr("starlette.requests.Request.json", lambda self: reached.append("parsed"))
    head = hub.head("PATCH /api/v1/devices/press-3/twin", JSON, f"Content-Length: {len(body)}", CLOSE)
    with hub.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head + body.encode())
        status, whole = answer(connection)
    assert status == 413
    assert b"application/problem+json" in whole
    assert reached == []


def test_a_body_that_stops_is_given_up(hub: RestHub, monkeypatch: Any) -> None:
    monkeypatch.setattr(request_guard, "GRACE_S", 0.3)
    with hub.connect() as connection:
        connection.sendall(hub.head("POST /api/v1/query", JSON, "Content-Length: 100") + b'{"query"')
        assert answer(connection)[0] == 408


def test_a_body_that_drips_is_given_up(hub: RestHub, monkeypatch: Any) -> None:
    """Every byte comes before any idle timeout would end it; the rate is too low."""
    monkeypatch.setattr(request_guard, "GRACE_S", 0.5)
    with hub.connect() as connection:
        connection.sendall(hub.head("POST /api/v1/query", JSON, "Content-Length: 100000"))
        connection.settimeout(0.05)
        whole = b""
        for _ in range(200):
            with contextlib.suppress(TimeoutError):
                whole = connection.recv(4096)
                break
            connection.sendall(b" ")
        assert whole.split()[1] == b"408"


@pytest.mark.parametrize(
    "first", [b"", b"GET /healthz HTTP/1.1\r\nHost: hub\r\n", b"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n"]
)
def test_headers_that_never_end_lose_their_connection(hub: RestHub, monkeypatch: Any, first: bytes) -> None:
    """From the beginning, in the middle, and at a second request on a connection that is kept."""
    monkeypatch.setattr(http_server, "HEADER_S", 0.4)
    with hub.connect() as connection:
        connection.sendall(first)
        ended = False
        for _ in range(400):
            connection.settimeout(0.02)
            try:
                if first.endswith(b"\r\n\r\n"):
                    connection.sendall(b"GET /healthz HTTP/1.1\r\n" if _ == 1 else b"X-A: b\r\n" if _ > 1 else b"")
                elif first:
                    connection.sendall(b"X-A: b\r\n")
                ended = connection.recv(4096) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
            if ended:
                break
    assert ended


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_never_ends_loses_its_connection(tmp_path: Path, monkeypatch: Any, first: bytes) -> None:
    """Before the handshake is over, the server does not count a connection; asyncio alone would keep it for 60 s."""
    monkeypatch.setattr(http_server, "HEADER_S", 0.4)
    with (
        enrolment_hub(tmp_path / "hub") as secure,
        socket.create_connection(("127.0.0.1", secure.port), timeout=30) as connection,
    ):
        connection.sendall(first)
        assert connection.recv(1) == b""


def test_connections_are_bounded_for_each_address_and_together(tmp_path: Path) -> None:
    with rest_hub(tmp_path, max_connections=4, max_connections_per_address=3) as hub:
        kept = [hub.connect() for _ in range(3)]
        until("three stand", lambda: len(hub.server.server_state.connections) == 3)
        with hub.connect() as refused:
            assert answer(refused)[0] == 503
        hub.server.config.http_protocol_class.rest.proxies.append("127.0.0.0/8")
        kept.append(hub.connect())
        until("four stand", lambda: len(hub.server.server_state.connections) == 4)
        with hub.connect() as refused:
            assert answer(refused)[0] == 503
        for one in kept:
            one.close()
        until("there is room", lambda: not hub.server.server_state.connections)
        with hub.connect() as connection:
            connection.sendall(hub.head("GET /api/v1/devices", CLOSE))
            assert answer(connection)[0] == 200


def test_bodies_that_wait_share_a_bounded_memory(hub: RestHub, monkeypatch: Any) -> None:
    held: list[int] = []
    hold = request_guard.RequestGuard.hold
    monkeypatch.setattr(request_guard.RequestGuard, "hold", lambda *args: (hold(*args), held.append(args[1])))
    monkeypatch.setattr(request_guard, "BODIES_BYTES", 1000)
    head = hub.head("POST /api/v1/query", JSON, "Content-Length: 900")
    with hub.connect() as first, hub.connect() as second:
        first.sendall(head + b" " * 899)
        until("the first body is held", lambda: sum(held) == 899)
        second.sendall(head + b" " * 899)
        assert second.recv(4096).split()[1] == b"503"
        first.sendall(b" ")
        assert first.recv(4096).split()[1] == b"422"
    with hub.connect() as third:
        third.sendall(head + b" " * 900)
        assert third.recv(4096).split()[1] == b"422"


def test_who_reads_no_answer_loses_the_connection(hub: RestHub, monkeypatch: Any) -> None:
    monkeypatch.setattr(http_server, "WRITE_S", 0.5)
    with hub.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        until("it stands", lambda: hub.server.server_state.connections)
        before = set(hub.server.server_state.connections)
        with contextlib.suppress(OSError):
            for _ in range(400):  # answers of half a megabyte each
                connection.sendall(hub.head("GET /openapi.json"))
        until("it is ended", lambda: not hub.server.server_state.connections & before, 20)
    with hub.connect() as connection:
        connection.sendall(hub.head("GET /api/v1/devices", CLOSE))
        assert answer(connection)[0] == 200, "the hub answers others"
