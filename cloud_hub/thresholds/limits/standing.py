"""Reads the limits in force on devices: the desired ones, else the reported ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select
from sqlmodel import Session

from cloud_hub.database.tables import AlarmRow
from cloud_hub.thresholds.limits import files as limit_files
from cloud_hub.twins import batch as twin_batch
from shared.protocol.codec import from_plain
from shared.thresholds import Limits

Series = tuple[str, str]
"""Device and metric."""


_ALARMS: Any = AlarmRow.__table__  # type: ignore[attr-defined]


def present(session: Session, devices: Collection[str]) -> dict[Series, Limits]:
    """The limits in force on these devices: the desired ones, else those that the device reports."""
    found: dict[Series, Limits] = {}
    for (device, _), (document, _) in twin_batch.read_documents(session, devices, ["thresholds"]).items():
        sections = (document.state.get(name, {}).get("limits") for name in ("desired", "reported"))
        sets = [entries for one in sections if (entries := limit_files.read_entries(session, one)) is not None]
        for entry in sets[0] if sets else []:
            try:
                found[device, str(entry["metric"])] = from_plain(Limits, entry)
            except ValueError:  # the desired entry is invalid: every device refuses it
                continue
    return found


def desired(session: Session, device: str) -> limit_files.Entries:
    """The desired limits of a device as raw entries."""
    for document, _ in twin_batch.read_documents(session, [device], ["thresholds"]).values():
        return limit_files.read_entries(session, document.state.get("desired", {}).get("limits")) or []
    return []


def standing_alarms(session: Session, devices: Collection[str]) -> dict[Series, int]:
    """When the active alarm of a limit was raised, by series; alarms judged false are left out."""
    mine = select(_ALARMS.c.device, _ALARMS.c.metric, func.min(_ALARMS.c.raised_us)).where(
        _ALARMS.c.device.in_(devices), _ALARMS.c.about == "", _ALARMS.c.state == "raised",
        _ALARMS.c.kind != "no-data", _ALARMS.c.verdict != "false-alarm",
    )  # fmt: skip
    found = session.connection().execute(mine.group_by(_ALARMS.c.device, _ALARMS.c.metric))
    return {(device, metric): raised_us for device, metric, raised_us in found}
