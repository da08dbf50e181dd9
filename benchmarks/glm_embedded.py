"""Tokens a second of the embedded engine at 1, 8 and 32 clients: bare, and through a hub's REST and gateway.

`python -m benchmarks.glm --gguf FILE` (or `--gguf tiny`, a GLM-4 with random weights: its speed says nothing about a
real model, the gain of batching and the cost of the gateway do).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import Protocol

from benchmarks.glm_client import HttpClient
from benchmarks.glm_engine import Speed, engine_of, measure, question, write_tiny
from benchmarks.report import Row
from cloud_hub.inference.engines import Engine

CONCURRENCY = (1, 8, 32)


class Hub(Protocol):
    """Where a hub listens."""

    @property
    def port(self) -> int: ...

    @property
    def token(self) -> str: ...


Start = Callable[[Path, list[str], str], AbstractContextManager[Hub]]
"""Starts a hub: (folder, addresses of its pool, model)."""


def embedded(gguf: str, start: Start, requests: int) -> list[Row]:
    """Bare engine and gateway in turn for each number of clients, with the same requests: the machine may be busy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write_tiny(folder) if gguf == "tiny" else Path(gguf)
        with start(folder, [str(file)], "pool") as hub:
            pairs = asyncio.run(_pairs(engine_of(file, max(CONCURRENCY)), hub, requests))
    return [row for bare, gateway in pairs for row in _rows(bare, gateway, *pairs[0])]


async def _pairs(engine: Engine, hub: Hub, requests: int) -> list[tuple[Speed, Speed]]:
    async with aclosing(engine):
        await measure(engine, 1, 2)  # loaded and warm, as the hub's own is then
        await _speed(hub, 1, 2)
        counts = [(count, max(requests, 2 * count)) for count in CONCURRENCY]
        return [(await measure(engine, *count), await _speed(hub, *count)) for count in counts]


async def _speed(hub: Hub, concurrency: int, requests: int) -> Speed:
    waiting, took, tokens = iter(range(requests)), [], 0

    async def client() -> None:
        nonlocal tokens
        connection = HttpClient(hub.port, hub.token)
        for number in waiting:
            start = time.perf_counter()
            status, body = await connection.post(question(number) | {"model": "pool"})
            if status != 200:
                raise RuntimeError(f"HTTP {status}: {body[:300]!r}")
            tokens += int(json.loads(body)["usage"]["completion_tokens"])
            took.append(time.perf_counter() - start)
        connection.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    wall = time.perf_counter() - start
    took.sort()
    return Speed(
        concurrency=concurrency, requests=requests, tokens_s=tokens / wall, p50_s=took[len(took) // 2], worst_s=took[-1]
    )


def _rows(bare: Speed, gateway: Speed, bare_alone: Speed, gateway_alone: Speed) -> list[Row]:
    dataset = f"embedded engine, concurrency {bare.concurrency}"
    rows = [Row(dataset, "gateway", "share of the bare engine", gateway.tokens_s / bare.tokens_s, "")]
    for method, speed, alone in (("bare engine", bare, bare_alone), ("gateway", gateway, gateway_alone)):
        rows += [
            Row(dataset, method, "tokens", speed.tokens_s, "1/s"),
            Row(dataset, method, "against one at a time", speed.tokens_s / alone.tokens_s, "x"),
            Row(dataset, method, "latency p50", speed.p50_s, "s"),
        ]
    return rows
