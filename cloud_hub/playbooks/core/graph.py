"""Directed graphs of named nodes: cycles and layers. A graph maps each node to the nodes that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter


def find_cycle(graph: Mapping[str, Sequence[str]]) -> list[str]:
    """One cycle, its first node again at the end, or []."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(node) for node in error.args[1]]
    return []


def layers(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Nodes by the longest way from a node without needs; each layer in the order of `graph`."""
    depth: dict[str, int] = {}
    for node in TopologicalSorter(graph).static_order():
        depth[node] = 1 + max((depth[need] for need in graph[node]), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for node in graph:
        rows[depth[node]].append(node)
    return rows
