"""Finds the token counts that an engine reports, in a body or in the events of a stream."""

from __future__ import annotations

from typing import Any

import msgspec

_MARK = b'"usage"'


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Part(msgspec.Struct, frozen=True):
    usage: _Usage | None = None
    choices: list[Any] | None = None


class UsageReader:
    """Reads the parts of one answer. Events without text are counted by `events` where an engine reports nothing."""

    def __init__(self) -> None:
        self.tokens_in: int | None = None
        self.tokens_out: int | None = None
        self.events = 0

    def read(self, part: bytes) -> bool:
        """Read a part; True if it holds nothing but the usage."""
        self.events += 1
        if _MARK not in part:
            return False
        start, end = part.find(b"{"), part.rfind(b"}")
        try:
            found = msgspec.json.decode(part[start : end + 1], type=_Part)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        if found.usage is None:
            return False
        self.tokens_in, self.tokens_out = found.usage.prompt_tokens, found.usage.completion_tokens
        return found.choices == []


def wants_usage(body: dict[str, Any]) -> bool:
    """Whether the caller asked for usage at the end of a stream."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
