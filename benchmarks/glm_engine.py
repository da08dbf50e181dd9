"""Tokens a second of the embedded engine, and of the same requests one at a time: what the engine's batching brings.

`python -m benchmarks.glm_engine [--gguf FILE] [--parallel 1,8,32]`. Without a file it writes a GLM-4 with random
weights: its speed says nothing about a real model, the gain of batching does. `measure` is for other benchmarks.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import Row, arguments, publish
from cloud_hub.inference.engines import ChatRequest, Engine
from cloud_hub.inference.engines.llama import open_engine, threads

TOKENS = 64
QUESTION = "Describe the state of the pump in the cooling circuit of press 7."


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The figures for one concurrency; times in seconds."""

    concurrency: int
    requests: int
    tokens_s: float
    p50_s: float
    worst_s: float


async def measure(engine: Engine, concurrency: int, requests: int) -> Speed:
    """Ask `requests` questions, `concurrency` at a time."""
    waiting, took, tokens = iter(range(requests)), [], 0

    async def caller() -> None:
        nonlocal tokens
        for number in waiting:
            start = time.perf_counter()
            answered = await _ask(engine, number)  # first: `tokens += await` would lose what others add meanwhile
            tokens += answered
            took.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    wall = time.perf_counter() - start
    took.sort()
    return Speed(
        concurrency=concurrency, requests=requests, tokens_s=tokens / wall, p50_s=took[len(took) // 2], worst_s=took[-1]
    )


def question(number: int) -> dict[str, Any]:
    """A request for an answer of TOKENS tokens."""
    return {
        "messages": [{"role": "user", "content": f"{number}. {QUESTION}"}], "max_tokens": TOKENS, "temperature": 0.8,
        "seed": number, "ignore_eos": True,
    }  # fmt: skip


async def _ask(engine: Engine, number: int) -> int:
    async with aclosing(engine.chat(ChatRequest.from_body(question(number)), 600.0)) as items:
        answer = msgspec.json.decode(b"".join([item async for item in items]))
    return int(answer["usage"]["completion_tokens"])


def engine_of(gguf: Path, parallel: int) -> Engine:
    """An embedded engine for so many requests at a time."""
    options: dict[str, object] = {
        "path": str(gguf), "sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(), "parallel": parallel,
        "context": 512,
    }  # fmt: skip
    engine: Engine = open_engine(options)
    return engine


async def speeds(gguf: Path, concurrencies: list[int], requests: int) -> list[Speed]:
    """One engine with as many slots as the highest concurrency."""
    engine = engine_of(gguf, max(concurrencies))
    async with aclosing(engine):
        await measure(engine, 1, 2)  # loaded and warm
        return [await measure(engine, one, max(requests, 2 * one)) for one in concurrencies]


def write_tiny(folder: Path) -> Path:
    """A GLM-4 with random weights, 77 MB."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from simulators.tiny_glm import write_tiny_glm  # noqa: PLC0415

    path = folder / "tiny-glm4.gguf"
    write_tiny_glm(path, hidden=512, layers=8)
    return path


def main() -> None:
    """Print the figures, and write them as JSON where that is asked for."""
    chosen = arguments("Embedded engine: tokens a second", gguf="", parallel="1,8,32", requests=16)
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(chosen.gguf) if chosen.gguf else write_tiny(Path(folder))
        found = asyncio.run(speeds(gguf, [int(one) for one in chosen.parallel.split(",")], chosen.requests))
    rows = [row for one in found for row in _rows(gguf.name, one, found[0])]
    publish("glm_engine", chosen.seed, rows, chosen.json, f"{threads(0)} of {os.cpu_count()} cores for the model")


def _rows(dataset: str, one: Speed, alone: Speed) -> list[Row]:
    method = f"{one.concurrency} at one time"
    return [
        Row(dataset, method, "tokens", one.tokens_s, "1/s"),
        Row(dataset, method, "against one at a time", one.tokens_s / alone.tokens_s, "x"),
        Row(dataset, method, "answer, p50", one.p50_s, "s"),
        Row(dataset, method, "answer, worst", one.worst_s, "s"),
    ]


if __name__ == "__main__":
    main()
