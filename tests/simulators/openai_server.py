"""A strict OpenAI-compatible server in a thread: streams, counts what runs, and misbehaves as told.

It checks the key, model, roles and fields of each request as real servers do. `kill` refuses connections, `revive`
listens again at the same port.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

Behaviour = Literal[
    "good", "stalls", "half-a-stream", "pauses", "garbage", "no-http", "busy", "quota", "no-model", "fails", "refuses",
    "no-json", "bad-key",
]  # fmt: skip
ERRORS: dict[str, tuple[int, str, str]] = {
    "busy": (429, "rate limit reached", "Retry-After: 1"), "quota": (429, "insufficient_quota", "X: y"),
    "no-model": (404, "The model does not exist", "X: y"), "fails": (500, "CUDA out of memory", "X: y"),
    "refuses": (400, "This model's maximum context length is 8192 tokens", "X: y"), "bad-key": (401, "bad key", "X: y"),
}  # fmt: skip
TOP = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "stream", "seed",
     "stream_options", "response_format", "tools", "tool_choice", "user", "metadata", "priority",
     "parallel_tool_calls"}
)  # fmt: skip
FLUSH_S = 1.0
"""How long a closed connection may flush."""


@dataclass
class OpenAIServer:
    """Use as a context manager. Answers `text` a word an event: `first_s` before the first, `word_s` between two."""

    model: str = "glm-simulated"
    key: str = ""
    text: str = "all is well"
    behaviour: Behaviour = "good"
    first_s: float = 0.0
    word_s: float = 0.0
    tls: ssl.SSLContext | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    left: int = 0

    def __enter__(self) -> OpenAIServer:
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        self._serving: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.revive()
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def kill(self) -> None:
        """End all connections and refuse new ones."""
        self._do(self._kill)

    def revive(self) -> None:
        """Listen again."""
        self._do(self._listen)

    def _do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(20)

    async def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        """Own a connection from its first moment. asyncio's servers lose those that a stop interrupts."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _kill(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in self._connections.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # ends a handshake, too
        for writer in self._serving:
            writer.transport.abort()

    async def _stop(self) -> None:
        """Return when every connection is closed."""
        await self._kill()
        while self._connections:
            for work in self._serving.values():
                work.cancel()
            await asyncio.wait(set(self._connections), timeout=0.05)

    # -- one connection ------------------------------------------------------------------------------

    async def _connect(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=1 << 24)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self.tls)
        except OSError:
            connection.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        work = self._serving[writer] = self._loop.create_task(self._serve(reader, writer))
        await asyncio.wait({work})
        del self._serving[writer]
        closed = self._loop.create_task(writer.wait_closed())
        await asyncio.wait({closed}, timeout=FLUSH_S)
        transport.abort()  # of a client that does not read
        await asyncio.gather(closed, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *rest = head.decode("latin1").split("\r\n")
                headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest if one)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(line.split()[1], headers, body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _answer(
        self,
        path: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if path == "/v1/models":
            await self._json(writer, 200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
            return
        request = json.loads(body)
        problem = self._problem(path, headers, request)
        if problem:
            await self._json(writer, *problem)
            return
        self.requests.append(request)
        self.headers.append(headers)
        if self.behaviour in ERRORS:
            status, text, header = ERRORS[self.behaviour]
            await self._json(writer, status, {"error": {"message": text, "type": "x"}}, header)
            return
        await self._run(request, reader, writer)

    def _problem(
        self, path: str, headers: dict[str, str], request: dict[str, Any]
    ) -> tuple[int, dict[str, Any]] | None:
        if path != "/v1/chat/completions":
            return 404, {"error": {"message": "no such path"}}
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"error": {"message": "bad key"}}
        if request.get("model") != self.model:
            return 404, {"error": {"message": f"no model {request.get('model')}"}}
        if unknown := set(request) - TOP:
            return 400, {"error": {"message": f"unknown fields {sorted(unknown)}"}}
        roles = [message.get("role") for message in request.get("messages", [])]
        if not roles or not set(roles) <= {"system", "user", "assistant", "tool"}:
            return 400, {"error": {"message": "messages"}}
        return None

    async def _run(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:  # fmt: skip
        """Work on the answer until it is sent or the client is gone."""
        self.running += 1
        self.most = max(self.most, self.running)
        work = asyncio.ensure_future(self._work(request, writer))
        gone = asyncio.ensure_future(reader.read(1)) if not self.tls else asyncio.ensure_future(asyncio.sleep(3600))
        try:
            done, _ = await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work not in done:
                self.left += 1
                raise ConnectionError("the client left")
            work.result()
        finally:
            self.running -= 1
            for one in (work, gone):
                one.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _work(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if self.behaviour == "stalls":
            await asyncio.sleep(3600)
        if self.behaviour == "no-http":
            writer.write(b"\x15\x03\x01 what?\r\n\r\n")
            raise ConnectionError("garbage is sent")
        await asyncio.sleep(self.first_s)
        if request.get("stream"):
            await self._stream(request, writer)
        elif self.behaviour == "garbage":
            await self._json(writer, 200, {"hello": "world"})
        elif self.behaviour == "half-a-stream":
            writer.write(
                b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"choices":'
            )
            raise ConnectionError("half is sent")
        else:
            await asyncio.sleep(self.word_s * len(self.text.split()))
            await self._json(writer, 200, self._completion(request))

    def _completion(self, request: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self._text(request)}
        finish = "stop"
        if request.get("tools") and request.get("tool_choice") != "none":
            name = request["tools"][0]["function"]["name"]
            call = {
                "id": "call_1",
                "type": "function",
                "function": {"name": name, "arguments": '{"device": "press-3"}'},
            }
            message, finish = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
        words = len(self.text.split())
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words},
        }  # fmt: skip

    def _text(self, request: dict[str, Any]) -> str:
        form = request.get("response_format", {}).get("type", "text")
        if form == "text" or self.behaviour == "no-json":
            return self.text
        return json.dumps({"cause": "seal-worn", "confidence": 0.9})

    async def _stream(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if self.behaviour == "garbage":
            self._chunk(writer, b'data: {"error": {"message": "engine died"}}\n\n')
            writer.write(b"0\r\n\r\n")
            return
        words = self._text(request).split(" ")
        for number, word in enumerate(words):
            if number == 1 and self.behaviour == "half-a-stream":
                raise ConnectionError("half is sent")
            if number == 1 and self.behaviour == "pauses":
                await asyncio.sleep(3600)
            await asyncio.sleep(self.word_s if number else 0)
            self._event(writer, [{"index": 0, "delta": {"content": word if not number else f" {word}"}}])
            await writer.drain()
        self._event(writer, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if request.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 10, "completion_tokens": len(words), "total_tokens": 10 + len(words)}
            self._event(writer, [], usage=usage)
        self._chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _event(self, writer: asyncio.StreamWriter, choices: list[Any], **more: Any) -> None:
        body = {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.model,
            "choices": choices,
            **more,
        }
        self._chunk(writer, b"data: " + json.dumps(body).encode() + b"\n\n")

    def _chunk(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(content), content))

    async def _json(
        self, writer: asyncio.StreamWriter, status: int, body: dict[str, Any], header: str = "X: y"
    ) -> None:
        content = json.dumps(body).encode()
        more = f"{header}\r\nContent-Length: {len(content)}"
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
