"""A chat completion request: the caller's OpenAI body, with typed access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import msgspec

from shared.errors import WireError

Json: TypeAlias = dict[str, Any]
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
KNOWN = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "response_format", "tools",
     "tool_choice", "stream"}
)  # fmt: skip
"""The fields with an accessor; `extra` holds all others."""
MAX_CHOICES = 128
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`body` is sent as it is; `priority` orders them in an engine, smaller first; `traceparent` is a header."""

    body: Json
    priority: int | None = None
    traceparent: str = ""

    @classmethod
    def from_json(cls, content: bytes) -> ChatRequest:
        """The request in `content`; raises WireError if no server would accept it."""
        try:
            body = msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"the request is no JSON object: {error}") from None
        return cls.from_body(body)

    @classmethod
    def from_body(cls, body: Json) -> ChatRequest:
        """The request in `body`; raises WireError."""
        if reason := _problem(body):
            raise WireError(reason)
        return cls(body)

    @classmethod
    def typed(cls, messages: list[Json], schema: Json, *, max_tokens: int, name: str = "reply") -> ChatRequest:
        """A request for one JSON value of `schema`, without thinking, which would make servers skip the schema."""
        form = {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
        return cls(
            {"messages": messages, "temperature": 0, "max_tokens": max_tokens, "response_format": form,
             "chat_template_kwargs": {"enable_thinking": False}}
        )  # fmt: skip

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def messages(self) -> list[Json]:
        return list(self.body["messages"])

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def max_tokens(self) -> int | None:
        """The longest answer in tokens, or None if the engine decides."""
        limit = self.body.get("max_completion_tokens")
        found = self.body.get("max_tokens") if limit is None else limit
        return None if found is None else int(found)

    @property
    def temperature(self) -> float | None:
        return self.body.get("temperature")

    @property
    def response_format(self) -> str:
        """`text`, `json_object` or `json_schema`."""
        return str((self.body.get("response_format") or {}).get("type", "text"))

    @property
    def schema(self) -> Json | None:
        """The JSON Schema that the answer must fit."""
        form = self.body.get("response_format") or {}
        return (form.get("json_schema") or {}).get("schema") if form.get("type") == "json_schema" else None

    @property
    def tools(self) -> dict[str, Json]:
        """The JSON Schema of the parameters of each function offered, by name."""
        functions = (tool["function"] for tool in self.body.get("tools") or [])
        return {one["name"]: one.get("parameters") or {"type": "object"} for one in functions}

    @property
    def tool_choice(self) -> str | Json:
        """`auto`, `none`, `required` or a named function."""
        found: str | Json = self.body.get("tool_choice") or ("auto" if self.body.get("tools") else "none")
        return found

    @property
    def named_function(self) -> str | None:
        """The function that the answer must call, if `tool_choice` names one."""
        choice = self.tool_choice
        return str(choice["function"]["name"]) if isinstance(choice, dict) else None

    @property
    def extra(self) -> Json:
        """Fields without an accessor."""
        return {key: value for key, value in self.body.items() if key not in KNOWN}

    def changed(self, fields: Mapping[str, Any]) -> ChatRequest:
        """A copy with `fields` in place of those of the body; None removes one."""
        merged = self.body | dict(fields)
        return replace(self, body={key: value for key, value in merged.items() if value is not None})

    def encoded(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self.body)


def _problem(body: Json) -> str:
    """What is wrong with a body, or ''."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages: at least one is needed"
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            return f"messages.{number}: an object with a role of {', '.join(sorted(ROLES))} is needed"
    if _deeper_than(body, MAX_DEPTH):
        return f"the body is nested deeper than {MAX_DEPTH} levels"
    return _wrong_number(body) or _wrong_tools(body) or _wrong_form(body)


def _deeper_than(body: Json, most: int) -> bool:
    """Level by level, so that deep nesting costs no stack."""
    level: list[Any] = [body]
    for _ in range(most):
        level = [
            part for value in level for part in (value.values() if isinstance(value, dict) else value)
            if isinstance(part, dict | list)
        ]  # fmt: skip
        if not level:
            return False
    return True


def _wrong_number(body: Json) -> str:
    for key in ("max_tokens", "max_completion_tokens"):
        value = body.get(key)
        if value is not None and (type(value) is not int or value < 1):
            return f"{key}: must be a whole number of at least 1"
    if not isinstance(body.get("stream") or False, bool):
        return "stream: must be true or false"
    choices, temperature = body.get("n"), body.get("temperature")
    if choices is not None and (type(choices) is not int or not 1 <= choices <= MAX_CHOICES):
        return f"n: must be a whole number from 1 to {MAX_CHOICES}"
    if temperature is not None and (type(temperature) not in (int, float) or not 0 <= temperature <= 2):
        return "temperature: must be a number from 0 to 2"
    return ""


def _wrong_tools(body: Json) -> str:
    tools = [] if body.get("tools") is None else body["tools"]
    if not isinstance(tools, list):
        return "tools: must be a list"
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return f"tools.{number}: a function with a name is needed"
        if not isinstance(function.get("parameters") or {}, dict):
            return f"tools.{number}.function.parameters: must be a JSON Schema"
    return _wrong_choice(body.get("tool_choice"), {tool["function"]["name"] for tool in tools})


def _wrong_choice(choice: Any, names: set[str]) -> str:
    if choice is None or choice in ("none", "auto") or (choice == "required" and names):
        return ""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in names:
        return "tool_choice: must be none, auto, required, or name a function of tools"
    return ""


def _wrong_form(body: Json) -> str:
    form = {} if body.get("response_format") is None else body["response_format"]
    if not isinstance(form, dict) or form.get("type", "text") not in ("text", "json_object", "json_schema"):
        return "response_format.type: must be text, json_object or json_schema"
    if form.get("type") != "json_schema":
        return ""
    named = form.get("json_schema")
    if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
        return "response_format.json_schema.schema: must be a JSON Schema"
    return ""
