"""A strict, simulated OpenAI-compatible server on 127.0.0.1 that answers as `behaviour` says.

It refuses what a real one refuses (key, model, messages, response_format, tools, images, priority). What it answers is
in `glm_answers`.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from simulators import glm_answers as answers
from simulators.glm_answers import Behaviour, Json

METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{model}"}} {running}.0
vllm:num_requests_waiting{{engine="0",model_name="{model}"}} 2.0
vllm:kv_cache_usage_perc{{engine="0",model_name="{model}"}} 0.25
"""
Feature = Literal["json_schema", "tools", "vision", "priority", "models", "metrics"]
ALL: frozenset[Feature] = frozenset(("json_schema", "tools", "vision", "priority", "models", "metrics"))


@dataclass
class GlmSimulator:
    """Use as a context manager; `requests` holds the bodies of all accepted requests.

    `features` are what the server can do. `first_s` passes before an answer, `event_s` between events of a stream.
    `running` is how many requests are under way now, `gone` how many callers went away early.
    """

    key: str = "secret-key-4711"
    model: str = "glm-simulated"
    behaviour: Behaviour = "good"
    features: frozenset[Feature] = ALL
    context: int = 8192
    first_s: float = 0.0
    event_s: float = 0.0
    tls: tuple[str, str] | None = None
    requests: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    running: int = 0
    most: int = 0
    gone: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> GlmSimulator:
        self._server = _Quiet(("127.0.0.1", 0), _answering(self))
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if self.tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request."""
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            yield
        except OSError:
            self.gone += 1
            raise
        finally:
            with self.lock:
                self.running -= 1

    def refusal(self, authorization: str, body: bytes) -> tuple[int, Json] | None:
        """Status and error if a strict server refuses the request."""
        if self.key and authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": f"bad key {authorization}"}}
        match self.behaviour:
            case "fails":
                return 500, {"error": "oops"}
            case "busy":
                return 429, {"error": {"message": "slow down"}}
            case "quota":
                return 429, {"error": {"code": "1113", "message": "Insufficient balance"}}
        try:
            request = json.loads(body)
        except ValueError:
            return 400, {"error": {"message": "no JSON"}}
        if request.get("model") != self.model:
            return 404, {"error": {"message": "no such model"}}
        problem = answers.problem(request, self.features, self.context)
        return (400, {"error": {"message": problem}}) if problem else None

    def models(self) -> Json:
        """The list of models."""
        return {"object": "list", "data": [{"id": self.model, "object": "model", "max_model_len": self.context}]}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the play."""


def _answering(simulator: GlmSimulator) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def setup(self) -> None:
            super().setup()
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

        def do_GET(self) -> None:
            if simulator.behaviour == "fails":
                self.send(500, {})
            elif self.path == "/v1/models" and "models" in simulator.features:
                allowed = self.headers.get("Authorization", "") == f"Bearer {simulator.key}" or not simulator.key
                self.send(200 if allowed else 401, simulator.models() if allowed else {})
            elif self.path == "/metrics" and "metrics" in simulator.features:
                text = METRICS.format(model=simulator.model, running=simulator.running)
                self.send_bytes(200, text.encode(), "text/plain; version=0.0.4")
            else:
                self.send(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.path != "/v1/chat/completions":
                self.send(404, {})
            elif refusal := simulator.refusal(self.headers.get("Authorization", ""), body):
                self.send(*refusal)
            else:
                request = json.loads(body)
                simulator.requests.append(request)
                simulator.headers.append({name.lower(): value for name, value in self.headers.items()})
                with simulator.under_way():
                    self.play(request)

        def play(self, request: Json) -> None:
            simulator.released.wait(10.0 if simulator.behaviour == "slow" else simulator.first_s)
            match simulator.behaviour:
                case "no-completion":
                    return self.send(200, {"hello": "world"})
                case "garbage":
                    return self.send_bytes(200, b"\x00\xff<html>", "text/html")
                case "huge":
                    return self.send_bytes(200, b" " * (5 << 20), "application/json")
                case "half-a-body":
                    return self.half()
                case "drip":
                    return self.drip()
            message = answers.message(request, simulator.behaviour)
            if request.get("stream"):
                return self.stream(answers.events(request, message, simulator.behaviour))
            return self.send(200, answers.completion(request, message, simulator.behaviour))

        def stream(self, events: list[bytes]) -> None:
            self.begin_chunks("text/event-stream; charset=utf-8")
            for event in events:
                self.chunk(event)
                simulator.released.wait(simulator.event_s)
            if simulator.behaviour == "half-a-stream":
                self.close_connection = True
                return
            self.chunk(b"")

        def half(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices"')
            self.close_connection = True

        def drip(self) -> None:
            self.begin_chunks("application/json")
            while not simulator.released.wait(0.02):
                self.chunk(b" ")

        def begin_chunks(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def send(self, status: int, value: Any) -> None:
            self.send_bytes(status, json.dumps(value).encode(), "application/json")

        def send_bytes(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Answering
