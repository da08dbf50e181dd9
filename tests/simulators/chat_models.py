"""A scripted language model that calls tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from cloud_hub.inference.engines.core.completion import Message

Turn = Callable[[list[dict[str, Any]]], Message]
"""Makes the next message from the conversation so far."""


def calling(*calls: tuple[str, dict[str, Any]]) -> Message:
    """A message that calls tools."""
    return Message(tool_calls=[
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for number, (name, arguments) in enumerate(calls)
    ])  # fmt: skip


def answering(*sentences: tuple[str, Sequence[str]]) -> Message:
    """A message that gives the answer."""
    return calling(("answer", {"sentences": [{"text": text, "cites": list(cites)} for text, cites in sentences]}))


class ScriptedModel:
    """Gives its messages in order; a callable is given the conversation, an exception is raised."""

    name = "scripted"

    def __init__(self, *turns: Message | Turn | Exception) -> None:
        self._turns = list(turns)
        self.messages: list[dict[str, Any]] = []
        self.tools: list[dict[str, Any]] = []
        self.choices: list[Any] = []

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], choice: Any) -> Message:
        self.messages, self.tools = list(messages), tools
        self.choices.append(choice)
        turn = self._turns.pop(0) if self._turns else Message(content="I have nothing more to say.")
        if isinstance(turn, Exception):
            raise turn
        return turn(messages) if callable(turn) else turn
