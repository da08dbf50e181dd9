"""Checks an answer against its request: a schema, or the tools that were offered.

Repairs lose nothing and guess nothing; each has a name. What cannot be repaired is AnswerInvalid. An answer to a
request without schema and tools, and one that was cut off at `max_tokens` (the caller sees it), is left as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud_hub.inference.engines.core.request import ChatRequest
from cloud_hub.inference.engines.core.schemas import TooCostly, misfit
from cloud_hub.inference.engines.core.tool_calls import MARK, checked_call, swallowed_calls, without_calls
from cloud_hub.inference.engines.errors import AnswerInvalid, EngineBroken, EngineRefused

Json = dict[str, Any]
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that fits; `repairs` names what was mended, and `body` is the engine's own where nothing was."""

    body: bytes
    repairs: tuple[str, ...] = ()


def checked(request: ChatRequest, body: bytes, engine: str = "") -> Checked:
    """The answer, repaired where needed; raises AnswerInvalid, or EngineRefused if the caller's schema is none."""
    if not needs_check(request):
        return Checked(body)
    try:
        answer = msgspec.json.decode(body)
        repairs: list[str] = []
        for choice in answer["choices"]:
            repairs += _checked_choice(request, choice)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineBroken(f"the answer is no chat completion ({type(error).__name__})", engine) from None
    except (_SchemaError, TooCostly) as error:
        raise EngineRefused(400, "a JSON Schema of the request cannot be used", str(error)) from None
    except ValueError as error:
        raise AnswerInvalid(str(error), engine) from None
    return Checked(msgspec.json.encode(answer) if repairs else body, tuple(repairs))


def needs_check(request: ChatRequest) -> bool:
    """Whether the request demands a form of its answer."""
    return bool(request.tools) or request.response_format != "text"


class _SchemaError(ValueError):
    """The caller's schema is none."""


def _checked_choice(request: ChatRequest, choice: Json) -> list[str]:
    """Check one choice, and mend it in place; raises ValueError."""
    message, repairs = choice["message"], []
    if choice.get("finish_reason") == "length":
        return []
    if request.tools and request.tool_choice != "none":
        repairs += _find_calls(request, choice, message)
    if calls := message.get("tool_calls"):
        return repairs + _check_calls(request, message, calls)
    if request.tool_choice == "required" or isinstance(request.tool_choice, dict):
        raise ValueError("the answer calls no function, and one was required")
    return repairs + (_check_text(request, message) if request.response_format != "text" else [])


# -- tools -----------------------------------------------------------------------------------------


def _find_calls(request: ChatRequest, choice: Json, message: Json) -> list[str]:
    """Move calls out of the text or the reasoning."""
    if message.get("tool_calls"):
        return []
    for key, repair in (("content", "call-in-content"), ("reasoning_content", "call-in-reasoning"),
                        ("reasoning", "call-in-reasoning")):  # fmt: skip
        text = message.get(key)
        if isinstance(text, str) and MARK in text:
            message["tool_calls"] = swallowed_calls(text, request.tools)
            message[key] = without_calls(text) or None
            choice["finish_reason"] = "tool_calls"
            return [repair]
    return []


def _check_calls(request: ChatRequest, message: Json, calls: list[Any]) -> list[str]:
    if not request.tools or request.tool_choice == "none":
        raise ValueError("the answer calls a function, and none was offered")
    found = [_checked_call(call, request) for call in calls]
    named = request.named_function
    if named is not None and any(call["function"]["name"] != named for call, _ in found):
        raise ValueError(f"the answer calls another function than '{named[:80]}', which was required")
    message["tool_calls"] = [call for call, _ in found]
    return ["empty-arguments"] if any(repaired for _, repaired in found) else []


def _checked_call(call: Any, request: ChatRequest) -> tuple[Json, bool]:
    name = (call.get("function") or {}).get("name") if isinstance(call, dict) else None
    if name in request.tools:
        _usable(request.tools[name])
    return checked_call(call, request.tools)


# -- typed text ------------------------------------------------------------------------------------


def _check_text(request: ChatRequest, message: Json) -> list[str]:
    """Make the content JSON that fits the schema."""
    schema = request.schema
    if schema is not None:
        _usable(schema)
    reason = "the answer holds no text"
    for text, repairs in _readings(message):
        reason = _misfit(text, schema)
        if not reason:
            message["content"] = text
            return repairs
    raise ValueError(reason)


def _readings(message: Json) -> list[tuple[str, list[str]]]:
    """The texts that may be the answer, the server's own first."""
    content = message.get("content")
    found: list[tuple[str, list[str]]] = []
    if isinstance(content, str) and content.strip():
        found.append((content, []))
        plain = _THINK.sub("", content, count=1)
        if plain != content:
            found.append((plain, ["thinking-in-content"]))
        if fence := _FENCE.fullmatch(plain):
            found.append((fence[1], ["fenced"]))
    else:
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(reasoning, str) and reasoning.strip():
            found.append((reasoning.strip(), ["answer-in-reasoning"]))
    return found


def _misfit(text: str, schema: Json | None) -> str:
    """Why the text is not the JSON that was asked for, or ''."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return "the answer is no JSON, as was asked for"
    if schema is None:
        return "" if isinstance(value, dict) else "the answer is no JSON object"
    reason = misfit(schema, value)
    return f"the answer does not fit the schema: {reason}" if reason else ""


def _usable(schema: Json) -> None:
    try:
        misfit(schema, None)
    except ValueError as error:
        raise _SchemaError(str(error)) from None
