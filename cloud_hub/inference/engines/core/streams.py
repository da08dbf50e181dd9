"""Turns a streamed answer into a body, to check it, and a checked body into a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from cloud_hub.inference.engines.core.request import ChatRequest
from cloud_hub.inference.engines.core.sse import DONE, event_data
from cloud_hub.inference.engines.core.validation import checked, needs_check
from cloud_hub.inference.engines.errors import EngineBroken

Json = dict[str, Any]
HARMLESS = frozenset({"empty-arguments"})
"""Repairs without which a caller of a stream can read the answer too."""
TEXTS = ("content", "reasoning_content", "reasoning")


def check_stream(request: ChatRequest, events: Iterable[bytes], engine: str = "") -> None:
    """Check a whole streamed answer as `checked` does; raises EngineBroken or EngineRefused.

    What was sent cannot be repaired any more: an answer that would need it does not fit.
    """
    if not needs_check(request):
        return
    if repairs := set(checked(request, assembled(events, engine), engine).repairs) - HARMLESS:
        reason = f"the answer needs repair ({', '.join(sorted(repairs))}), which only an answer without stream gets"
        raise EngineBroken(reason, engine)


def assembled(events: Iterable[bytes], engine: str = "") -> bytes:
    """The body that the events of a stream amount to; raises EngineBroken."""
    body: Json = {}
    choices: dict[int, Json] = {}
    try:
        for event in events:
            data = event_data(event)
            if data is None or data == DONE:
                continue
            chunk = msgspec.json.decode(data)
            body |= {k: v for k, v in chunk.items() if k != "choices" and v is not None}
            for part in chunk.get("choices") or []:
                _add(choices.setdefault(part.get("index", 0), _empty(part.get("index", 0))), part)
    except (msgspec.MsgspecError, TypeError, KeyError, AttributeError) as error:
        raise EngineBroken(f"an event of the stream cannot be read ({type(error).__name__})", engine) from None
    if not choices:
        raise EngineBroken("the stream holds no choice", engine)
    body |= {"object": "chat.completion", "choices": [choices[n] for n in sorted(choices)]}
    return msgspec.json.encode(body)


def _empty(index: int) -> Json:
    return {"index": index, "finish_reason": None, "message": {"role": "assistant", "content": None}}


def _add(choice: Json, part: Json) -> None:
    choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    message, delta = choice["message"], part.get("delta") or {}
    for key in TEXTS:
        if delta.get(key):
            message[key] = (message.get(key) or "") + delta[key]
    for call in delta.get("tool_calls") or []:
        _add_call(message.setdefault("tool_calls", []), call)


def _add_call(calls: list[Json], part: Json) -> None:
    """The first part of a call names it, later ones add to its arguments."""
    number = part.get("index", len(calls))
    while len(calls) <= number < 128:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[number], part.get("function") or {}
    call["id"] = part.get("id") or call["id"]
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def events_of(body: bytes) -> list[bytes]:
    """A body as a stream: each choice in one event, its end in another, then the usage and [DONE]."""
    answer = msgspec.json.decode(body)
    head = {k: v for k, v in answer.items() if k not in ("choices", "usage")} | {"object": "chat.completion.chunk"}
    chunks: list[Json] = []
    for choice in answer["choices"]:
        message = choice["message"]
        delta = {k: v for k, v in message.items() if v is not None and k != "tool_calls"}
        if message.get("tool_calls"):
            delta["tool_calls"] = [call | {"index": n} for n, call in enumerate(message["tool_calls"])]
        index = choice.get("index", 0)
        chunks.append(head | {"choices": [{"index": index, "finish_reason": None, "delta": delta}]})
        finish = choice.get("finish_reason")
        chunks.append(head | {"choices": [{"index": index, "finish_reason": finish, "delta": {}}]})
    if answer.get("usage"):
        chunks.append(head | {"choices": [], "usage": answer["usage"]})
    return [b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks] + [b"data: " + DONE + b"\n\n"]
