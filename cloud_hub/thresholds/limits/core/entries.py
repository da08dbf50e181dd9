"""Merges entries into a device's set of limits, and keeps learned limits from replacing those set by others. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloud_hub.twins.core.owners import CONFIGURATION, JOB, RELEASED

Entry = dict[str, Any]


def merged(current: Sequence[Entry], wanted: Sequence[Entry]) -> list[Entry]:
    """A device's set in which the wanted limits replace those of the same metrics."""
    changed = {row["metric"] for row in wanted}
    return [row for row in current if row["metric"] not in changed] + list(wanted)


def place(
    desired: Sequence[Entry] | None, own: Sequence[Entry], wanted: Sequence[Entry],
    mine: Mapping[str, Entry | None], owner: str,
) -> tuple[list[Entry] | None, dict[str, str]]:  # fmt: skip
    """(The device's set with learned limits, None when none applies; the reasons of those that do not, by metric).

    `desired` is the hub's desired set, None for none; the device's `own` file then applies, and learned limits replace
    its entries. `mine` is what this learning job set last, `owner` is who set the desired set last. A limit that
    somebody else changed, added or removed since belongs to them until they release it (ADR 0013).
    """
    if desired is None and not any(mine.values()):
        return merged(own, wanted), {}
    desired = desired or []
    if owner.startswith((CONFIGURATION, JOB)):
        return None, {row["metric"]: f"{owner} sets this device's limits" for row in wanted}
    if owner.startswith(RELEASED):
        return merged(desired, wanted), {}
    there = {row["metric"]: row for row in desired}
    reasons = {
        row["metric"]: f"{owner or 'somebody'} {'changed' if row['metric'] in there else 'removed'} this limit"
        for row in wanted
        if there.get(row["metric"]) != mine.get(row["metric"])
    }
    free = [row for row in wanted if row["metric"] not in reasons]
    return (merged(desired, free) if free else None), reasons
