"""Decides which failed device explains that others are silent. Pure.

A device depends on those that its tag `depends_on` names, and on those whose tag `feeds` names an asset path that it
lies at or below. Both are written by people: an edge may point to itself, close a circle, or name nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

Neighbours = Callable[[Collection[str]], Mapping[str, Iterable[str]]]
"""The devices next to each of these: those that they depend on, or those that depend on them."""
Graph = dict[str, tuple[str, ...]]

MAX_DEPTH = 8
MAX_UPSTREAM = 256
"""How far, and to how many devices, dependencies are followed."""


def walk(start: str, neighbours: Neighbours, most: int = MAX_UPSTREAM, depth: int = MAX_DEPTH) -> Graph:
    """The edges within `depth` steps of `start`, of at most `most` devices, the nearest first.

    Calls `neighbours` at most `depth` times, once for each distance, and for no device twice.
    """
    graph: Graph = {}
    level = [start]
    for _ in range(depth):
        if not level:
            break
        near = neighbours(level)
        for device in level:
            graph[device] = tuple(sorted(set(near.get(device, ())) - {device}))
        known = graph.keys()
        following = sorted({other for device in level for other in graph[device]} - known)
        level = following[: max(most - len(graph), 0)]
    return graph


def reachable(start: str, graph: Graph) -> set[str]:
    """The devices that `start` depends on, directly or through others; `start` itself only in a circle."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = set(graph.get(waiting.pop(), ())) - seen
        seen |= new
        waiting += new
    return seen


def explaining(device: str, graph: Graph, failed: Collection[str]) -> str | None:
    """The failed device whose failure explains that `device` is silent, or None.

    It is one that no other failed device explains: the router, not the switch behind it. In a circle, and among
    several that are independent of each other, the first by name: so each member of a circle gets the same answer, and
    the one that leads it gets None.
    """
    candidates = (reachable(device, graph) & set(failed)) | {device}
    above = {one: reachable(one, graph) & candidates for one in candidates}
    roots = [one for one in candidates if all(one in above[other] for other in above[one])]
    root = min(roots)
    return None if root == device else root
