"""Asks an engine one typed question from a thread without an event loop, such as a background worker's."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Protocol

from cloud_hub.inference.engines.core.completion import decode_completion
from cloud_hub.inference.engines.core.request import ChatRequest
from cloud_hub.inference.engines.core.validation import checked
from cloud_hub.inference.engines.errors import EngineBroken
from cloud_hub.inference.engines.protocol import Engine
from cloud_hub.settings import Settings
from shared import plugins


class LanguageModel(Protocol):
    """Who answers typed questions."""

    name: str

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """The model's text, which should be JSON of `schema` but must be validated; raises TidegateError."""
        ...


class TypedModel:
    """One question, one JSON answer. The engine is opened for each question and closed after it."""

    def __init__(self, engine: Engine, *, timeout_s: float = 60.0, max_tokens: int = 1500) -> None:
        self.name = engine.name
        self._engine, self._timeout_s, self._max_tokens = engine, timeout_s, max_tokens

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """The model's text, which is JSON; whether it fits `schema` must be validated. Raises as `Engine.chat`."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        request = ChatRequest.typed(messages, schema, max_tokens=self._max_tokens)
        return asyncio.run(self._asked(request))

    async def _asked(self, request: ChatRequest) -> str:
        try:
            async with aclosing(self._engine.chat(request, self._timeout_s)) as answer:
                body = b"".join([part async for part in answer])
        finally:
            await self._engine.aclose()
        return _text(checked(request, body, self.name, strict=False).body, self.name)


def _text(body: bytes, name: str) -> str:
    choice = decode_completion(body, name).choices[0]
    if choice.finish_reason == "length":
        raise EngineBroken("the answer was cut off at max_tokens", name)
    if choice.message.content is None:
        raise EngineBroken("the answer holds no text", name)
    return choice.message.content


def load_model(settings: Settings) -> TypedModel | None:
    """The configured language model, or None if only the rules are used; raises ConfigError."""
    glm = settings.glm
    if not glm.url:
        return None
    options = glm.model_dump(include={"url", "model", "key_file", "extra_body"}, exclude_defaults=True)
    engine: Engine = plugins.load(plugins.ENGINES, glm.kind, "glm.kind")(options)
    return TypedModel(engine, timeout_s=glm.timeout_s, max_tokens=glm.max_tokens)
