"""Reads and writes twin documents: `TwinRows` is the unit of work of one transaction.

Documents are read together, changed in memory and written by `save`. Call `save` before the transaction is committed,
and before anything else reads the tables inside of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlmodel import Session

from cloud_hub.database.tables import TwinChange, TwinRow
from shared.twin import shadow

SNAPSHOT_EVERY = 50
"""History stores each change as sent, and the full document once in this many versions."""

KEPT_VERSIONS = 20 * SNAPSHOT_EVERY
"""Versions of one document kept in its history; a multiple of SNAPSHOT_EVERY, so that the oldest is a snapshot."""

Key = tuple[str, str]
"""(device, document name)"""
Stored = tuple[shadow.Document, shadow.State]
"""(document, owners of its desired leaves)"""

_TWINS: Any = TwinRow.__table__  # type: ignore[attr-defined]
_CHANGES: Any = TwinChange.__table__  # type: ignore[attr-defined]
_KEY = (_TWINS.c.device == bindparam("b_device"), _TWINS.c.name == bindparam("b_name"))
# SQLAlchemy Core, compiled once: the ORM costs three times as much.
_SELECT = select(_TWINS).where(*_KEY)
_SELECT_MANY = select(_TWINS).where(
    _TWINS.c.device.in_(bindparam("b_devices", expanding=True)), _TWINS.c.name.in_(bindparam("b_names", expanding=True))
)
_INSERT, _UPDATE = insert(_TWINS), update(_TWINS).where(*_KEY)
_INSERT_CHANGE = insert(_CHANGES)
_DELETE_HISTORY = delete(_CHANGES).where(
    _CHANGES.c.device == bindparam("b_device"), _CHANGES.c.name == bindparam("b_name"),
    _CHANGES.c.version < bindparam("b_oldest"),
)  # fmt: skip


class TwinRows:
    """The documents of one transaction, by (device, document name)."""

    def __init__(self, session: Session) -> None:
        self._connection = session.connection()
        self._documents: dict[Key, Stored] = {}
        self._inserts: dict[Key, dict[str, Any]] = {}
        self._updates: dict[Key, dict[str, Any]] = {}
        self._changes: list[dict[str, Any]] = []
        self._expired: list[dict[str, Any]] = []

    def load(self, keys: Collection[Key]) -> None:
        """Read several documents with one query; remember which do not exist."""
        missing = {key for key in keys if key not in self._documents}
        if len(missing) > 1:
            self._documents.update(dict.fromkeys(missing, (shadow.Document(), {})))
            devices, names = (sorted(set(part)) for part in zip(*missing, strict=True))
            found = self._connection.execute(_SELECT_MANY, {"b_devices": devices, "b_names": names})
            self._documents.update({key: stored(row) for row in found if (key := (row.device, row.name)) in missing})

    def get(self, device: str, name: str) -> Stored:
        """The document and the owners of its desired leaves; an empty document if it never existed."""
        key = (device, name)
        if key not in self._documents:
            row = self._connection.execute(_SELECT, {"b_device": device, "b_name": name}).one_or_none()
            self._documents[key] = (shadow.Document(), {}) if row is None else stored(row)
        return self._documents[key]

    def put(self, old: shadow.Document, new: shadow.Document, owners: shadow.State, change: dict[str, Any]) -> None:
        """Replace `old` by `new`. `change` is the row of its history, without the snapshot."""
        device, name = change["device"], change["name"]
        self._set(device, name, old, new, owners)
        self._changes.append(change | {"state": _snapshot(old, new)})
        if new.version % SNAPSHOT_EVERY == 0:
            self._expired.append({"b_device": device, "b_name": name, "b_oldest": new.version - KEPT_VERSIONS})

    def set_owners(self, device: str, name: str, document: shadow.Document, owners: shadow.State) -> None:
        """Store other owners of the same document. The version stays, because nothing changes for the device."""
        self._set(device, name, document, document, owners)

    def _set(self, device: str, name: str, old: shadow.Document, new: shadow.Document, owners: shadow.State) -> None:
        key, values = (device, name), columns(new, owners)
        self._documents[key] = (new, owners)
        if old.version == 0 or key in self._inserts:
            self._inserts[key] = {"device": device, "name": name} | values
        else:
            self._updates[key] = {"b_device": device, "b_name": name} | values

    def save(self) -> None:
        """Write everything that changed since the last `save`."""
        for statement, rows in (
            (_INSERT, list(self._inserts.values())), (_UPDATE, list(self._updates.values())),
            (_INSERT_CHANGE, self._changes), (_DELETE_HISTORY, self._expired),
        ):  # fmt: skip
            if rows:
                self._connection.execute(statement, rows)
        self._inserts, self._updates, self._changes, self._expired = {}, {}, [], []


def stored(row: Any) -> Stored:
    """A row of the table as (document, owners)."""
    document = shadow.Document(version=row.version, deleted=row.deleted, state=row.state, metadata=row.marks,
                             timestamp=row.timestamp)  # fmt: skip
    return document, row.owners


def columns(new: shadow.Document, owners: shadow.State) -> dict[str, Any]:
    """The columns of a document's row, without its key."""
    return {"version": new.version, "deleted": new.deleted, "state": new.state, "marks": new.metadata,
            "owners": owners, "timestamp": new.timestamp}  # fmt: skip


def _snapshot(old: shadow.Document, new: shadow.Document) -> shadow.State | None:
    """The full state for history: of a new document, and once in SNAPSHOT_EVERY versions."""
    return new.state if old.deleted or new.version % SNAPSHOT_EVERY == 0 else None
