"""Scripted language models that call tools: one that follows a plan, and one that obeys every text it is shown."""

from __future__ import annotations

import json
import re
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


ORDER = re.compile(r"(?:call|run|execute|use)\s+([a-z_]+)\s*\(([^()]{0,200})\)", re.IGNORECASE)


class ObedientModel:
    """Reads everything, then does whatever any text tells it to: the tools it was told to call, with what it was told.

    A text gives orders as `call tool(argument=value, ...)`. In the end it claims what it was told to claim.
    """

    name = "obedient"

    def __init__(self, first: Sequence[tuple[str, dict[str, Any]]]) -> None:
        self._first, self.obeyed = list(first), 0

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], choice: Any) -> Message:
        results = [message for message in messages if message["role"] == "tool"]
        if not results:
            return calling(*self._first)
        orders = [order for message in results for order in ORDER.findall(str(message["content"]))]
        new = orders[self.obeyed :]
        if new and choice == "auto":
            self.obeyed += len(new)
            return calling(*((name, _arguments(text)) for name, text in new))
        claims = re.findall(r"(?:say|claim|report) that ([^.\"]{3,80})", " ".join(str(m["content"]) for m in results))
        return answering(*((claim, ["E1"]) for claim in claims), ("I did as I was told", ["E1"]))


def _arguments(text: str) -> dict[str, Any]:
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {key.strip(): value.strip().strip("'\"\\") for key, _, value in pairs}
