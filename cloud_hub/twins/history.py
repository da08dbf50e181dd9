"""Reads the history of a twin document: its versions, who made them, and the document at a version or time.

History stores each change as sent, and regularly a snapshot of the full document. A version in between is computed by
applying the changes to the snapshot before it. Eclipse Ditto has the same history by revision and time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.database.tables import TwinChange
from cloud_hub.errors import HubError
from shared.twin.merge import format_path, leaves
from shared.twin.shadow import State, apply_state


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinVersion:
    """A document at one of its versions; `state` is None where that version deleted it."""

    version: int
    t_us: int
    actor: str
    state: State | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One leaf that differs between two versions; None stands for a leaf that is not there."""

    path: str
    before: Any
    after: Any


def changes(session: Session, device: str, name: str, *, before: int | None, limit: int) -> Sequence[TwinChange]:
    """The newest changes first, those below version `before` when it is given. HubError 404 where none ever was."""
    query = select(TwinChange).where(TwinChange.device == device, TwinChange.name == name)
    if before is not None:
        query = query.where(TwinChange.version < before)
    found = session.exec(query.order_by(col(TwinChange.version).desc()).limit(limit)).all()
    if not found and before is None:
        raise _beyond(name, "any version")
    return found


def at(session: Session, device: str, name: str, *, version: int | None = None, t_us: int | None = None) -> TwinVersion:
    """The document at `version`, or as it stood at time `t_us`. Version 0 is before all of them.

    HubError 404 where the history does not reach.
    """
    if version == 0:
        return TwinVersion(version=0, t_us=0, actor="", state=None)
    wanted = _wanted(session, device, name, version, t_us)
    query = select(TwinChange).where(
        TwinChange.device == device, TwinChange.name == name, TwinChange.version <= wanted.version
    )
    base = session.exec(query.where(_is_whole()).order_by(col(TwinChange.version).desc()).limit(1)).first()
    if base is None:
        raise _beyond(name, f"version {wanted.version}")
    state = base.state or {}
    for change in session.exec(query.where(TwinChange.version > base.version).order_by(col(TwinChange.version))):
        state = apply_state(state, change.patch)
    return TwinVersion(
        version=wanted.version, t_us=wanted.t_us, actor=wanted.actor, state=None if wanted.verb == "delete" else state
    )


def _is_whole() -> Any:
    return col(TwinChange.state).is_not(None) | (col(TwinChange.verb) == "delete")


def _wanted(session: Session, device: str, name: str, version: int | None, t_us: int | None) -> TwinChange:
    query = select(TwinChange).where(TwinChange.device == device, TwinChange.name == name)
    if version is not None:
        found = session.exec(query.where(TwinChange.version == version)).first()
    else:
        timely = query if t_us is None else query.where(TwinChange.t_us <= t_us)
        found = session.exec(timely.order_by(col(TwinChange.version).desc()).limit(1)).first()
    if found is None:
        raise _beyond(name, f"version {version}" if version is not None else "that time")
    return found


def _beyond(name: str, what: str) -> HubError:
    subject = f"document '{name}'" if name else "the classic document"
    return HubError(404, "No such version", f"the history of {subject} does not hold {what}")


def difference(old: TwinVersion, new: TwinVersion) -> list[Difference]:
    """Every leaf that differs, by path: `desired.settings.period_s`."""
    before, now = dict(leaves(old.state or {})), dict(leaves(new.state or {}))
    return [
        Difference(path=format_path(path), before=before.get(path), after=now.get(path))
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    ]
