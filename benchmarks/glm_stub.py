"""A stub engine: `python -m benchmarks.glm_stub PORT THINK_MS`. At PORT + 1 it takes orders while PORT is closed."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

ANSWER = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "glm-stub",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "because " * 32}}],
    "usage": {"prompt_tokens": 210, "completion_tokens": 32, "total_tokens": 242},
}).encode()  # fmt: skip


class Stub:
    """Answers every request after `think_s`, or misbehaves."""

    def __init__(self, port: int, think_s: float) -> None:
        self._port, self._think_s = port, think_s
        self._behaviour = "good"
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        """Serve for ever."""
        await asyncio.start_server(self._serve, "127.0.0.1", self._port + 1)
        await self._listen()
        await asyncio.Event().wait()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=1024)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /behave/"):
                    await self._behave(head.split()[1].decode().rpartition("/")[2], writer)
                    return
                low = head.lower()
                mark = low.find(b"content-length: ")
                if mark >= 0:
                    await reader.readexactly(int(low[mark + 16 : low.find(b"\r\n", mark)]))
                await self._answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600 if self._behaviour == "stalls" else self._think_s * random.uniform(0.5, 1.5))
        body = b"<html>504</html>" if self._behaviour == "garbage" else ANSWER
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                     % (len(body), body))  # fmt: skip
        await writer.drain()

    async def _behave(self, behaviour: str, asking: Any) -> None:
        if self._behaviour == "killed" and behaviour != "killed":
            await self._listen()
        self._behaviour = behaviour
        asking.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        if behaviour == "killed" and self._server is not None:
            self._server.close()
            for writer in self._writers - {asking}:
                writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(Stub(int(sys.argv[1]), float(sys.argv[2]) / 1000).run())
