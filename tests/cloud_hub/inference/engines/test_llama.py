"""The embedded engine: llama.cpp in a child process, on a GLM-4 with random weights."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from examiners.engines import Bench, answer, examine_engine
from simulators.tiny_glm import write_tiny_glm

from cloud_hub.inference.engines import ChatRequest, EngineBroken, EngineRefused, EngineTimeout
from cloud_hub.inference.engines.llama import LlamaEngine, open_engine, process, threads
from cloud_hub.inference.engines.llama.child import NICE, OOM_SCORE_ADJ
from shared.errors import ConfigError, NotReady

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason="the package 'xllamacpp' is not installed: pip install -e '.[dev]'",
)
SCHEMA = {
    "type": "object",
    "properties": {"cause": {"enum": ["wear", "leak"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["cause", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("glm") / "tiny-glm4.gguf"
    return path, write_tiny_glm(path)


def opened(weights: tuple[Path, str], **changes: Any) -> LlamaEngine:
    options = {"path": str(weights[0]), "sha256": weights[1], "parallel": 4, "context": 1024} | changes
    engine = open_engine(options)
    assert isinstance(engine, LlamaEngine)
    return engine


def used(engine: LlamaEngine, act: Callable[[LlamaEngine], Awaitable[Any]]) -> Any:
    """What `act` does with an engine that is closed after it, in one event loop."""

    async def whole() -> Any:
        async with aclosing(engine):
            return await act(engine)

    return asyncio.run(whole())


async def pid(engine: LlamaEngine, other_than: int = 0) -> int:
    """The child's process id, once it serves."""
    for _ in range(1000):
        try:
            child = engine._process.current()
        except NotReady:
            child = None
        if child is not None and child.pid != other_than:
            return child.pid
        await asyncio.sleep(0.01)
    raise AssertionError("the child did not start")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_child_gives_way_to_the_hub_and_lives_where_no_memory_is_writable_and_executable(
    weights: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's systemd unit has it; `prctl(PR_SET_MDWE)` does what MemoryDenyWriteExecute does, from Linux 6.3."""
    code = (
        "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", code, *process.COMMAND[1:]))
    engine = opened(weights)

    async def look(engine: LlamaEngine) -> tuple[int, str]:
        child = await pid(engine)
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
        async with aclosing(engine.chat(ChatRequest.from_body(body), 60.0)) as items:
            assert [item async for item in items]
        return os.getpriority(os.PRIO_PROCESS, child), Path(f"/proc/{child}/oom_score_adj").read_text().strip()

    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + NICE, 19)
    assert used(engine, look) == (nice, str(OOM_SCORE_ADJ))


def test_the_examiner_accepts_the_engine_and_llama_cpp_is_not_in_this_process(weights: tuple[Path, str]) -> None:
    engine = opened(weights)
    loop_pid: list[int] = []

    async def free() -> None:
        loop_pid[:] = [await pid(engine)]
        for _ in range(400):
            load = await engine.load()
            if load is not None and not load.running:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the slot is still taken")

    async def start() -> None:
        await pid(engine)

    def cut() -> None:
        os.kill(loop_pid[0], signal.SIGSTOP)
        time.sleep(0.1)  # until each of its threads has stopped

    asyncio.run(start())
    examine_engine(Bench(engine=engine, secret=_key(engine), cut=cut, free=free))
    assert not alive(loop_pid[0])
    assert "xllamacpp" not in sys.modules


def _key(engine: LlamaEngine) -> str:
    child = engine._process.current()
    assert child is not None
    return child.key


def test_a_schema_is_enforced_even_on_random_weights(weights: tuple[Path, str]) -> None:
    async def act(engine: LlamaEngine) -> None:
        for seed in range(3):
            form = ChatRequest.typed([{"role": "user", "content": "Why?"}], SCHEMA, max_tokens=200)
            (body,) = await answer(engine, **(form.body | {"seed": seed, "temperature": 1.0}))
            found = json.loads(json.loads(body)["choices"][0]["message"]["content"])
            assert found["cause"] in ("wear", "leak")
            assert found["days"] in range(10)

    used(opened(weights), act)


