"""Applies the rules of `shared.twin` to twin documents in the database, and stores what devices report about them.

A writer holds the lock of the device (`db.write`), so the version that was read is the one that is replaced. If it did
not, the primary key of `twin_changes` would refuse a second change of the same version.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy import bindparam, insert, update
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.database import locks
from cloud_hub.database.driver_query import DriverQuery
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AppliedRow, Device, TwinRow
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins.core.owners import update_owners
from cloud_hub.twins.rows import TwinRows
from shared import topics, twin
from shared.codec import encode
from shared.ids import SHADOW_NAME, thing_of_device, trace_id
from shared.messages import Applied


def read(db: Database, device: str, name: str) -> twin.Document | None:
    """Read a document with one statement; None if the device is unknown. The caller checks the scope."""
    row = db.first(_DOCUMENT, device=device, name=name)
    if row is None:
        return None
    version, deleted, state, marks, timestamp = row
    if version is None:
        return twin.Document()
    return twin.Document(version=version, deleted=bool(deleted), state=state, metadata=marks, timestamp=timestamp)


def load(session: Session, device: str, name: str) -> twin.Document:
    """The stored document, or an empty one if it never existed."""
    return TwinRows(session).get(device, name)[0]


_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_TWINS: Any = TwinRow.__table__  # type: ignore[attr-defined]
_DOCUMENT = DriverQuery(
    sqlalchemy.select(*(_TWINS.c[name] for name in ("version", "deleted", "state", "marks", "timestamp")))
    .select_from(_DEVICES.outerjoin(_TWINS, (_TWINS.c.device == _DEVICES.c.id) & (_TWINS.c.name == bindparam("name"))))
    .where(_DEVICES.c.id == bindparam("device"))
)
_APPLIED: Any = AppliedRow.__table__  # type: ignore[attr-defined]
_APPLIED_KEY = (_APPLIED.c.device == bindparam("b_device"), _APPLIED.c.shadow == bindparam("b_shadow"),
        _APPLIED.c.path == bindparam("b_path"))  # fmt: skip
_SELECT_APPLIED = select(_APPLIED.c.version).where(*_APPLIED_KEY)
_INSERT_APPLIED, _UPDATE_APPLIED = insert(_APPLIED), update(_APPLIED).where(*_APPLIED_KEY)


def handle_request(
    session: Session, device: str, name: str, verb: str, payload: bytes, now_us: int, *,
    actor: str, max_bytes: int, trace: str = "", rows: TwinRows | None = None,
) -> list[twin.Reply]:  # fmt: skip
    """Handle a get, update or delete from MQTT or REST; returns the replies to publish.

    `actor` is recorded in history and as owner of desired leaves. With `rows`, the caller saves them.
    """
    now_s = now_us // 1_000_000
    if name and not SHADOW_NAME.match(name):
        return [twin.rejected(verb, 400, f"Invalid shadow name: '{name[:80]}'", payload, now_s)]
    documents = rows or TwinRows(session)
    old, owners = documents.get(device, name)
    if verb == "get":
        return twin.get(old, name or thing_of_device(device), payload, now_s)
    if verb == "update":
        new, replies = twin.update(old, payload, now_s, max_bytes)
    else:
        new, replies = twin.delete(old, name or thing_of_device(device), payload, now_s)
    if new is not old:
        locks.require_lock(session, device)
        patch = replies[0].body.get("state")
        if verb == "delete" or patch is None or "desired" in patch:
            desired = new.state.get("desired", {})
            # Deletion drops the owners; an emptied document keeps who removed what.
            owners = (
                {} if verb == "delete" else update_owners(owners, desired, (patch or {}).get("desired") or {}, actor)
            )
            _audit(session, device, name, verb, new.version, now_us, actor, trace)
        change = {"device": device, "name": name, "version": new.version, "t_us": now_us, "actor": actor,
                  "trace_id": trace_id(trace), "verb": verb, "patch": patch}  # fmt: skip
        documents.put(old, new, owners, change)
        if rows is None:
            documents.save()
    return replies


def _audit(
    session: Session, device: str, name: str, verb: str, version: int, now_us: int, actor: str, trace: str
) -> None:
    """Audit a change of desired state."""
    subject = f"twin '{name}'" if name else "twin"
    kind = "twin.deleted" if verb == "delete" else "twin.desired"
    trail.add(session, now_us, actor, kind, subject, device=device, trace=trace, version=version)


def unknown_thing_reply(verb: str, payload: bytes, now_us: int) -> twin.Reply:
    """The reply to a request for an unknown thing."""
    return twin.rejected(verb, 404, "Thing not found", payload, now_us // 1_000_000)


def reply_messages(
    device: str, name: str, replies: list[twin.Reply], trace: str, prefix: str = topics.PREFIX
) -> list[OutgoingMessage]:
    """Replies as messages to publish, under the prefix of the request."""
    return [
        OutgoingMessage(topic=topics.shadow(device, name, reply.verb, prefix), payload=encode(reply.body), trace=trace)
        for reply in replies
    ]


def update_desired(
    session: Session, device: str, name: str, wanted: twin.State, now_us: int, *,
    actor: str, max_bytes: int, trace: str = "", version: int | None = None, rows: TwinRows | None = None,
) -> list[OutgoingMessage]:  # fmt: skip
    """Change desired state for the hub or a person. With `rows`, the caller saves them.

    Raises HubError with the twin's error code if the change is rejected.
    """
    body: dict[str, Any] = {"state": {"desired": wanted}}
    if version is not None:
        body["version"] = version
    replies = handle_request(
        session, device, name, "update", encode(body), now_us, actor=actor, max_bytes=max_bytes, trace=trace, rows=rows,
    )  # fmt: skip
    _require_accepted(replies[0])
    return reply_messages(device, name, replies, trace)


def remove(
    session: Session, device: str, name: str, now_us: int, *, actor: str, trace: str = ""
) -> list[OutgoingMessage]:
    """Delete a document; a later one continues its version. HubError 404 if it does not exist."""
    replies = handle_request(session, device, name, "delete", b"", now_us, actor=actor, max_bytes=0, trace=trace)
    _require_accepted(replies[0])
    return reply_messages(device, name, replies, trace)


def _require_accepted(reply: twin.Reply) -> None:
    if reply.verb.endswith("rejected"):
        raise HubError(reply.body["code"], "The twin refused the change", reply.body["message"])


def versions(session: Session, device: str) -> dict[str, int]:
    """Names and versions of all documents of a device that are not deleted."""
    query = select(TwinRow.name, TwinRow.version).where(TwinRow.device == device, col(TwinRow.deleted).is_(False))
    return {row[0]: row[1] for row in session.exec(query.order_by(TwinRow.name))}


def names(session: Session, device: str, after: str, limit: int) -> list[str]:
    """Names of the device's named documents after `after`, in order, at most `limit`."""
    living = select(TwinRow.name).where(TwinRow.device == device, TwinRow.deleted == False)  # noqa: E712
    return list(session.exec(living.where(TwinRow.name > after).order_by(TwinRow.name).limit(limit)))


