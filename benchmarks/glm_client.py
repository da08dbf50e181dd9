"""A lean HTTP client for benchmarks: one connection, no library between the clock and the socket."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from typing import Any


class HttpClient:
    """One keep-alive connection to 127.0.0.1; it is opened again after an error."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """(status, body) of a chat completion; status 0 if the connection broke."""
        content = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            return await self._exchange(head.encode() + content)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return 0, b""

    async def control(self, behaviour: str) -> None:
        """Tell a stub how to behave."""
        await self._exchange(f"GET /behave/{behaviour} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        self.close()

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        mark = head.find(b"content-length: ")
        if mark < 0:
            return int(head[9:12]), await self._chunks(reader)
        length = int(head[mark + 16 : head.find(b"\r\n", mark)])
        return int(head[9:12]), await reader.readexactly(length)

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def free_port(count: int = 1) -> int:
    """The first of `count` free ports in a row."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
        if all(_is_free(port + number) for number in range(count)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens; raises RuntimeError if its process ends."""
    for _ in range(1200):
        if not _is_free(port):
            return
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended")
        time.sleep(0.1)
    raise RuntimeError(f"nothing listens at {port}")
