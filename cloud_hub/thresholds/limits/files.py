"""Stores sets of limits for twins: inline up to 4 KB, else as a file that the twin refers to by `{digest, size, path}`.

The file's name is 256 random bits and appears only in its device's twin, so the name grants read access. The device
checks size and SHA-256 before it uses a byte.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from cloud_hub.database.tables import LimitFile
from cloud_hub.errors import HubError
from cloud_hub.twins.core.reported_values import mapping, text
from shared.codec import decode, encode
from shared.content_reference import FILES, INLINE_BYTES, digest

KEPT = 5
"""Files stored per device: the one in force, the one before it, and those that late readers may still fetch."""

Entries = list[dict[str, Any]]


def desired_value(
    session: Session, device: str, entries: Sequence[dict[str, Any]], now_us: int
) -> list[Any] | dict[str, Any]:
    """The value of desired `limits`: the entries inline, or the reference to a file that was stored."""
    body = encode(list(entries))
    if len(body) <= INLINE_BYTES:
        return list(entries)
    said = digest(body)
    mine = select(LimitFile).where(LimitFile.device == device).order_by(col(LimitFile.t_us).desc())
    files = list(session.exec(mine))
    found = next((file for file in files if file.digest == said), None)
    if found is None:
        found = LimitFile(name=secrets.token_urlsafe(32), device=device, digest=said, body=body, t_us=now_us)
        session.add(found)
        old = [file.name for file in files[KEPT - 1 :]]
        session.connection().execute(delete(LimitFile).where(col(LimitFile.name).in_(old)))
    found.t_us = now_us
    return {"digest": said, "size": len(body), "path": FILES + found.name}


def read_entries(session: Session, limits: Any) -> Entries | None:
    """The entries of a twin's `limits`, inline or in a file; None where there are none, or the file is gone.

    A device may report anything; values that are not entries of a metric are ignored.
    """
    if isinstance(limits, dict):
        file = session.get(LimitFile, text(limits.get("path")).removeprefix(FILES))
        limits = decode(Entries, file.body) if file is not None else None
    return [row for row in limits if text(mapping(row).get("metric"))] if isinstance(limits, list) else None


def file_content(session: Session, name: str) -> bytes:
    """The file, or HubError 404."""
    file = session.get(LimitFile, name)
    if file is None:
        raise HubError(404, "No such file", "no limits are stored under this name (any more)")
    return file.body