def reported(session: Session, device: str, name: str = "") -> twin.State:
    """The reported part of a document."""
    return dict(load(session, device, name).state.get("reported", {}))


def record_progress(session: Session, device: str, message: Applied, now_us: int) -> None:
    """Store what a device reports on one path; a report on an older version does not replace a newer one."""
    connection, key = session.connection(), {"b_device": device, "b_shadow": message.shadow, "b_path": message.path}
    values = {"version": message.version, "state": message.state, "reason": message.reason, "t_us": now_us}
    old = connection.execute(_SELECT_APPLIED, key).scalar()
    if old is None:
        connection.execute(_INSERT_APPLIED, values | {"device": device, "shadow": message.shadow, "path": message.path})
    elif old <= message.version:
        connection.execute(_UPDATE_APPLIED, values | key)


def progress(session: Session, device: str, *, removed: bool = False) -> list[AppliedRow]:
    """The device's last report on each desired path; with `removed`, also on paths no longer desired."""
    query = select(TwinRow.name, TwinRow.state).where(TwinRow.device == device)
    desired = {name: state.get("desired", {}) for name, state in session.exec(query)}
    mine = select(AppliedRow).where(AppliedRow.device == device).order_by(AppliedRow.shadow, AppliedRow.path)
    return [row for row in session.exec(mine) if removed or _has_path(desired.get(row.shadow, {}), row.path.split("."))]


def _has_path(tree: Any, path: list[str]) -> bool:
    """Whether `tree` has the dotted path; names may contain dots themselves."""
    if not path:
        return True
    if not isinstance(tree, dict):
        return False
    cuts = range(1, len(path) + 1)
    return any(_has_path(tree[head], path[cut:]) for cut in cuts if (head := ".".join(path[:cut])) in tree)
