"""An engine in memory: strict about requests, counts what is running, and fails as `behaviour` says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal

from cloud_hub.inference.engines import (
    Capabilities,
    ChatRequest,
    EngineBroken,
    EngineBusy,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    Health,
    Load,
)

Behaviour = Literal["good", "unreachable", "busy", "refuses", "stalls", "half-a-stream", "garbage"]


@dataclass
class StubEngine:
    """Answers with `text`, a word an event; `first_s` before the first and `word_s` between two.

    `requests` holds what arrived, `running` how many are under way, `left` how many callers went away early.
    """

    name: str = "stub"
    address: str = "http://127.0.0.1:1/v1"
    text: str = "all is well"
    behaviour: Behaviour = "good"
    first_s: float = 0.0
    word_s: float = 0.0
    requests: list[ChatRequest] = field(default_factory=list)
    running: int = 0
    left: int = 0
    closed: bool = False

    async def chat(self, request: ChatRequest, deadline_s: float) -> AsyncGenerator[bytes, None]:
        """The scripted answer; see `Engine`."""
        ChatRequest.from_body(request.body)
        self.requests.append(request)
        self.running += 1
        done, end = False, asyncio.get_running_loop().time() + deadline_s
        try:
            self._fail()
            await self._wait(self.first_s, end)
            for item in self._items(request):
                yield item
                await self._wait(self.word_s, end)
            if self.behaviour == "half-a-stream":
                raise EngineBroken("the stream ended before [DONE]", self.name)
            done = True
        except EngineBroken:
            done = True
            raise
        finally:
            self.running -= 1
            self.left += not done

    def _fail(self) -> None:
        match self.behaviour:
            case "unreachable":
                raise EngineUnreachable(f"{self.name}: cannot be reached", 5.0)
            case "busy":
                raise EngineBusy(f"{self.name}: too many requests (HTTP 429)", 5.0)
            case "refuses":
                raise EngineRefused(400, f"{self.name}: the request is refused (HTTP 400)", "too long")
            case "garbage":
                raise EngineBroken("the answer is no chat completion", self.name)

    async def _wait(self, seconds: float, end: float) -> None:
        try:
            async with asyncio.timeout_at(end):
                await asyncio.sleep(3600.0 if self.behaviour == "stalls" else seconds)
        except TimeoutError:
            raise EngineTimeout(f"{self.name}: no complete answer before the deadline", 5.0) from None

    def _items(self, request: ChatRequest) -> list[bytes]:
        words = self.text.split(" ")
        usage = {"prompt_tokens": 10, "completion_tokens": len(words), "total_tokens": 10 + len(words)}
        if not request.stream:
            message = {"role": "assistant", "content": self.text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            return [json.dumps(self._object("chat.completion", request, [choice]) | {"usage": usage}).encode()]
        deltas = [{"content": word if not n else " " + word} for n, word in enumerate(words)]
        chunks = [[{"index": 0, "finish_reason": None, "delta": delta}] for delta in deltas]
        chunks.append([{"index": 0, "finish_reason": "stop", "delta": {}}])
        bodies = [self._object("chat.completion.chunk", request, chunk) for chunk in chunks]
        events = [b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies]
        return events[:1] if self.behaviour == "half-a-stream" else [*events, b"data: [DONE]\n\n"]

    def _object(self, kind: str, request: ChatRequest, choices: list[Any]) -> dict[str, Any]:
        return {"id": "stub-1", "object": kind, "created": 1, "model": request.model or "stub", "choices": choices}

    async def capabilities(self) -> Capabilities:
        """Everything."""
        return Capabilities(models=("stub",), context=8192, streaming=True, json_schema=True, tools=True)

    async def health(self) -> Health:
        """By the behaviour."""
        ready = self.behaviour not in ("unreachable", "busy", "stalls")
        return Health(ready=ready, reason="" if ready else self.behaviour)

    async def load(self) -> Load | None:
        """What is under way."""
        return Load(running=self.running, waiting=0)

    async def aclose(self) -> None:
        """Remember it."""
        self.closed = True