def test_the_key_and_loopback_guard_the_server(weights: tuple[Path, str]) -> None:
    import httpx

    async def act(engine: LlamaEngine) -> None:
        process = await pid(engine)
        child = engine._process.current()
        assert child is not None
        assert child.url.startswith("http://127.0.0.1:")
        body = {"messages": [{"role": "user", "content": "x"}]}
        assert httpx.post(f"{child.url}/chat/completions", json=body, trust_env=False).status_code == 401
        for name in ("cmdline", "environ"):
            assert child.key.encode() not in Path(f"/proc/{process}/{name}").read_bytes()

    used(opened(weights), act)


def test_a_child_that_dies_is_replaced(weights: tuple[Path, str]) -> None:
    async def act(engine: LlamaEngine) -> None:
        first = await pid(engine)
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 900}
        items = engine.chat(ChatRequest.from_body(body), 10.0)
        await anext(items)
        os.kill(first, signal.SIGKILL)
        with pytest.raises((EngineBroken, NotReady)):
            async for _ in items:
                pass
        assert await pid(engine, other_than=first)
        assert await answer(engine)
        assert engine._process.starts == 2

    used(opened(weights), act)


@pytest.mark.nightly
def test_a_child_that_hangs_is_replaced(weights: tuple[Path, str]) -> None:
    async def act(engine: LlamaEngine) -> None:
        engine._process._check_s = 0.1
        first = await pid(engine)
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(EngineTimeout):
            await answer(engine, deadline_s=0.2)
        assert await pid(engine, other_than=first)
        assert await answer(engine)
        assert not alive(first)

    used(opened(weights, hang_s=0.3), act)


@pytest.mark.nightly
def test_a_child_ends_with_its_parent(weights: tuple[Path, str]) -> None:
    import subprocess

    script = (
        "import asyncio, sys\n"
        "from cloud_hub.inference.engines.llama import open_engine\n"
        "engine = open_engine({'path': sys.argv[1], 'sha256': sys.argv[2]})\n"
        "while (child := engine._process.current()) is None:\n"
        "    asyncio.run(asyncio.sleep(0.02))\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(weights[0]), weights[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    end = time.monotonic() + 5.0
    while alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(child)


def test_other_weights_than_the_pinned_ones_are_refused(weights: tuple[Path, str], tmp_path: Path) -> None:
    content = bytearray(weights[0].read_bytes())
    content[-100] ^= 1
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(content)

    async def act(engine: LlamaEngine) -> None:
        with pytest.raises(ConfigError, match="not the configured one"):
            await answer(engine)
        assert "not the configured one" in (await engine.health()).reason

    used(opened((changed, weights[1])), act)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    import hashlib

    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(100))

    async def act(engine: LlamaEngine) -> None:
        with pytest.raises(ConfigError, match=r"llama\.cpp cannot load it"):
            await answer(engine)

    used(opened((file, hashlib.sha256(file.read_bytes()).hexdigest())), act)


def test_a_prompt_beyond_the_context_is_the_callers_fault(weights: tuple[Path, str]) -> None:
    async def act(engine: LlamaEngine) -> None:
        messages = [{"role": "user", "content": "word " * 2000}]
        with pytest.raises(EngineRefused) as caught:
            await answer(engine, messages=messages)
        assert "context" in caught.value.detail
        assert await answer(engine)

    used(opened(weights), act)


def test_one_core_is_left_free() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads(0) == max(1, cores - 1)
    assert threads(3) == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "abc"}, "sha256"),
        ({"parallel": 0}, "parallel"),
        ({"context": 1}, "context"),
        ({"path": "/nowhere.gguf"}, "is not there"),
        ({"url": "http://127.0.0.1"}, "url"),
    ],
)
def test_options_are_checked_at_the_start(weights: tuple[Path, str], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        opened(weights, **changes)
