"""Twin documents of many devices in one transaction: read together, changed one by one, written together.

The same rules, rows and messages as `twins.request`, with a few statements for all devices in place of a few for each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlmodel import Session

from cloud_hub.database.tables import TwinChange, TwinRow
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins.core.owners import update_owners
from cloud_hub.twins.rows import FORGET, Key, Stored, columns, expired_history, snapshot, stored
from cloud_hub.twins.service import reply_messages
from shared import twin
from shared.ids import trace_id

_TWINS: Any = TwinRow.__table__  # type: ignore[attr-defined]
_CHANGES: Any = TwinChange.__table__  # type: ignore[attr-defined]
_UPDATE = update(_TWINS).where(_TWINS.c.device == bindparam("b_device"), _TWINS.c.name == bindparam("b_name"))
_INSERT, _INSERT_CHANGE = insert(_TWINS), insert(_CHANGES)


def read_documents(
    session: Session, devices: Collection[str], names: Collection[str] | None = None, *, lock: bool = False,
) -> dict[Key, Stored]:  # fmt: skip
    """(document, owners) by (device, document name), of all names or these. With `lock` the rows are locked."""
    query = select(_TWINS).where(_TWINS.c.device.in_(devices)).order_by(_TWINS.c.device, _TWINS.c.name)
    if names is not None:
        query = query.where(_TWINS.c.name.in_(names))
    if lock:
        query = query.with_for_update()
    return {(row.device, row.name): stored(row) for row in session.connection().execute(query)}


class TwinBatch:
    """Changes that wait for `write`; `messages` are to be published after the commit."""

    def __init__(self, stored: dict[Key, Stored], now_us: int, max_bytes: int, trace: str = "") -> None:
        self._stored, self._now_us, self._max_bytes, self._trace = stored, now_us, max_bytes, trace
        self._inserts: list[dict[str, Any]] = []
        self._updates: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = []
        self._outlived: list[dict[str, Any]] = []
        self.messages: list[OutgoingMessage] = []

    def patch_desired(
        self, device: str, name: str, patch: twin.State, payload: bytes, actor: str
    ) -> tuple[str, str, int]:
        """Lay `patch` over desired state; `payload` is its request. (written, unchanged or refused; why; version)."""
        old, owners = self._stored.get((device, name), (twin.Document(), {}))
        before = old.state.get("desired", {})
        if twin.same(twin.merge(before, patch), before):
            after = update_owners(owners, before, patch, actor)
            if after != owners:
                self.set_owners(device, name, old, after)
            return "unchanged", "", old.version
        new, replies = twin.update(old, payload, self._now_us // 1_000_000, self._max_bytes)
        if new is old:
            return "refused", str(replies[0].body["message"]), old.version
        after = update_owners(owners, new.state.get("desired", {}), patch, actor)
        self.change(device, name, old, new, after, patch, replies, actor)
        return "written", "", new.version

    def change(
        self, device: str, name: str, old: twin.Document, new: twin.Document, owners: twin.State, patch: twin.State,
        replies: Iterable[twin.Reply], actor: str,
    ) -> None:  # fmt: skip
        """A new version of a document, with its row in history and its messages."""
        self._row(device, name, old, new, owners)
        self._changes.append({
            "device": device, "name": name, "version": new.version, "t_us": self._now_us, "actor": actor,
            "trace_id": trace_id(self._trace), "verb": "update", "patch": {"desired": patch},
            "state": snapshot(old, new),
        })  # fmt: skip
        if old_versions := expired_history(device, name, new):
            self._outlived.append(old_versions)
        self.messages += reply_messages(device, name, list(replies), self._trace)

    def set_owners(self, device: str, name: str, document: twin.Document, owners: twin.State) -> None:
        """Other owners of the same document: no version, since nothing changes for the device."""
        self._row(device, name, document, document, owners)

    def _row(self, device: str, name: str, old: twin.Document, new: twin.Document, owners: twin.State) -> None:
        values = columns(new, owners)
        if old.version == 0:
            self._inserts.append({"device": device, "name": name} | values)
        else:
            self._updates.append({"b_device": device, "b_name": name} | values)

    def write(self, session: Session) -> None:
        """Write everything into the session's transaction."""
        connection = session.connection()
        for statement, rows in ((_INSERT, self._inserts), (_UPDATE, self._updates),
                                (_INSERT_CHANGE, self._changes), (FORGET, self._outlived)):  # fmt: skip
            if rows:
                connection.execute(statement, rows)
