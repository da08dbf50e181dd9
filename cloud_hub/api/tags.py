"""/api/v1/devices/{id}/tags: tags that the hub stores for a device. The entity tag is their version."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from cloud_hub.api.dependencies import Hub, Operator, Reader, TheHub
from cloud_hub.api.etag import IfMatch, check_if_match, etag
from cloud_hub.clock import now_us
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices import tags

router = APIRouter(prefix="/api/v1/devices/{device}/tags", tags=["tags"])


@router.get("")
def read(device: str, hub: TheHub, caller: Reader, response: Response) -> dict[str, Any]:
    """Get the tags of a device."""
    with hub.db.read(scope=caller.scope) as session:
        row = device_registry.get_device(session, device)
    response.headers["ETag"] = etag(row.tags_version)
    return row.tags


@router.patch("")
def change(
    device: str, patch: dict[str, Any], hub: TheHub, caller: Operator, response: Response, if_match: IfMatch = None
) -> dict[str, Any]:
    """Apply a merge patch to the tags; null deletes."""
    return _change(hub, device, patch, caller, response, if_match, whole=False)


@router.put("")
def replace(
    device: str, whole: dict[str, Any], hub: TheHub, caller: Operator, response: Response, if_match: IfMatch = None
) -> dict[str, Any]:
    """Replace all tags."""
    return _change(hub, device, whole, caller, response, if_match, whole=True)


def _change(
    hub: Hub, device: str, patch: tags.Tags, caller: Operator, response: Response, condition: str | None, *, whole: bool
) -> tags.Tags:
    with hub.db.write(scope=caller.scope) as session:
        row = device_registry.get_device(session, device)
        if condition is None or condition.strip() != "*":  # a known device always has tags
            check_if_match(condition, row.tags_version)
        changed = tags.change(session, row, patch, now_us(), actor=caller.actor, trace=caller.trace, whole=whole)
    if changed:
        hub.changed([device])
    response.headers["ETag"] = etag(row.tags_version)
    return row.tags
