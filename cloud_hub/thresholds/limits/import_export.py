"""Exports and imports the limits of many devices as one versioned file, which is validated before anything changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlmodel import Session

from cloud_hub import query
from cloud_hub.audit import trail
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.thresholds.limits import files as limit_files
from cloud_hub.thresholds.limits import standing as limits_standing
from cloud_hub.thresholds.limits.core import entries as limit_entries
from cloud_hub.twins import service as twins
from shared.codec import from_plain, plain
from shared.thresholds import Limits

FORM = "tidegate-limits/1"
MOST_DEVICES = 1000


def export_limits(session: Session, target: str, after: str, limit: int, source: str, now_us: int) -> dict[str, Any]:
    """The limits in force on the devices that match a query; `source` (learned or fixed) restricts the kind."""
    devices = query.devices(session, target, after=after, limit=limit)
    sets: dict[str, list[Any]] = {}
    for (device, _), one in sorted(limits_standing.present(session, devices).items()):
        if source in ("", one.source):
            sets.setdefault(device, []).append(_without_defaults(one))
    more = devices[-1] if len(devices) == limit else ""
    return {"form": FORM, "exported_us": now_us, "devices": sets, "next": more}


def _without_defaults(limits: Limits) -> dict[str, Any]:
    """The limits as JSON, without fields that have their default."""
    usual: dict[str, Any] = plain(Limits(metric=limits.metric, high=1.0)) | {"high": None}
    return {key: value for key, value in plain(limits).items() if key == "metric" or value != usual.get(key)}


def read_file(form: str, sets: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[Limits]]:
    """Parse the sets of a file. Raises HubError 422 with the position of the first error."""
    if form != FORM:
        raise HubError(422, "Invalid request", f"body.form: this hub reads {FORM}, not '{form[:80]}'")
    found: dict[str, list[Limits]] = {}
    for device, rows in sets.items():
        for number, row in enumerate(rows):
            position = f"body.devices.{device}[{number}]"
            if unknown := sorted(row.keys() - Limits.__dataclass_fields__.keys()):
                raise HubError(422, "Invalid request", f"{position}: '{unknown[0]}' is no field of limits")
            try:
                found.setdefault(device, []).append(from_plain(Limits, row))
            except ValueError as error:
                raise HubError(422, "Invalid request", f"{position}: {error}") from error
        metrics = [one.metric for one in found.get(device, [])]
        if duplicates := [metric for metric in metrics if metrics.count(metric) > 1]:
            raise HubError(422, "Invalid request", f"body.devices.{device}: duplicate limits of {duplicates[0]}")
    return found


def import_limits(
    session: Session, sets: Mapping[str, list[Limits]], now_us: int, *, actor: str, replace: bool, max_bytes: int,
    trace: str,
) -> list[OutgoingMessage]:  # fmt: skip
    """Set each device's desired limits, all or none; limits of other metrics are kept unless `replace`."""
    messages: list[OutgoingMessage] = []
    for device, limits in sets.items():
        device_registry.require_device(session, device)
        wanted = [plain(one) for one in limits]
        current = [] if replace else _current(session, device)
        value = limit_files.desired_value(session, device, limit_entries.merged(current, wanted), now_us)
        messages += twins.update_desired(
            session, device, "thresholds", {"limits": value}, now_us, actor=actor, max_bytes=max_bytes, trace=trace
        )
    trail.add(
        session, now_us, actor, "limits.imported", f"{len(sets)} devices", trace=trace, devices=sorted(sets)[:100]
    )
    return messages


def _current(session: Session, device: str) -> list[dict[str, Any]]:
    return limits_standing.desired(session, device) or [
        plain(one) for _, one in sorted(limits_standing.present(session, [device]).items())
    ]


def check_size(devices: Collection[str]) -> None:
    """Raise HubError 422 for too many devices in one request."""
    if not 1 <= len(devices) <= MOST_DEVICES:
        raise HubError(422, "Invalid request", f"body.devices: 1 to {MOST_DEVICES} devices in one request")
