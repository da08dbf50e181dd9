"""Facts that tools found, and answers that cite them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a tool found: `kind` chooses the words, `data` holds names, numbers and times (`*_us`)."""

    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A finding with its id in the answer, `E1`, `E2`, ..., the tool that gave it, and its text."""

    id: str
    tool: str
    kind: str
    text: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence of an answer, and the ids of the facts that it rests on."""

    text: str
    cites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool: its name and arguments, not checked yet."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer. `author`: `rules` (question forms, no language model) or `glm`; `engine` is the name of either.

    `note` says why the forms answered instead of the model, or what was cut. `plan` is the YAML of a drafted playbook
    that nobody has approved, or ''.
    """

    sentences: tuple[Sentence, ...]
    facts: tuple[Fact, ...]
    author: Literal["rules", "glm"]
    engine: str
    note: str = ""
    plan: str = ""
