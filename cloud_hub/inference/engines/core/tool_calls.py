"""Tool calls: reads those that stayed in the text, and checks those that arrived.

GLM writes `<tool_call>name`, then `<arg_key>k</arg_key><arg_value>v</arg_value>` for each argument, then
`</tool_call>`. A server without the right parser, or whose reasoning parser is faster, leaves that in the text.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from cloud_hub.inference.engines.core.schemas import misfit

Json = dict[str, Any]
_CALL = re.compile(r"<tool_call>\s*([\w.-]+)\s*(.*?)\s*</tool_call>", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
MARK = "<tool_call>"


def swallowed_calls(text: str, tools: dict[str, Json]) -> list[Json]:
    """The calls of offered functions that stand in `text`; raises ValueError for a call that cannot be read."""
    found = _CALL.findall(text)
    if len(found) != text.count(MARK):
        raise ValueError("a tool call in the text is not complete")
    return [
        {"id": f"call-{number}", "type": "function",
         "function": {"name": name, "arguments": _written(body, tools.get(name, {}))}}
        for number, (name, body) in enumerate(found)
    ]  # fmt: skip


def without_calls(text: str) -> str:
    """The text around the calls."""
    return _CALL.sub("", text).strip()


def _written(body: str, parameters: Json) -> str:
    """The arguments of a call in the text as JSON."""
    properties = parameters.get("properties") or {}
    pairs = _ARGUMENT.findall(body)
    if body and not pairs:
        return body  # other GLM versions write JSON there
    return msgspec.json.encode({key: _value(text, properties.get(key)) for key, text in pairs}).decode()


def _value(text: str, schema: Any) -> Any:
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def checked_call(call: Any, tools: dict[str, Json]) -> tuple[Json, bool]:
    """The call with arguments in JSON, and whether they had to be repaired; raises ValueError."""
    try:
        name, arguments = call["function"]["name"], call["function"].get("arguments")
    except (TypeError, KeyError, AttributeError):
        raise ValueError("a tool call has no function") from None
    if name not in tools:
        raise ValueError("the function that is called was not offered")
    text, repaired = _as_text(arguments)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError(f"the arguments of '{name}' are no JSON") from None
    if reason := misfit(tools[name], value):
        raise ValueError(f"the arguments of '{name}' do not fit: {reason}")
    return call | {"function": call["function"] | {"arguments": text}}, repaired


def _as_text(arguments: Any) -> tuple[str, bool]:
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return "{}", True
    if isinstance(arguments, str):
        return arguments, False
    return msgspec.json.encode(arguments).decode(), True
