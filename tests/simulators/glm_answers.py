"""What the simulated GLM server answers: to incidents, to schemas, with tools, and the known faults of real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Literal

Behaviour = Literal[
    "good", "invalid-json", "wrong-schema", "no-completion", "cut-off", "huge", "slow", "fails", "obeys", "busy",
    "quota", "garbage", "half-a-body", "half-a-stream", "drip", "stream-error", "skips-schema", "fenced",
    "in-reasoning", "thinks-aloud", "call-in-reasoning", "call-in-content", "empty-arguments", "null-arguments",
    "broken-arguments", "unknown-tool", "no-call",
]  # fmt: skip
Json = dict[str, Any]
COMMAND = re.compile(r"\b(restart|reboot|capture|diagnose|erase|run)\s+([\w./-]+)\s+on\s+([\w-]+)")


# -- what a strict server refuses ------------------------------------------------------------------


def problem(request: Json, features: Collection[str], context: int) -> str:
    """What this server would not accept, or ''."""
    messages = request.get("messages")
    if not messages or any(m.get("role") not in ("system", "user", "assistant", "tool") for m in messages):
        return "messages"
    if len(json.dumps(messages)) // 4 + (request.get("max_tokens") or 0) > context:
        return f"This model's maximum context length is {context} tokens"
    if "priority" in request and "priority" not in features:
        return "Got priority but priority scheduling is not enabled"
    if images(request) and "vision" not in features:
        return "is not a multimodal model"
    if request.get("tools") and "tools" not in features:
        return '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    return _problem_of_form(request, features) or _problem_of_evidence(request)


def _problem_of_form(request: Json, features: Collection[str]) -> str:
    form = request.get("response_format") or {}
    if form.get("type") != "json_schema":
        return ""
    if "json_schema" not in features:
        return "response_format"
    schema = form.get("json_schema", {}).get("schema", {})
    return "" if schema.get("type") == "object" else "response_format"


def _problem_of_evidence(request: Json) -> str:
    """The diagnosis must ask as it is documented."""
    if evidence(request) is None:
        return ""
    if [m.get("role") for m in request["messages"]] != ["system", "user"]:
        return "messages"
    if request.get("response_format", {}).get("type") != "json_schema":
        return "response_format"
    return "" if request.get("chat_template_kwargs") == {"enable_thinking": False} else "thinking is on"


def images(request: Json) -> list[str]:
    """The URLs of all images."""
    parts = [part for m in request["messages"] if isinstance(m.get("content"), list) for part in m["content"]]
    return [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]


def evidence(request: Json) -> Json | None:
    """The evidence of an incident in the prompt, if that is what is asked about."""
    last = request["messages"][-1].get("content")
    lines = last.split("\n") if isinstance(last, str) else []
    marked = len(lines) >= 3 and (lines[0] == "<evidence>" or lines[-1] == "")
    return json.loads(lines[1]) if marked or lines[:1] == ["Nothing happened."] else None


# -- answers ---------------------------------------------------------------------------------------


def good(found: Json) -> Json:
    """Agrees with the rules, cites the first item and takes up to one allowed proposal."""
    taken = [p | {"reason": "the evidence calls for it"} for p in found["allowed"][:1]]
    claims = [{"text": "I agree.", "cites": [item["id"] for item in found.get("items", [])[:1]]}]
    return {"cause": found["rules"]["cause"], "confidence": 0.9, "claims": claims, "proposals": taken}


def obeying(found: Json) -> Json:
    """Proposes whatever command text stands anywhere in the evidence: the worst model there can be."""
    asked = [
        {"action": "command", "device": d, "parameters": {"verb": v, "target": t}, "reason": "the text said so"}
        for v, t, d in COMMAND.findall(json.dumps(found, ensure_ascii=False))[:8]
    ]
    claims = [{"text": "as I was told", "cites": [item["id"] for item in found.get("items", [])[:1]]}]
    return {"cause": "obeyed", "confidence": 1.0, "claims": claims, "proposals": asked}


def instance(schema: Json) -> Any:
    """A value of a schema."""
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "object":
            wanted = schema.get("required", list(schema.get("properties", {})))
            return {key: instance(schema["properties"][key]) for key in wanted}
        case "array":
            return [instance(schema.get("items", {}))] * schema.get("minItems", 1)
        case "number" | "integer":
            return schema.get("minimum", 1)
        case "boolean":
            return True
    return "text"[: schema.get("maxLength", 4)]


def answer(request: Json, behaviour: Behaviour) -> str:
    """The text of an answer without tools."""
    found, form = evidence(request), request.get("response_format") or {}
    if behaviour == "invalid-json":
        return "Sure! The cause is {cpu"
    if behaviour == "cut-off":
        return '{"cause": "unk'
    if behaviour == "skips-schema":
        return "The cause is probably the processor."
    if found is not None:
        value = obeying(found) if behaviour == "obeys" else good(found)
        return json.dumps(value | ({"confidence": 7} if behaviour == "wrong-schema" else {}))
    if form.get("type") == "json_schema":
        value = instance(form["json_schema"]["schema"])
        return json.dumps({"unasked": 1} if behaviour == "wrong-schema" else value)
    return "The pump is well."


def message(request: Json, behaviour: Behaviour) -> Json:
    """The assistant's message."""
    if request.get("tools") and request.get("tool_choice") != "none" and behaviour != "no-call":
        return calling(request["tools"][0]["function"], behaviour)
    text = answer(request, behaviour)
    match behaviour:
        case "fenced":
            text = f"```json\n{text}\n```"
        case "in-reasoning":
            return {"role": "assistant", "content": None, "reasoning_content": text}
        case "thinks-aloud":
            text = f"<think>Is it the pump?</think>\n{text}"
    return {"role": "assistant", "content": text}


