"""Estimates tokens before an engine counts them, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_MAX_TOKENS = 1024
"""The assumed length of an answer whose request sets no limit."""
IMAGE_TOKENS = 1500
_ASCII_PER_TOKEN = 4


def estimate_text(text: str) -> int:
    """About the number of tokens of a text: four ASCII characters, or one other character."""
    ascii_count = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return 1 + ascii_count // _ASCII_PER_TOKEN + (len(text) - ascii_count)


def estimate_prompt(body: Mapping[str, Any]) -> int:
    """About the number of tokens of the messages, tools and schema of a request."""
    parts = [body.get("messages"), body.get("tools"), body.get("response_format")]
    return sum(_estimate(part) for part in parts if part is not None)


def largest_answer(body: Mapping[str, Any]) -> int:
    """The most tokens that the answer may have."""
    limits = [body.get("max_completion_tokens"), body.get("max_tokens")]
    limit = next((value for value in limits if isinstance(value, int) and value > 0), DEFAULT_MAX_TOKENS)
    choices = body.get("n")
    return limit * (choices if isinstance(choices, int) and choices > 0 else 1)


def money(tokens_in: int, tokens_out: int, price_in: float, price_out: float) -> float:
    """The cost, at prices of a million tokens."""
    return (tokens_in * price_in + tokens_out * price_out) / 1e6


def _estimate(value: Any) -> int:
    """Iterative, so that deep nesting costs no stack."""
    total, stack = 0, [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            total += IMAGE_TOKENS if part.startswith("data:image/") else estimate_text(part)
        elif isinstance(part, Mapping):
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
        else:
            total += 1
    return total
