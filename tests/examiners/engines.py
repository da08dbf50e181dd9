"""What every engine must keep, a third party's too: run yours through `examine_engine`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from cloud_hub.inference.engines import ChatRequest, Engine
from cloud_hub.inference.engines.core.sse import DONE, event_data
from shared.errors import NotReady, TidegateError, WireError

MESSAGES = [{"role": "user", "content": "How is the pump?"}]
DEADLINE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An engine under test. `secret` must never show; `cut` takes the server away, then `chat` fails.

    `free` waits until the server works on nothing, and fails if that never is.
    """

    engine: Engine
    secret: str
    cut: Callable[[], None]
    free: Callable[[], Awaitable[None]]


async def answer(engine: Engine, deadline_s: float = DEADLINE_S, **fields: Any) -> list[bytes]:
    """All items of an answer."""
    body = {"model": "glm", "messages": MESSAGES, "max_tokens": 16} | fields
    async with aclosing(engine.chat(ChatRequest.from_body(body), deadline_s)) as items:
        return [item async for item in items]


def examine_engine(bench: Bench) -> None:
    """One event loop for all of it, as in the hub."""
    asyncio.run(_examined(bench))


async def _examined(bench: Bench) -> None:
    engine = bench.engine
    assert engine.name
    assert engine.address
    assert bench.secret not in engine.name + engine.address + repr(engine) + str(getattr(engine, "__dict__", ""))
    assert (await engine.health()).ready
    await _bodies(engine)
    await _streams(engine)
    await _side_by_side(engine)
    await _callers_leave(bench)
    load = await engine.load()
    assert load is None or (load.running >= 0 and load.waiting >= 0)
    await _cut(bench)
    await engine.aclose()
    await engine.aclose()


async def _bodies(engine: Engine) -> None:
    """One body, with a text."""
    (body,) = await answer(engine)
    choice = json.loads(body)["choices"][0]
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] in ("stop", "length")


async def _streams(engine: Engine) -> None:
    """Whole events, the last is [DONE]; texts of the events make the answer."""
    items = await answer(engine, stream=True)
    assert all(item.endswith((b"\n\n", b"\r\n\r\n")) for item in items)
    data = [found for item in items if (found := event_data(item)) is not None]
    assert data[-1] == DONE
    chunks = [json.loads(one) for one in data[:-1]]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert any(choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"])


async def _side_by_side(engine: Engine) -> None:
    answers = await asyncio.gather(*(answer(engine, stream=n % 2 == 1) for n in range(4)))
    assert all(answers)


async def _callers_leave(bench: Bench) -> None:
    """After the first event, and while waiting: the slot is free again."""
    body = {"model": "glm", "messages": MESSAGES, "max_tokens": 400, "stream": True}
    items = bench.engine.chat(ChatRequest.from_body(body), DEADLINE_S)
    await anext(items)
    await items.aclose()
    await bench.free()
    waiting = asyncio.create_task(answer(bench.engine, max_tokens=400))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await bench.free()


async def _cut(bench: Bench) -> None:
    """Errors of the right class, soon, and without the secret."""
    bench.cut()
    start = time.monotonic()
    with pytest.raises((NotReady, WireError)) as caught:
        await answer(bench.engine, deadline_s=0.7)
    assert isinstance(caught.value, TidegateError)
    assert time.monotonic() - start < 15.0
    assert bench.secret not in str(caught.value) + repr(caught.value)
    health = await bench.engine.health()
    assert not health.ready
    assert bench.secret not in health.reason
