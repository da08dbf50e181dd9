"""Twin documents as rows. `TwinRows` are those of one transaction: read together, changed in memory, written together.

`save` must be called before the transaction is committed; who reads the tables inside of it, after that.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlmodel import Session

from cloud_hub.database.tables import TwinChange, TwinRow
from shared import twin

SNAPSHOT_EVERY = 50
"""History keeps each change as sent, and every so many versions the whole document to begin from."""

KEPT_VERSIONS = 20 * SNAPSHOT_EVERY
"""Versions of one document that stay in its history; a multiple of the above, so that the oldest is whole."""

Key = tuple[str, str]
"""(device, document name)"""
Stored = tuple[twin.Document, twin.State]
"""(document, owners of its desired leaves)"""

_TWINS: Any = TwinRow.__table__  # type: ignore[attr-defined]
_CHANGES: Any = TwinChange.__table__  # type: ignore[attr-defined]
_KEY = (_TWINS.c.device == bindparam("b_device"), _TWINS.c.name == bindparam("b_name"))
# Core statements, made once (the ORM's cost three times as much).
_ONE = select(_TWINS).where(*_KEY)
_MANY = select(_TWINS).where(
    _TWINS.c.device.in_(bindparam("b_devices", expanding=True)), _TWINS.c.name.in_(bindparam("b_names", expanding=True))
)
_INSERT, _UPDATE = insert(_TWINS), update(_TWINS).where(*_KEY)
_INSERT_CHANGE = insert(_CHANGES)
FORGET = delete(_CHANGES).where(
    _CHANGES.c.device == bindparam("b_device"), _CHANGES.c.name == bindparam("b_name"),
    _CHANGES.c.version < bindparam("b_oldest"),
)  # fmt: skip


class TwinRows:
    """The documents of one transaction."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection()
        self._kept: dict[Key, Stored] = {}
        self._inserts: dict[Key, dict[str, Any]] = {}
        self._updates: dict[Key, dict[str, Any]] = {}
        self._changes: list[dict[str, Any]] = []
        self._outlived: list[dict[str, Any]] = []

    def load(self, keys: Collection[Key]) -> None:
        """Read those that are there, and remember which are not."""
        missing = {key for key in keys if key not in self._kept}
        if len(missing) > 1:
            self._kept.update(dict.fromkeys(missing, (twin.Document(), {})))
            devices, names = (sorted(set(part)) for part in zip(*missing, strict=True))
            found = self._connection.execute(_MANY, {"b_devices": devices, "b_names": names})
            self._kept.update({key: stored(row) for row in found if (key := (row.device, row.name)) in missing})

    def get(self, device: str, name: str) -> Stored:
        """The document and who owns what of it; an empty one when it has never existed."""
        key = (device, name)
        if key not in self._kept:
            row = self._connection.execute(_ONE, {"b_device": device, "b_name": name}).one_or_none()
            self._kept[key] = (twin.Document(), {}) if row is None else stored(row)
        return self._kept[key]

    def put(self, old: twin.Document, new: twin.Document, owners: twin.State, change: dict[str, Any]) -> None:
        """Replace `old` by `new`; `change` is the row of its history, but for the snapshot."""
        device, name = key = change["device"], change["name"]
        self._kept[key] = (new, owners)
        if old.version == 0 or key in self._inserts:
            self._inserts[key] = {"device": device, "name": name} | columns(new, owners)
        else:
            self._updates[key] = {"b_device": device, "b_name": name} | columns(new, owners)
        self._changes.append(change | {"state": snapshot(old, new)})
        if old_versions := expired_history(device, name, new):
            self._outlived.append(old_versions)

    def save(self) -> None:
        """Write what changed."""
        for statement, rows in (
            (_INSERT, list(self._inserts.values())), (_UPDATE, list(self._updates.values())),
            (_INSERT_CHANGE, self._changes), (FORGET, self._outlived),
        ):  # fmt: skip
            if rows:
                self._connection.execute(statement, rows)
        self._inserts, self._updates, self._changes, self._outlived = {}, {}, [], []


def stored(row: Any) -> Stored:
    """A row as document and owners."""
    document = twin.Document(version=row.version, deleted=row.deleted, state=row.state, metadata=row.marks,
                             timestamp=row.timestamp)  # fmt: skip
    return document, row.owners


def columns(new: twin.Document, owners: twin.State) -> dict[str, Any]:
    """A document as its row holds it, without the key."""
    return {"version": new.version, "deleted": new.deleted, "state": new.state, "marks": new.metadata,
            "owners": owners, "timestamp": new.timestamp}  # fmt: skip


def snapshot(old: twin.Document, new: twin.Document) -> twin.State | None:
    """The whole state where history must keep it: at a beginning, and every so many versions."""
    return new.state if old.deleted or new.version % SNAPSHOT_EVERY == 0 else None


def expired_history(device: str, name: str, new: twin.Document) -> dict[str, Any] | None:
    """What `FORGET` is to be given now and then, so that history does not grow for ever."""
    if new.version % SNAPSHOT_EVERY:
        return None
    return {"b_device": device, "b_name": name, "b_oldest": new.version - KEPT_VERSIONS}
