"""Numbers evidence that nobody has numbered yet, so that rules and claims can cite it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cloud_hub.incidents.core.evidence import Evidence, EvidenceItem, ItemKind, alarm_item

LINES = 24
"""The maximum number of log lines, and of metrics."""
VALUES = 20


def numbered_items(evidence: Evidence) -> Sequence[EvidenceItem]:
    """The items of the evidence; its other fields as items if it has none."""
    if evidence.items:
        return evidence.items
    alarms = [alarm_item(f"E{n}", evidence.device, alarm) for n, alarm in enumerate(evidence.alarms, 1)]
    t_us = max((alarm.t_us for alarm in evidence.alarms), default=0)
    others = [
        EvidenceItem(id=f"E{n}", kind=kind, device=evidence.device, t_us=t_us, summary=summary, data=data)
        for n, (kind, summary, data) in enumerate(_others(evidence), len(alarms) + 1)
    ]
    return [*alarms, *others]


def _others(evidence: Evidence) -> Iterator[tuple[ItemKind, str, dict[str, Any]]]:
    for name, values in list(evidence.metrics.items())[:LINES]:
        yield "metric", f"recent values of {name}", {"metric": name, "values": list(values[-VALUES:])}
    for text in evidence.events[-LINES:]:
        yield "event", text, {}
    if evidence.reported:
        yield "twin", "what the device reports", evidence.reported
    if evidence.command_output:
        yield "command", "output of diagnose", dict(evidence.command_output)
