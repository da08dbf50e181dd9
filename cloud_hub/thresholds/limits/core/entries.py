"""Entries of a device's set of limits: merged with others, placed where nobody else owns them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloud_hub.twins.core.owners import CONFIGURATION, JOB, RELEASED

Entry = dict[str, Any]


def merged(current: Sequence[Entry], wanted: Sequence[Entry]) -> list[Entry]:
    """A device's set with the wanted limits in the place of those on the same metrics."""
    changed = {row["metric"] for row in wanted}
    return [row for row in current if row["metric"] not in changed] + list(wanted)


def place(
    desired: Sequence[Entry] | None, own: Sequence[Entry], wanted: Sequence[Entry],
    mine: Mapping[str, Entry | None], owner: str,
) -> tuple[list[Entry] | None, dict[str, str]]:  # fmt: skip
    """A device's set with learned limits where nobody else has a say, None when none is; and why not, by metric.

    `desired` is the set that the hub desires, None for none; then the device's `own` file's counts, and what is
    learned takes its place. `mine` is what this learning put there last, `owner` who set the desired set last.
    A limit that somebody changed, added or took away since is theirs, until they release it (ADR 0013).
    """
    if desired is None and not any(mine.values()):
        return merged(own, wanted), {}
    desired = desired or []
    if owner.startswith((CONFIGURATION, JOB)):
        return None, {row["metric"]: f"{owner} sets this device's limits" for row in wanted}
    if owner.startswith(RELEASED):
        return merged(desired, wanted), {}
    there = {row["metric"]: row for row in desired}
    held = {
        row["metric"]: f"{owner or 'somebody'} {'changed' if row['metric'] in there else 'took away'} this limit"
        for row in wanted
        if there.get(row["metric"]) != mine.get(row["metric"])
    }
    free = [row for row in wanted if row["metric"] not in held]
    return (merged(desired, free) if free else None), held
