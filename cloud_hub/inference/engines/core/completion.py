"""Reads a chat completion that was not streamed."""

from __future__ import annotations

from typing import Any

import msgspec

from cloud_hub.inference.engines.errors import EngineBroken


class Message(msgspec.Struct, frozen=True):
    """The answer's message; what servers call the thinking differs."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None

    @property
    def thinking(self) -> str:
        """What the model thought, if the server separates it."""
        return self.reasoning_content or self.reasoning or ""


class Choice(msgspec.Struct, frozen=True):
    """One answer."""

    message: Message
    finish_reason: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(msgspec.Struct, frozen=True):
    """A chat completion."""

    choices: list[Choice]
    model: str | None = None
    usage: Usage | None = None


def decode_completion(content: bytes, engine: str = "") -> Completion:
    """The completion in a response body; raises EngineBroken."""
    try:
        found = msgspec.json.decode(content, type=Completion)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineBroken(f"the answer is no chat completion: {error}", engine) from None
    if not found.choices:
        raise EngineBroken("the answer holds no choice", engine)
    return found
