"""A simulated group of instances behind an HTTP API, with the faults that clouds have. Subclasses speak an API.

It keeps minimum and maximum, starts instances slowly, logs each call, and strikes with scripted faults. Nothing is
started; it listens on 127.0.0.1 only.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal[
    "lose-request", "lose-answer", "late", "fail", "fail-after", "html", "other", "throttle", "expired"
]
Answer: TypeAlias = tuple[int, str, bytes]
"""Status, content type, body; status 0 closes the connection."""

PAGE: Answer = (200, "text/html", b"<html><body>Sign in to the network</body></html>")
REFUSED_BEFORE = ("throttle", "expired", "fail", "lose-request")


@dataclass(slots=True)
class Group:
    """The instances. `now_s` is a clock that stands still until the test moves it."""

    name: str = "experts"
    desired: int = 1
    minimum: int = 0
    maximum: int = 5
    boot_s: float = 60.0
    now_s: float = 1000.0
    ready_at: list[float] = field(default_factory=list)
    writes: int = 0

    def resize(self, to: int) -> None:
        """Set the desired count: by the API, or by another writer."""
        while len(self.ready_at) < self.desired:
            self.ready_at.append(0.0)
        self.ready_at = self.ready_at[:to] + [self.now_s + self.boot_s] * max(0, to - len(self.ready_at))
        self.desired = to

    @property
    def ready(self) -> int:
        """Instances that have booted."""
        return sum(at <= self.now_s for at in self.ready_at) if self.ready_at or not self.desired else self.desired


class GroupServer:
    """Serves the API of a group. `faults` strike the next writes, one each, `read_faults` the next reads.

    'lose-request' and 'lose-answer' close the connection before and after the work, 'late' answers only when the server
    stops, 'fail' and 'fail-after' answer 500, 'html' and 'other' answer with a page and with another group's data after
    the work, 'throttle' and 'expired' refuse.
    """

    def __init__(self, group: Group | None = None) -> None:
        self.group = group or Group()
        self.faults: list[Fault] = []
        self.read_faults: list[Fault] = []
        self.log: list[str] = []
        self.problems: list[str] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    # what an API implements

    def is_write(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether the request changes the group."""
        raise NotImplementedError

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes, other: bool) -> Answer:
        """Carry the request out. `other`: answer as if about another group."""
        raise NotImplementedError

    def error(self, fault: str) -> Answer:
        """The API's answer to 'throttle', 'expired' and 'fail'."""
        raise NotImplementedError

    # what they have in common

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to one request, with the next fault."""
        with self._lock:
            write = self.is_write(method, path, headers, body)
            faults = self.faults if write else self.read_faults
            fault = faults.pop(0) if faults else ""
            self.log.append(f"{'write' if write else 'read'} {fault}".strip())
            if fault in REFUSED_BEFORE:
                return (0, "", b"") if fault == "lose-request" else self.error(fault)
            done = self.serve(method, path, headers, body, fault == "other")
        if fault == "late":
            self._stopping.wait(60)
        if fault in ("lose-answer", "late"):
            return 0, "", b""
        if fault == "fail-after":
            return self.error("fail")
        return PAGE if fault == "html" else done

    def resize(self, to: int) -> None:
        """Another writer sets the count."""
        with self._lock:
            self.group.resize(to)

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> GroupServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _handler(server: GroupServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {key.lower(): value for key, value in self.headers.items()}
            status, kind, content = server.answer(self.command, self.path, headers, body)
            if status == 0:
                return
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = _reply  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Log nothing: the server has its own log."""

    return Handler
