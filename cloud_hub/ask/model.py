"""Answers a question with a language model: rounds of tool calls, then sentences that cite what the tools found.

The model reads only what the tools return, and can call only them: they are read-only and bounded by the caller's
scope. Whatever a text in a tool result talks it into, the worst outcome is a wrong sentence; one without a citation
that holds its numbers and devices is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from cloud_hub.ask.core import prompt
from cloud_hub.ask.core.facts import Fact, Language, Sentence, ToolCall
from cloud_hub.inference.engines import EngineBroken
from cloud_hub.inference.engines.core.completion import Message
from cloud_hub.inference.gateway.blocking import complete
from cloud_hub.inference.gateway.calls import Call
from cloud_hub.inference.gateway.core.routing import Sites
from cloud_hub.inference.gateway.service import Gateway

MAX_ROUNDS, MAX_CALLS, MAX_FACTS = 6, 12, 80
"""Of one question: answers of the model, tool calls, and facts."""


class ChatModel(Protocol):
    """A language model that may call tools. `name` is what answered last."""

    name: str

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], choice: Any) -> Message:
        """The model's next message; raises NotReady or EngineBroken."""
        ...


class GatewayChat:
    """A `ChatModel` behind the inference gateway, for one caller; call it from a thread."""

    def __init__(self, gateway: Gateway, *, tenant: str, sites: Sites, deadline_s: float, trace: str) -> None:
        self.name = "the inference gateway"
        self._gateway, self._tenant, self._sites = gateway, tenant, sites
        self._deadline_s, self._trace = deadline_s, trace

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], choice: Any) -> Message:
        """Ask the gateway as the caller's own request: its budget and its sites count."""
        body = {"messages": messages, "tools": tools, "tool_choice": choice, "temperature": 0, "max_tokens": 1500}
        call = Call(body=body, tenant=self._tenant, sites=self._sites, deadline_s=self._deadline_s, trace=self._trace)
        answer, self.name = complete(self._gateway, call)
        return answer.message


class ToolRunner(Protocol):
    """Runs a tool call: its facts, numbered from `first`."""

    def __call__(self, call: ToolCall, first: int) -> list[Fact]: ...


@dataclass(slots=True)
class Conversation:
    """One question on its way: `messages` grow, `facts` are all that was found, `sentences` the answer once given."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    facts: list[Fact] = field(default_factory=list)
    sentences: tuple[Sentence, ...] = ()
    answered: bool = False
    calls: int = 0


def open_conversation(
    question: str, earlier: list[tuple[str, str]], tools: list[dict[str, Any]], language: Language
) -> Conversation:
    """A conversation before the first round."""
    return Conversation(messages=prompt.opening(question, earlier, language), tools=tools)


def converse(conversation: Conversation, model: ChatModel, run: ToolRunner) -> Iterator[ToolCall]:
    """Ask until the model answers or the rounds are used up; yields each tool call as it is made.

    Raises NotReady or EngineBroken. The last round may only answer.
    """
    for number in range(MAX_ROUNDS):
        spent = number == MAX_ROUNDS - 1 or conversation.calls >= MAX_CALLS or len(conversation.facts) >= MAX_FACTS
        choice: Any = {"type": "function", "function": {"name": prompt.ANSWER}} if spent else "auto"
        message = model.chat(conversation.messages, conversation.tools, choice)
        asked = _tool_calls(message)
        if not asked:
            conversation.sentences, conversation.answered = prompt.cited_sentences(message.content or ""), True
            return
        conversation.messages.append({"role": "assistant", "content": message.content, "tool_calls": asked})
        for one in asked:
            yield from _call(conversation, one, run)
        if conversation.answered:
            return
    raise EngineBroken(f"no answer after {MAX_ROUNDS} rounds of tool calls", model.name)


def _tool_calls(message: Message) -> list[dict[str, Any]]:
    """The well-formed calls of a message, `MAX_CALLS` at most; ids are given where the engine gave none."""
    calls = []
    for number, raw in enumerate((message.tool_calls or [])[:MAX_CALLS]):
        function = raw.get("function") if isinstance(raw, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            arguments = function.get("arguments")
            text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
            calls.append({"id": str(raw.get("id") or f"call-{number}")[:64], "type": "function",
                          "function": {"name": function["name"][:64], "arguments": text[:4000]}})  # fmt: skip
    return calls


def _call(conversation: Conversation, raw: dict[str, Any], run: ToolRunner) -> Iterator[ToolCall]:
    name, text = raw["function"]["name"], raw["function"]["arguments"]
    if name == prompt.ANSWER:
        reply = _answer(conversation, text)
    elif conversation.calls >= MAX_CALLS or len(conversation.facts) >= MAX_FACTS:
        reply = '{"refused":"no further calls are possible: give the answer now"}'
    else:
        conversation.calls += 1
        call = ToolCall(tool=name, arguments=_arguments(text))
        yield call
        facts = run(call, len(conversation.facts) + 1)
        conversation.facts += facts
        reply = prompt.result(facts)
    conversation.messages.append({"role": "tool", "tool_call_id": raw["id"], "content": reply})


def _answer(conversation: Conversation, text: str) -> str:
    """Take the answer; returns what the model is told if it is none."""
    try:
        given = msgspec.json.decode(text, type=prompt.AnswerArguments)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return msgspec.json.encode({"refused": f"this is no answer: {error}"}).decode()
    conversation.sentences = tuple(Sentence(text=one.text, cites=tuple(one.cites)) for one in given.sentences)
    conversation.answered = True
    return "{}"


def _arguments(text: str) -> dict[str, Any]:
    """The arguments; those that are no JSON object are refused by the tool as an unknown field."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"arguments": "are no JSON object"}
