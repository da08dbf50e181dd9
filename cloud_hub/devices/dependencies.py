"""Keeps the edges of the topology that people write as tags, in a table that is read in both directions.

`depends_on` names devices that this one needs to be reached, such as its switch; `feeds` names asset paths whose
devices need this one. Each is a list, or a text with commas between the names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import delete, insert, select
from sqlmodel import Session

from cloud_hub.database import scopes
from cloud_hub.database.tables import Dependency, Device
from shared.ids import DEVICE_ID

TAGS = ("depends_on", "feeds")
MAX_NAMES = 32
"""The number of names of one tag that count; invalid names do not count."""
BATCH_SIZE = 500
"""Names in one query."""

_EDGES: Any = Dependency.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]


def names(value: Any) -> list[str]:
    """The names in a tag; anything else than texts is left out."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return [part.strip() for part in parts if isinstance(part, str) and part.strip()]


def edges(device: str, tags: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The edges (subject, depends_on) that the tags of a device make; none to itself."""
    upstream = [name for name in names(tags.get("depends_on")) if DEVICE_ID.match(name) and name != device]
    paths = [name for name in names(tags.get("feeds")) if _is_path(name)]
    return {(device, name) for name in upstream[:MAX_NAMES]} | {(f"{path}/", device) for path in paths[:MAX_NAMES]}


def _is_path(name: str) -> bool:
    try:
        return bool(scopes.validate_path(name))
    except ValueError:
        return False


def save(session: Session, device: str, before: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
    """Store the edges of a device whose tags changed."""
    new = edges(device, tags)
    if new == edges(device, before):
        return
    connection = session.connection()
    connection.execute(delete(_EDGES).where(_EDGES.c.device == device))
    if new:
        rows = [{"device": device, "subject": subject, "depends_on": name} for subject, name in sorted(new)]
        connection.execute(insert(_EDGES), rows)


def any_edges(session: Session) -> bool:
    """Whether anybody wrote a topology at all."""
    return session.connection().execute(select(_EDGES.c.device).limit(1)).first() is not None


def upstream(session: Session, devices: Collection[str]) -> dict[str, set[str]]:
    """The devices that each of these depends on."""
    found: dict[str, set[str]] = {device: set() for device in devices}
    paths = _paths(session, devices)
    subjects: dict[str, list[str]] = {}
    for device in devices:
        for subject in (device, *above(paths.get(device, ""))):
            subjects.setdefault(subject, []).append(device)
    for some in _chunks(sorted(subjects)):
        query = select(_EDGES.c.subject, _EDGES.c.depends_on).where(_EDGES.c.subject.in_(some))
        for subject, name in session.connection().execute(query):
            for device in subjects[subject]:
                found[device] |= {name} - {device}
    return found


def downstream(session: Session, devices: Collection[str], most: int) -> dict[str, set[str]]:
    """The devices that depend on each of these, at most `most` in all."""
    found: dict[str, set[str]] = {device: set() for device in devices}
    left = most
    for some in _chunks(sorted(devices)):
        query = select(_EDGES.c.subject, _EDGES.c.depends_on).where(_EDGES.c.depends_on.in_(some)).limit(left)
        for subject, name in session.connection().execute(query).all():
            below = _below(session, subject[:-1], left) if subject.endswith("/") else {subject}
            found[name] |= below - {name}
            left = max(left - len(below), 0)
    return found


def above(path: str) -> list[str]:
    """The subjects that stand for an asset path and those above it: `acme/a/` and `acme/` for `acme/a`."""
    parts = path.split("/") if path else []
    return [f"{'/'.join(parts[:n])}/" for n in range(len(parts), 0, -1)]


def _below(session: Session, path: str, most: int) -> set[str]:
    query = select(_DEVICES.c.id).where(scopes.scope_condition([path])).order_by(_DEVICES.c.id).limit(most)
    return set(session.connection().execute(query).scalars())


def _paths(session: Session, devices: Collection[str]) -> dict[str, str]:
    paths: dict[str, str] = {}
    for some in _chunks(sorted(devices)):
        query = select(_DEVICES.c.id, _DEVICES.c.assigned_path).where(_DEVICES.c.id.in_(some))
        paths |= {row.id: row.assigned_path for row in session.connection().execute(query)}
    return paths


def _chunks(items: list[str]) -> Iterable[list[str]]:
    return (items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE))
