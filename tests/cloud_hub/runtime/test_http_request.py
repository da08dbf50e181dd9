"""One time limit for a whole exchange, whatever the server does with it, and a limit of the response's size."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from cloud_hub.runtime.http_request import HttpResponse, ResponseTooLarge, send_request

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


def silent(_: Callable[[bytes], None]) -> None:
    """Send nothing."""


def trickled_head(send: Callable[[bytes], None]) -> None:
    send(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        send(b"x")


def trickled_body(send: Callable[[bytes], None]) -> None:
    send(HEAD)
    while True:
        send(b"x")


def large(send: Callable[[bytes], None]) -> None:
    send(HEAD + b"y" * 100_000)


@contextmanager
def server(act: Callable[[Callable[[bytes], None]], None]) -> Iterator[tuple[str, list[bool]]]:
    """(address, whether the client has left) of a server that answers one request by `act`, a piece each 20 ms."""
    left: list[bool] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()

        def send(piece: bytes) -> None:
            connection.sendall(piece)
            time.sleep(0.02)

        with connection:
            connection.recv(65536)
            try:
                act(send)
                connection.settimeout(20)
                while connection.recv(65536):
                    pass
                left.append(True)
            except OSError:
                left.append(True)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", left
    thread.join(20)
    listener.close()


def ask(url: str, timeout_s: float = 30.0, **more: bool) -> HttpResponse:
    return send_request("POST", url, headers={}, content=b"{}", timeout_s=timeout_s, max_bytes=1000, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("act", [silent, trickled_head, trickled_body])
def test_a_slow_server_is_left_when_the_time_is_over(act: Callable[[Callable[[bytes], None]], None]) -> None:
    with server(act) as (url, left), pytest.raises(httpx.TimeoutException):
        ask(url, timeout_s=0.5)
    assert left == [True]


def test_a_large_response_is_refused_or_cut() -> None:
    with server(large) as (url, _), pytest.raises(ResponseTooLarge, match="1000 bytes"):
        ask(url)
    with server(large) as (url, _):
        assert ask(url, cut=True).content == b"y" * 1000


def test_a_response_has_status_headers_and_content() -> None:
    with server(lambda send: send(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}")) as (url, _):
        answer = ask(url)
    assert (answer.status, answer.reason, answer.headers["retry-after"], answer.content) == (429, "Slow", "7", b"{}")


def test_nobody_at_the_address() -> None:
    with pytest.raises(httpx.ConnectError):
        ask("http://127.0.0.1:1/")
