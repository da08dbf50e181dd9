"""Twin documents in the database: the rules of `shared.twin` inside a transaction.

Whoever changes a document holds its device (`db.write`), so the version that was read is the one that is replaced;
were it not, the key of `twin_changes` would refuse the second change of one version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, update
from sqlmodel import Session, col, select

from cloud_hub import audit, locks
from cloud_hub.errors import HubError
from cloud_hub.owners import owned
from cloud_hub.tables import AppliedRow, Device, TwinChange, TwinRow
from shared import topics, twin
from shared.codec import encode
from shared.ids import SHADOW_NAME, trace_id
from shared.messages import Applied

SNAPSHOT_EVERY = 50
"""History keeps each change as sent, and every so many versions the whole document to begin from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to publish once the transaction is committed."""

    topic: str
    payload: bytes
    trace: str = ""


def load(session: Session, device: str, name: str) -> twin.Document:
    """The stored document, or an empty one that has never existed."""
    return _load(session, device, name)[0]


_TWINS: Any = TwinRow.__table__  # type: ignore[attr-defined]
_CHANGES: Any = TwinChange.__table__  # type: ignore[attr-defined]
_KEY = (_TWINS.c.device == bindparam("b_device"), _TWINS.c.name == bindparam("b_name"))
# The row by row path of every message: Core statements, made once (the ORM's cost three times as much).
_SELECT = select(_TWINS).where(*_KEY)
_INSERT, _UPDATE = insert(_TWINS), update(_TWINS).where(*_KEY)
_INSERT_CHANGE = insert(_CHANGES)


def _load(session: Session, device: str, name: str) -> tuple[twin.Document, twin.State]:
    found = session.connection().execute(_SELECT, {"b_device": device, "b_name": name}).one_or_none()
    if found is None:
        return twin.Document(), {}
    document = twin.Document(
        version=found.version, deleted=found.deleted, state=found.state, metadata=found.marks,
        timestamp=found.timestamp,
    )  # fmt: skip
    return document, found.owners


def request(
    session: Session, device: str, name: str, verb: str, payload: bytes, now_us: int, *,
    who: str, max_bytes: int, trace: str = "",
) -> list[twin.Reply]:  # fmt: skip
    """Carry out a get, update or delete as received on MQTT or REST; returns the replies to publish.

    `who` made the change; history and the owners of desired state name it.
    """
    now_s = now_us // 1_000_000
    if name and not SHADOW_NAME.match(name):
        body = {"code": 400, "message": f"Invalid shadow name: '{name[:80]}'", "timestamp": now_s}
        return [twin.Reply(verb=f"{verb}/rejected", body=body)]
    old, owners = _load(session, device, name)
    if verb == "get":
        return twin.get(old, name, payload, now_s)
    if verb == "update":
        new, replies = twin.update(old, payload, now_s, max_bytes)
    else:
        new, replies = twin.delete(old, name, payload, now_s)
    if new is not old:
        patch = replies[0].body.get("state")
        if verb == "delete" or patch is None or "desired" in patch:
            desired = new.state.get("desired", {})
            owners = owned(owners, desired, (patch or {}).get("desired") or {}, who)
        change = {"device": device, "name": name, "version": new.version, "t_us": now_us, "who": who,
                  "trace_id": trace_id(trace), "verb": verb, "patch": patch}  # fmt: skip
        _store(session, old, new, owners, change)
    return replies


def _store(session: Session, old: twin.Document, new: twin.Document, owners: twin.State, change: twin.State) -> None:
    values = {"version": new.version, "deleted": new.deleted, "state": new.state, "marks": new.metadata,
              "owners": owners, "timestamp": new.timestamp}  # fmt: skip
    locks.owns(session, change["device"])
    connection = session.connection()
    if old.version == 0:
        connection.execute(_INSERT, {"device": change["device"], "name": change["name"]} | values)
    else:
        connection.execute(_UPDATE, {"b_device": change["device"], "b_name": change["name"]} | values)
    snapshot = new.state if old.deleted or new.version % SNAPSHOT_EVERY == 0 else None
    connection.execute(_INSERT_CHANGE, change | {"state": snapshot})


def outgoing(device: str, name: str, replies: list[twin.Reply], trace: str) -> list[Outgoing]:
    """Replies as messages to publish."""
    return [
        Outgoing(topic=topics.shadow(device, name, reply.verb), payload=encode(reply.body), trace=trace)
        for reply in replies
    ]


def desire(
    session: Session, device: str, name: str, wanted: twin.State, now_us: int, *,
    who: str, max_bytes: int, trace: str = "", version: int | None = None,
) -> list[Outgoing]:  # fmt: skip
    """Change desired state on the hub's or a person's behalf, with a row in the audit trail.

    Raises HubError with the twin's own code when the rules refuse it.
    """
    body: dict[str, Any] = {"state": {"desired": wanted}}
    if version is not None:
        body["version"] = version
    replies = request(
        session, device, name, "update", encode(body), now_us, who=who, max_bytes=max_bytes, trace=trace
    )  # fmt: skip
    first = replies[0]
    if first.verb.endswith("rejected"):
        raise HubError(first.body["code"], "The twin refused the change", first.body["message"])
    subject = f"twin '{name}'" if name else "twin"
    audit.add(session, now_us, who, "twin.desired", subject, device=device, trace=trace, version=first.body["version"])
    return outgoing(device, name, replies, trace)


def documents(session: Session, device: str) -> dict[str, twin.Document]:
    """All living documents of a device by name."""
    rows = session.exec(
        select(TwinRow).where(TwinRow.device == device, col(TwinRow.deleted).is_(False)).order_by(TwinRow.name)
    )
    return {row.name: load(session, device, row.name) for row in rows}


def reported(session: Session, device: str, name: str = "") -> twin.State:
    """The reported part of a document."""
    return dict(load(session, device, name).state.get("reported", {}))


def applied(session: Session, device: str, word: Applied, now_us: int) -> None:
    """Keep a device's word on one path; an older version's word does not replace a newer one's."""
    old = session.get(AppliedRow, (device, word.shadow, word.path))
    if old is not None and old.version > word.version:
        return
    session.merge(
        AppliedRow(device=device, shadow=word.shadow, path=word.path, version=word.version, state=word.state,
                   reason=word.reason, t_us=now_us)
    )  # fmt: skip


def progress(session: Session, device: str) -> list[AppliedRow]:
    """The device's last word on each path of desired state."""
    return list(
        session.exec(select(AppliedRow).where(AppliedRow.device == device).order_by(AppliedRow.shadow, AppliedRow.path))
    )


def exists(session: Session, device: str) -> bool:
    """Whether this device is known; twins are made for known devices only."""
    return session.get(Device, device) is not None