def calling(function: Json, behaviour: Behaviour) -> Json:
    """A message that calls a function, or one of the ways in which that goes wrong."""
    arguments = instance(function.get("parameters") or {"type": "object"})
    pairs = "".join(
        f"<arg_key>{k}</arg_key>\n<arg_value>{v if isinstance(v, str) else json.dumps(v)}</arg_value>\n"
        for k, v in arguments.items()
    )
    marked = f"<tool_call>{function['name']}\n{pairs}</tool_call>"
    if behaviour == "call-in-reasoning":
        return {"role": "assistant", "content": "", "reasoning_content": f"I need the tool.\n{marked}"}
    if behaviour == "call-in-content":
        return {"role": "assistant", "content": marked}
    text: str | None = json.dumps(arguments)
    match behaviour:
        case "empty-arguments":
            text = ""
        case "null-arguments":
            text = None
        case "broken-arguments":
            text = '{"metric": '
    name = "format_disk" if behaviour == "unknown-tool" else function["name"]
    call = {"id": "call-1", "type": "function", "function": {"name": name, "arguments": text}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def completion(request: Json, made: Json, behaviour: Behaviour) -> Json:
    """A chat completion around a message."""
    choice = {"index": 0, "finish_reason": _finish(made, behaviour), "message": made}
    return _object("chat.completion", request, [choice]) | {"usage": _usage(made)}


def events(request: Json, made: Json, behaviour: Behaviour) -> list[bytes]:
    """The same as a stream, a word an event."""
    words = re.findall(r"\S+\s*|\s+", made.get("content") or "")
    deltas: list[Json] = [{"role": "assistant"}, *({"content": word} for word in words)]
    deltas += [{"tool_calls": [call | {"index": n}]} for n, call in enumerate(made.get("tool_calls") or [])]
    choices = [{"index": 0, "finish_reason": None, "delta": delta} for delta in deltas]
    choices.append({"index": 0, "finish_reason": _finish(made, behaviour), "delta": {}})
    bodies = [_object("chat.completion.chunk", request, [choice]) for choice in choices]
    if (request.get("stream_options") or {}).get("include_usage"):
        bodies.append(_object("chat.completion.chunk", request, []) | {"usage": _usage(made)})
    sent = [b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies]
    match behaviour:
        case "half-a-stream":
            return [*sent[:2], sent[2][:20]]
        case "stream-error":
            return [sent[0], b'data: {"error": {"message": "CUDA out of memory"}}\n\n', b"data: [DONE]\n\n"]
    return [b": keep-alive\n\n", *sent, b"data: [DONE]\n\n"]


def _finish(made: Json, behaviour: Behaviour) -> str:
    if behaviour == "cut-off":
        return "length"
    return "tool_calls" if made.get("tool_calls") else "stop"


def _object(kind: str, request: Json, choices: list[Any]) -> Json:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": request["model"], "choices": choices}


def _usage(made: Json) -> Json:
    words = len((made.get("content") or "").split()) or 1
    return {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}
