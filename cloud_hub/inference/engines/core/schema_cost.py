"""Bounds the work of validating a value, before it is done.

A schema whose alternatives refer to each other is validated once for each way through them: 2^n ways for n levels,
which takes days at 40 levels. Nothing can interrupt a validator, and it holds Python's lock.
"""

from __future__ import annotations

from typing import Any

LIMIT = 500_000
"""The most steps of a validation; a step takes some microseconds."""
MAX_NODES = 20_000
"""The most parts of a schema times levels of a value that are counted."""
_SAME_VALUE = ("anyOf", "oneOf", "allOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
"""Keywords whose schemas are applied to the value itself; those of all others are applied to parts of it."""

_DEFINITIONS = ("$defs", "definitions")


def cost(schema: Any, value: Any) -> int:
    """About the steps of validating `value`, at most a little over LIMIT."""
    levels, count = _shape(value)
    try:
        return min(LIMIT + 1, count * _Counter(schema).ways(schema, levels))
    except RecursionError:
        return LIMIT + 1


def _shape(value: Any) -> tuple[int, int]:
    """(levels, values) of a JSON value."""
    levels, count, level = 0, 1, [value]
    while level := [
        part
        for whole in level if isinstance(whole, dict | list)
        for part in (whole.values() if isinstance(whole, dict) else whole)
    ]:  # fmt: skip
        levels, count = levels + 1, count + len(level)
    return levels, count


class _Counter:
    """Counts the ways through a schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], int] = {}

    def ways(self, node: Any, levels: int) -> int:
        """How often parts of a schema are applied to one value of so many levels."""
        if isinstance(node, list):
            return sum(self.ways(part, levels) for part in node)
        if not isinstance(node, dict):
            return 1
        key = (id(node), levels)
        if key not in self._known:
            self._known[key] = LIMIT + 1  # of a schema that refers to itself without going down
            self._known[key] = min(LIMIT + 1, self._of_node(node, levels))
        return self._known[key]

    def _of_node(self, node: dict[str, Any], levels: int) -> int:
        if len(self._known) > MAX_NODES:
            return LIMIT + 1
        same = sum(self._all(node[name], levels) for name in _SAME_VALUE if name in node)
        if "$ref" in node:
            same += self._referred(node["$ref"], levels)
        if "$dynamicRef" in node or "$recursiveRef" in node:
            return LIMIT + 1
        parts = [part for name, part in node.items() if name not in _SAME_VALUE and name not in _DEFINITIONS]
        below = max((self._largest(part, levels - 1) for part in parts), default=1) if levels > 0 else 1
        return same + below

    def _all(self, parts: Any, levels: int) -> int:
        """Of a schema, a list of schemas, or schemas by name."""
        named = isinstance(parts, dict) and all(isinstance(part, dict) for part in parts.values())
        return self.ways(parts, levels) + (self.ways(list(parts.values()), levels) if named else 0)

    def _largest(self, parts: Any, levels: int) -> int:
        """Schemas by name or in a list are applied to different parts of the value."""
        inner = parts.values() if isinstance(parts, dict) else parts if isinstance(parts, list) else ()
        return max([self.ways(parts, levels) if isinstance(parts, dict) else 1,
                    *(self.ways(part, levels) for part in inner if isinstance(part, dict))])  # fmt: skip

    def _referred(self, reference: Any, levels: int) -> int:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return 1  # nothing is fetched: the validator refuses it
        node = self._root
        for name in reference[1:].split("/")[1:]:
            if isinstance(node, list):
                node = node[int(name)] if name.isdecimal() and int(name) < len(node) else None
            else:
                node = node.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
        if node is None or (reference != "#" and not reference.startswith("#/")):
            return LIMIT + 1
        return self.ways(node, levels)
