"""Reads YAML that people write into typed structures. An error names the file, the line and the cure. Pure.

Only plain data is read: no tags (what one claims need not be so), no aliases (a small file could expand to gigabytes),
no key twice, no half of a surrogate pair (it can be neither stored nor printed).
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
import yaml

from shared.errors import ConfigError
from shared.suggestions import explained

T = TypeVar("T")
MAX_CHARS = 256 * 1024
_PLACE = re.compile(r" - at `\$([^`]*)`")
_PART = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNKNOWN = re.compile(r"unknown field `(.*?)`")


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases, tags and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is plain data."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if reason := _forbidden(event):
            raise yaml.composer.ComposerError(None, None, reason, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Construct a mapping whose keys are distinct."""
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _forbidden(event: yaml.Event) -> str:
    """Why no node may begin with this event, or ''."""
    if isinstance(event, yaml.AliasEvent):
        return "aliases (*name) are not supported: repeat the text"
    if getattr(event, "tag", None) not in {None, "!"}:
        return "tags (!) are not supported: leave it out; quote what is text"
    if isinstance(event, yaml.ScalarEvent) and _SURROGATE.search(event.value):
        return "a text holds half of a surrogate pair: leave it out"
    return ""


def decode(text: str, kind: type[T], name: str, cure: str) -> T:
    """Read `text`, the content of the file `name`, as a `kind`.

    Raises ConfigError, whose place is the file with the line, and whose cure is `cure`.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(name, f"is longer than {MAX_CHARS} characters", "Split it, or leave out what is not used")
    try:
        node, value = _load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}, line {mark.line + 1}" if mark is not None else name
        raise ConfigError(place, f"is no valid YAML: {error.problem or error.context}", cure) from error
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML forbids, or a date that does not exist
        raise ConfigError(name, f"is no valid YAML: {error}", cure) from error
    except RecursionError:
        raise ConfigError(name, "is nested too deeply", cure) from None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason = _PLACE.sub("", explained(error, kind))
        raise ConfigError(f"{name}, line {_line(node, str(error))}", reason, cure) from error


def _load(text: str) -> tuple[Any, Any]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return node, loader.construct_document(node) if node is not None else {}
    finally:
        loader.dispose()


def _line(node: Any, message: str) -> int:
    """The line of the node that msgspec's message names."""
    place = _PLACE.search(message)
    for part in _PART.finditer(place[1] if place else ""):
        below = _below(node, part[1], part[2])
        if below is None:
            break
        node = below
    unknown = _UNKNOWN.search(message)
    if unknown and isinstance(node, yaml.MappingNode):
        node = next((key for key, _ in node.value if key.value == unknown[1]), node)
    return 1 if node is None else int(node.start_mark.line) + 1


def _below(node: Any, key: str | None, index: str | None) -> Any:
    if isinstance(node, yaml.MappingNode) and key is not None:
        return next((value for name, value in node.value if name.value == key), None)
    if isinstance(node, yaml.SequenceNode) and index is not None and index.isdecimal():
        return node.value[int(index)]
    return None
