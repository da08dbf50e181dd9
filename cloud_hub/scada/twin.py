"""The twin document `sparkplug` of a Sparkplug device: its ids, its state and its texts, as reported state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from cloud_hub.scada.core.records import Key
from cloud_hub.twins import service as twins
from cloud_hub.twins.core import plant
from cloud_hub.twins.rows import TwinRows
from shared.protocol.codec import encode
from shared.twin import shadow

DOCUMENT = plant.DOCUMENT
MAX_TEXTS, MAX_TEXT_BYTES = 200, 12_000
"""Texts of one document; further ones are telemetry only."""


def identity(key: Key) -> dict[str, Any]:
    """The Sparkplug ids of a node or device."""
    group, node, device = key
    return {"group": group, "node": node} | ({"device": device} if device else {})


def report(
    session: Session, documents: TwinRows, device: str, ids: Mapping[str, Any], values: Mapping[str, Any], now_us: int,
    max_bytes: int, trace: str = "",
) -> bool:  # fmt: skip
    """Report ids and values, if they differ from what is reported; returns whether they did. The caller saves."""
    old = documents.get(device, DOCUMENT)[0].state.get("reported", {})
    metrics = old.get("metrics", {})
    fits = _fitting(metrics if isinstance(metrics, dict) else {}, values)
    patch: dict[str, Any] = dict(ids) | ({"metrics": fits} if fits else {})
    if not shadow.difference(patch, old):
        return False
    payload = encode({"state": {"reported": patch}})
    twins.handle_request(
        session, device, DOCUMENT, "update", payload, now_us, actor=device, max_bytes=max_bytes, trace=trace,
        rows=documents,
    )  # fmt: skip
    return True


def _fitting(old: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that keep the document within its bounds."""
    names, size = set(old), sum(len(name) + len(str(value)) for name, value in old.items())
    fits: dict[str, Any] = {}
    for name, value in values.items():
        size += len(name) + 4 * len(str(value))
        if name not in names and (len(names) >= MAX_TEXTS or size > MAX_TEXT_BYTES):
            continue
        names.add(name)
        fits[name] = value
    return fits
