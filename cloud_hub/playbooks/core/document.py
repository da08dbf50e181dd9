"""Reads YAML as plain values with the line of each: YAML 1.2's core schema, without anchors, aliases and tags.

PyYAML splits the text into events. They are counted before anything is built, so that no text costs more than its size:
an alias would be repeated (a "bomb"), and nested flow collections would be recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from cloud_hub.playbooks.core.problems import PlaybookError, Problem

MAX_BYTES = 64 << 10
MAX_NESTING = 16
MAX_VALUES = 20_000

Place = tuple[str | int, ...]
Lines = dict[Place, int]

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?\Z")
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}


def read(text: str, name: str) -> tuple[Any, Lines]:
    """The document in `text`, and the line of each place in it. Raises PlaybookError."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _error(name, 0, f"the file is longer than {MAX_BYTES} bytes", "Split it into sub-playbooks")
    lines: Lines = {}
    try:
        events = _bounded(yaml.parse(text, Loader=yaml.SafeLoader), name)
        value = _value(next(events), events, (), lines, name)
        if not isinstance(next(events, None), type(None)):
            raise _error(name, 0, "the file has more than one document", "Leave out the line with ---")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = str(getattr(error, "problem", None) or error)[:200]
        raise _error(name, mark.line + 1 if mark else 0, f"this is no YAML ({reason})", "Correct it") from error
    except StopIteration:
        raise _error(name, 0, "the file is empty", "Write steps into it") from None
    return value, lines


def _error(name: str, line: int, reason: str, cure: str) -> PlaybookError:
    return PlaybookError(name, [Problem(line, "file", reason, cure)])


def _bounded(events: Iterator[Any], name: str) -> Iterator[Any]:
    """The events of the content, at most MAX_VALUES of them and MAX_NESTING deep."""
    depth = count = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent,
                              yaml.DocumentEndEvent)):  # fmt: skip
            continue
        count += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise _error(name, line, f"values are nested deeper than {MAX_NESTING}", "Make it flatter")
        if count > MAX_VALUES:
            raise _error(name, line, f"the file has more than {MAX_VALUES} values", "Split it into sub-playbooks")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _error(name, line, "anchors and aliases (& and *) are not allowed", "Write the value out")
        if getattr(event, "tag", None) not in {None, "!"}:
            raise _error(name, line, "tags (!) are not allowed", "Leave it out; quote what is text")
        yield event


def _value(event: Any, events: Iterator[Any], place: Place, lines: Lines, name: str) -> Any:
    lines[place] = event.start_mark.line + 1
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(events, place, lines, name)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, (*place, len(items)), lines, name))
        return items
    return _scalar(event, name)


def _mapping(events: Iterator[Any], place: Place, lines: Lines, name: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            raise _error(name, line, "a name must be text", "Quote it if it holds brackets")
        if event.value in result:
            raise _error(name, line, f"'{event.value[:40]}' is there twice", "Leave one out")
        result[event.value] = _value(next(events), events, (*place, event.value), lines, name)
        lines[(*place, event.value)] = line
    return result


def _scalar(event: Any, name: str) -> Any:
    text: str = event.value
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise _error(name, event.start_mark.line + 1, "text holds a NUL or half of a surrogate pair", "Leave it out")
    if not event.implicit[0]:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text
