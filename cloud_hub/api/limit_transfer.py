"""/api/v1/limits: export and import of limits."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.api.request_guard import Limit, declare
from cloud_hub.clock import now_us
from cloud_hub.thresholds.limits import import_export

router = APIRouter(prefix="/api/v1", tags=["limits"])


class LimitSets(BaseModel):
    """Limits by device, as `export` returns them."""

    model_config = ConfigDict(extra="forbid")
    form: str = import_export.FORM
    exported_us: int = 0
    devices: dict[str, list[dict[str, Any]]]
    next: str = ""


class Imported(BaseModel):
    """How much was imported, or would be with `dry_run`."""

    devices: int
    limits: int
    dry_run: bool


@router.get("/limits")
def export_limits(
    hub: TheHub, caller: Reader, target: str = "*", source: Literal["", "fixed", "learned"] = "", after: str = "",
    limit: int = 200,
) -> LimitSets:  # fmt: skip
    """Limits on the devices that `target` selects, a page at a time: give `next` as `after`."""
    with hub.db.read(scope=caller.scope) as session:
        return LimitSets(
            **import_export.export_limits(session, target, after, min(max(limit, 1), 1000), source, now_us())
        )


declare("POST", "/api/v1/limits", Limit(size=8 << 20, values=1_000_000))


@router.post("/limits")
def import_limits(
    body: LimitSets, hub: TheHub, caller: Operator, replace: bool = False, dry_run: bool = False
) -> Imported:
    """Import limits from an export, all or none. Limits of other metrics stay, unless `replace`."""
    import_export.check_size(body.devices)
    sets = import_export.read_file(body.form, body.devices)
    messages = []
    if not dry_run:
        with hub.db.write(scope=caller.scope) as session:
            messages = import_export.import_limits(
                session, sets, now_us(), actor=caller.actor, replace=replace, max_bytes=hub.settings.twins.max_bytes,
                trace=caller.trace,
            )  # fmt: skip
    hub.publish(messages)
    return Imported(devices=len(sets), limits=sum(map(len, sets.values())), dry_run=dry_run)
