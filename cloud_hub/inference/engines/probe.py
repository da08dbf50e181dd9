"""Finds out what an address can do by trying it, with a few tokens for each trial. Documentation is not believed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloud_hub.inference.engines.core.completion import decode_completion
from cloud_hub.inference.engines.core.png import data_url, png
from cloud_hub.inference.engines.core.request import ChatRequest, Json
from cloud_hub.inference.engines.core.validation import checked
from cloud_hub.inference.engines.errors import EngineBroken, EngineRefused
from cloud_hub.inference.engines.protocol import Capabilities
from shared.errors import NotReady

Chat = Callable[[ChatRequest, float], AsyncGenerator[bytes, None]]
TRIAL_S = 60.0
HUGE = 10**9
"""More tokens than any context: a server that checks says how many it has."""
SCHEMA: Json = {
    "type": "object",
    "properties": {"code": {"enum": ["tide-7", "tide-9"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["code", "count"],
    "additionalProperties": False,
}
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "read_gauge",
        "description": "Read the gauge.",
        "parameters": {"type": "object", "properties": {"unit": {"type": "string"}}},
    },
}
RED = data_url(png(16, 16, bytes([255, 0, 0]) * 256, 3))
_CONTEXT = re.compile(r"context[^0-9]{0,40}?(\d{3,8})")


class _Meta(msgspec.Struct, frozen=True):
    n_ctx: int | None = None


class _Model(msgspec.Struct, frozen=True):
    id: str
    max_model_len: int | None = None
    meta: _Meta | None = None


class ModelList(msgspec.Struct, frozen=True):
    """The answer to `GET /models` of vLLM, SGLang, llama.cpp or Z.ai."""

    data: list[_Model]

    def context(self, model: str) -> int | None:
        """The context of a model in tokens, if the server says."""
        for one in self.data:
            if one.id == model or len(self.data) == 1:
                return one.max_model_len or (one.meta.n_ctx if one.meta else None)
        return None


@dataclass
class Probe:
    """Asks through `chat`. `server` is known by its metrics: vllm, sglang, llamacpp or ''."""

    chat: Chat
    model: str
    listed: ModelList
    server: str = ""
    notes: list[str] = field(default_factory=list)

    async def run(self) -> Capabilities:
        """All trials, one after the other; raises as `Engine.chat` if plain text is not answered."""
        await self._answer({"max_tokens": 1})
        names = tuple(one.id for one in self.listed.data)
        if self.model and names and self.model not in names:
            self.notes.append(f"the server does not list '{self.model}'")
        return Capabilities(
            models=names, context=await self._context(), streaming=await self._streaming(),
            json_schema=await self._schema(), tools=await self._tools(), vision=await self._vision(),
            priority=await self._priority(), notes=tuple(self.notes),
        )  # fmt: skip

    async def _answer(self, fields: Json) -> bytes:
        request = _request(fields)
        async with aclosing(self.chat(request, TRIAL_S)) as items:
            return b"".join([item async for item in items])

    async def _context(self) -> int | None:
        if (known := self.listed.context(self.model)) is not None:
            return known
        try:
            await self._answer({"max_tokens": HUGE})
        except EngineRefused as error:
            found = _CONTEXT.search(error.detail)
            return int(found[1]) if found else None
        except (EngineBroken, NotReady):
            return None
        return None

    async def _streaming(self) -> bool | None:
        return await self._works({"max_tokens": 4, "stream": True}) is not None

    async def _schema(self) -> bool | None:
        """Whether an answer fits a schema that the prompt contradicts."""
        request = ChatRequest.typed(_user("Reply with the single word: no"), SCHEMA, max_tokens=200)
        body = await self._works(request.body)
        if body is None:
            return False
        if decode_completion(body).choices[0].finish_reason == "length":
            return None
        return self._fits(request, body, "json_schema")

    async def _tools(self) -> bool | None:
        fields = {"messages": _user("Call read_gauge now."), "tools": [TOOL], "max_tokens": 200}
        body = await self._works(fields)
        if body is None:
            return False
        if not self._fits(_request(fields), body, "tools"):
            return False
        called = msgspec.json.decode(checked(_request(fields), body).body)["choices"][0]["message"].get("tool_calls")
        if not called:
            self.notes.append("tools: accepted, and not called in the trial")
        return True if called else None

    async def _vision(self) -> bool | None:
        parts = [
            {"type": "text", "text": "Which colour has this image? One word."},
            {"type": "image_url", "image_url": {"url": RED}},
        ]
        body = await self._works({"messages": _user(parts), "max_tokens": 100, "chat_template_kwargs": _NO_THINKING})
        if body is None:
            return False
        text = (decode_completion(body).choices[0].message.content or "").lower()
        if "red" not in text:
            self.notes.append("vision: an image is accepted, and red is not recognized")
        return True if "red" in text else None

    async def _priority(self) -> bool | None:
        """Servers that do not know the field ignore it, so acceptance counts only where the server is known."""
        if self.server == "llamacpp":
            return False
        accepted = await self._works({"max_tokens": 1, "priority": 1}) is not None
        return accepted if not accepted or self.server == "vllm" else None

    async def _works(self, fields: Json) -> bytes | None:
        """The answer, or None if this server cannot: plain text it did answer."""
        try:
            return await self._answer(fields)
        except (EngineRefused, EngineBroken, NotReady):
            return None

    def _fits(self, request: ChatRequest, body: bytes, name: str) -> bool:
        try:
            repairs = checked(request, body).repairs
        except EngineBroken as error:
            self.notes.append(f"{name}: {error.reason}")
            return False
        if repairs:
            self.notes.append(f"{name}: had to be repaired ({', '.join(repairs)}): check the server's parsers")
        return True


_NO_THINKING = {"enable_thinking": False}


def _user(content: Any) -> list[Json]:
    return [{"role": "user", "content": content}]


def _request(fields: Json) -> ChatRequest:
    return ChatRequest({"messages": _user("Reply with the single word: yes"), "temperature": 0} | fields)
