"""Changes the twin documents of many devices in one transaction, with a few statements for all of them.

The rules, rows and messages are those of `twins.service.handle_request`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from sqlalchemy import select
from sqlmodel import Session

from cloud_hub.database.tables import TwinRow
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins.core.owners import update_owners
from cloud_hub.twins.rows import Key, Stored, TwinRows, stored
from cloud_hub.twins.service import reply_messages
from shared.ids import trace_id
from shared.twin import shadow

_TWINS: Any = TwinRow.__table__  # type: ignore[attr-defined]


def read_documents(
    session: Session, devices: Collection[str], names: Collection[str] | None = None, *, lock: bool = False,
) -> dict[Key, Stored]:  # fmt: skip
    """Read (document, owners) by (device, document name), of all names or these; `lock` locks the rows."""
    query = select(_TWINS).where(_TWINS.c.device.in_(devices)).order_by(_TWINS.c.device, _TWINS.c.name)
    if names is not None:
        query = query.where(_TWINS.c.name.in_(names))
    if lock:
        query = query.with_for_update()
    return {(row.device, row.name): stored(row) for row in session.connection().execute(query)}


class TwinBatch:
    """Collects changes until `write`; publish `messages` after the commit."""

    def __init__(self, stored: dict[Key, Stored], now_us: int, max_bytes: int, trace: str = "") -> None:
        self._stored, self._now_us, self._max_bytes, self._trace = stored, now_us, max_bytes, trace
        self._writes: list[Callable[[TwinRows], None]] = []
        self.messages: list[OutgoingMessage] = []

    def patch_desired(
        self, device: str, name: str, patch: shadow.State, payload: bytes, actor: str
    ) -> tuple[str, str, int]:
        """Merge `patch` into desired state; `payload` is the request with it.

        Returns (written, unchanged or refused; reason; version).
        """
        old, owners = self._stored.get((device, name), (shadow.Document(), {}))
        before = old.state.get("desired", {})
        if shadow.json_equal(shadow.merge(before, patch), before):
            after = update_owners(owners, before, patch, actor)
            if after != owners:
                self.set_owners(device, name, old, after)
            return "unchanged", "", old.version
        new, replies = shadow.update(old, payload, self._now_us // 1_000_000, self._max_bytes)
        if new is old:
            return "refused", str(replies[0].body["message"]), old.version
        after = update_owners(owners, new.state.get("desired", {}), patch, actor)
        self.change(device, name, old, new, after, patch, replies, actor)
        return "written", "", new.version

    def change(
        self, device: str, name: str, old: shadow.Document, new: shadow.Document, owners: shadow.State,
        patch: shadow.State, replies: Iterable[shadow.Reply], actor: str,
    ) -> None:  # fmt: skip
        """Store a new version of a document, with its row of history and its messages."""
        change = {"device": device, "name": name, "version": new.version, "t_us": self._now_us, "actor": actor,
                  "trace_id": trace_id(self._trace), "verb": "update", "patch": {"desired": patch}}  # fmt: skip
        self._writes.append(lambda rows: rows.put(old, new, owners, change))
        self.messages += reply_messages(device, name, list(replies), self._trace)

    def set_owners(self, device: str, name: str, document: shadow.Document, owners: shadow.State) -> None:
        """Store other owners of the same document. The version stays, because nothing changes for the device."""
        self._writes.append(lambda rows: rows.set_owners(device, name, document, owners))

    def write(self, session: Session) -> None:
        """Write everything in the session's transaction."""
        rows = TwinRows(session)
        for write in self._writes:
            write(rows)
        rows.save()
