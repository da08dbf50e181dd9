"""Engine `llama`: a GGUF file on this machine, by llama.cpp (extra `llama`) in a child process.

The hub's process never loads llama.cpp: a crash, a leak or a hang there costs one child. The server listens on loopback
with a fresh API key for each start.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import httpx
import msgspec

from cloud_hub.inference.engines.core.request import ChatRequest
from cloud_hub.inference.engines.errors import EngineTimeout
from cloud_hub.inference.engines.llama.child import Serve
from cloud_hub.inference.engines.llama.process import Child, LlamaProcess
from cloud_hub.inference.engines.openai import OpenAIEngine
from cloud_hub.inference.engines.openai import Options as OpenAIOptions
from cloud_hub.inference.engines.protocol import Capabilities, Engine, Health, Load
from shared.errors import ConfigError, TidegateError
from shared.suggestions import explained

PLACE = "inference.pools"
WAIT_S = 0.02
PROBE_S = 120.0


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`path` of a GGUF file whose SHA-256 is `sha256`; `model` is the name that callers see (default: the file's).

    `parallel` requests run at once, each with `context` tokens. `threads` 0 is all cores but one: a model that takes
    every core slows itself down several times. A model must be ready within `ready_s`; one whose main loop does not
    answer for `hang_s` is started again.
    """

    path: str
    sha256: str
    model: str = ""
    parallel: int = 4
    context: int = 4096
    threads: int = 0
    gpu_layers: int = 0
    ready_s: float = 300.0
    hang_s: float = 300.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits: sha256sum FILE")
        if not 1 <= self.parallel <= 64 or not 256 <= self.context <= 1 << 20:
            raise ValueError("parallel must lie in 1..64, context in 256..1048576")
        if self.threads < 0 or self.gpu_layers < 0 or self.ready_s <= 0 or self.hang_s <= 0:
            raise ValueError("threads and gpu_layers must be at least 0, ready_s and hang_s above it")


def open_engine(options: dict[str, object]) -> Engine:
    """Create an engine, whose process starts with the first request; raises ConfigError."""
    try:
        read = msgspec.convert(options, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(PLACE, explained(error, Options), "Give path and sha256 in the pool's options") from None
    if not Path(read.path).is_file():
        raise ConfigError(f"{PLACE}.path", f"'{read.path}' is not there", "Name a GGUF file")
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError(PLACE, "'xllamacpp' is not installed", "Run: pip install 'tidegate[llama]'")
    return LlamaEngine(read)


def threads(wanted: int) -> int:
    """Threads of the model: what is wanted, or all cores that this process may use but one."""
    return wanted or max(1, len(os.sched_getaffinity(0)) - 1)


class LlamaEngine:
    """One child process, and a client of its server."""

    def __init__(self, options: Options) -> None:
        self._model = options.model or Path(options.path).stem
        self.name, self.address = f"{self._model} on this machine", f"llama:{options.path}"
        self._options = options
        self._process = LlamaProcess(
            self.name, self._serve, _responds, ready_s=options.ready_s, hang_s=options.hang_s
        )  # fmt: skip
        self._client: tuple[Child, OpenAIEngine] | None = None

    async def chat(self, request: ChatRequest, deadline_s: float) -> AsyncGenerator[bytes, None]:
        """The answer; see `Engine`. Waits for a model that starts."""
        end = time.monotonic() + deadline_s
        client = await self._ready(end, deadline_s)
        async with aclosing(client.chat(request, max(0.0, end - time.monotonic()))) as items:
            async for item in items:
                yield item

    async def capabilities(self) -> Capabilities:
        """What the model can do; see `Engine`."""
        return await (await self._ready(time.monotonic() + PROBE_S, PROBE_S)).capabilities()

    async def health(self) -> Health:
        """Whether the child serves; one that starts is not ready."""
        try:
            child = self._process.current()
            if child is None:
                return Health(ready=False, reason=f"{self.name}: the model is being loaded")
            return await (await self._connected(child)).health()
        except TidegateError as error:
            return Health(ready=False, reason=str(error))

    async def load(self) -> Load | None:
        """What the child is busy with."""
        try:
            child = self._process.current()
        except TidegateError:
            return None
        return await (await self._connected(child)).load() if child is not None else None

    async def aclose(self) -> None:
        """End the child."""
        client, self._client = self._client, None
        if client is not None:
            await client[1].aclose()
        await asyncio.to_thread(self._process.stop)

    async def _ready(self, end: float, deadline_s: float) -> OpenAIEngine:
        while (child := self._process.current()) is None:
            if time.monotonic() >= end:
                raise EngineTimeout(f"{self.name}: the model was not loaded within {deadline_s:g} s", 5.0)
            await asyncio.sleep(WAIT_S)
        return await self._connected(child)

    async def _connected(self, child: Child) -> OpenAIEngine:
        """A client of this child; a new child gets a new one."""
        if self._client is not None and self._client[0] == child:
            return self._client[1]
        old, options = self._client, OpenAIOptions(url=child.url, model=self._model)
        client = OpenAIEngine(options, name=self.name, key=lambda: child.key)
        self._client = (child, client)
        if old is not None:
            await old[1].aclose()
        return client

    def _serve(self, key: str) -> Serve:
        options = self._options
        return Serve(
            path=options.path, sha256=options.sha256, key=key, alias=self._model, parallel=options.parallel,
            context=options.context, threads=threads(options.threads), gpu_layers=options.gpu_layers,
        )  # fmt: skip


def _responds(child: Child, timeout_s: float) -> bool:
    """Whether the child's main loop answers: `/metrics` passes through it, `/health` does not."""
    url, headers = child.url.removesuffix("/v1") + "/metrics", {"Authorization": f"Bearer {child.key}"}
    try:
        return httpx.get(url, headers=headers, timeout=timeout_s, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
