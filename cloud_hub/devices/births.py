"""Handles births and deaths of devices, and builds the hub's answer to a birth.

`Births` is the unit of work of one transaction: devices are read together, changed in memory and written by `save`,
because a returning fleet sends thousands of births within seconds. Call `save` before the transaction is committed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import bindparam, insert, select, update
from sqlmodel import Session

from cloud_hub.database.tables import Device
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices.offsets import Key, StreamOffsets
from shared import PROTOCOL, protocol_versions
from shared.codec import DEFLATED
from shared.messages import STREAMS, Birth
from shared.messages import Session as SessionMessage

CONFLICT_US = 60_000_000
"""Two agents share an id if an old epoch returns within this time of another one."""

_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_BY_ID = _DEVICES.c.id == bindparam("b_id")
_READ = select(_DEVICES.c.id, _DEVICES.c.session, _DEVICES.c.epoch, _DEVICES.c.seen_us).where(
    _DEVICES.c.id.in_(bindparam("b_ids", expanding=True))
)
_BIRTH_COLUMNS = (
    "session", "epoch", "seen_us", "state", "conflict", "born_us", "profile", "version", "protocol", "asset_path",
    "clock", "metrics", "limits_without_source",
)  # fmt: skip
_BORN = update(_DEVICES).where(_BY_ID).values({name: bindparam(f"b_{name}") for name in _BIRTH_COLUMNS})
_GONE = update(_DEVICES).where(_BY_ID).values(state=bindparam("b_state"), seen_us=bindparam("b_seen_us"))
_NEW = insert(_DEVICES)


@dataclass(slots=True)
class _Presence:
    """The columns of a device that births change; `birth` is the newest one of this transaction."""

    session: str = ""
    epoch: str = ""
    seen_us: int = 0
    state: str = "offline"
    conflict: str = ""
    born_us: int = 0
    birth: Birth | None = None
    stored: bool = False
    changed: bool = False


class Births:
    """The devices of one transaction."""

    def __init__(self, session: Session, marks: StreamOffsets) -> None:
        self._connection, self._marks = session.connection(), marks
        self._found: dict[str, _Presence] = {}
        self._loaded: set[str] = set()

    def load(self, devices: Collection[str]) -> None:
        """Read the devices that exist."""
        missing = sorted(set(devices) - self._loaded)
        self._loaded.update(missing)
        if missing:
            for name, session, epoch, seen_us in self._connection.execute(_READ, {"b_ids": missing}):
                self._found[name] = _Presence(session=session, epoch=epoch, seen_us=seen_us, stored=True)

    def is_known(self, device: str) -> bool:
        """Whether the device is known, in the database or in this transaction."""
        self.load([device])
        return device in self._found

    def handle_death(self, birth: Birth, now_us: int) -> None:
        """Handle a death. The death of an older session is ignored."""
        row = self._row(birth.device)
        if row.session in ("", birth.session):
            row.state, row.seen_us, row.changed = "offline", now_us, True

    def handle_birth(self, birth: Birth, now_us: int) -> str:
        """Handle a birth; returns why the device is refused under this id, or ''."""
        row = self._row(birth.device)
        row.conflict = self._conflict(row, birth, now_us)
        if not row.conflict:  # a refused agent retries, which must not count as a sign of the other one
            row.epoch, row.seen_us = birth.epoch, now_us
        row.session, row.state, row.born_us = birth.session, "online", now_us
        row.birth, row.changed = birth, True
        return row.conflict

    def save(self) -> None:
        """Write the devices that changed."""
        changed = {name: row for name, row in self._found.items() if row.changed}
        fresh = [_new_row(name, row) for name, row in changed.items() if not row.stored]
        born = [_birth_row(name, row, row.birth) for name, row in changed.items() if row.stored and row.birth]
        gone = [{"b_id": name, "b_state": row.state, "b_seen_us": row.seen_us}
                for name, row in changed.items() if row.stored and not row.birth]  # fmt: skip
        for statement, rows in ((_NEW, fresh), (_BORN, born), (_GONE, gone)):
            if rows:
                self._connection.execute(statement, rows)
        for row in changed.values():
            row.stored, row.changed, row.birth = True, False, None

    def _row(self, device: str) -> _Presence:
        self.load([device])
        return self._found.setdefault(device, _Presence(changed=True))

    def _conflict(self, row: _Presence, birth: Birth, now_us: int) -> str:
        """Detect a second agent with the same id: its epoch is known, but not the newest."""
        if row.epoch in ("", birth.epoch) or now_us - row.seen_us > CONFLICT_US:
            return ""
        if not self._marks.any(birth_streams(birth)):
            return ""
        return f"device id '{birth.device}' is in use by another agent: give each its own device.id"


def _birth_row(name: str, row: _Presence, birth: Birth) -> dict[str, Any]:
    """The parameters of `_BORN`."""
    metrics = [msgspec.to_builtins(metric) for metric in birth.metrics]
    return {
        "b_id": name, "b_session": row.session, "b_epoch": row.epoch, "b_seen_us": row.seen_us, "b_state": row.state,
        "b_conflict": row.conflict, "b_born_us": row.born_us, "b_profile": birth.profile, "b_version": birth.version,
        "b_protocol": birth.protocol, "b_asset_path": birth.asset_path, "b_clock": birth.clock, "b_metrics": metrics,
        "b_limits_without_source": birth.limits_without_source,
    }  # fmt: skip


_DEFAULTS = Device(id="").model_dump()


def _new_row(name: str, row: _Presence) -> dict[str, Any]:
    """The row of a new device."""
    if row.birth is None:
        return _DEFAULTS | {"id": name, "state": row.state, "seen_us": row.seen_us}
    return _DEFAULTS | {key.removeprefix("b_"): value for key, value in _birth_row(name, row, row.birth).items()}


def session_answer(
    session: Session, marks: StreamOffsets, birth: Birth, hub_epoch: str, hub_link: str = "", conflict: str = ""
) -> SessionMessage:  # fmt: skip
    """The answer to a birth. Items that the device deleted after an earlier hub's ack, and this one lacks, are lost."""
    upto: dict[str, int] = {}
    marks.create(birth_streams(birth))  # the marks also record that the epoch was seen
    for stream in STREAMS:
        mark = marks.get((birth.device, birth.epoch, stream))
        deleted = birth.acked.get(stream, 0)
        if deleted > mark.upto:
            device_registry.record_lost_range(session, [(mark.source, mark.upto + 1, deleted, "hub-restored")])
            mark.upto = deleted
        upto[stream] = mark.upto
    return SessionMessage(
        hub_epoch=hub_epoch,
        protocol=protocol_versions.agreed(birth.protocol, PROTOCOL) or PROTOCOL,
        session=birth.session,
        epoch=birth.epoch,
        upto=upto,
        refused=conflict or protocol_versions.refusal(birth.protocol),
        heartbeat=True,
        hub_link=hub_link,
        reads=[DEFLATED],
    )


def birth_streams(birth: Birth) -> list[Key]:
    """The keys of the marks of a birth's epoch."""
    return [(birth.device, birth.epoch, stream) for stream in STREAMS]


def refused_session(birth: Birth, reason: str, hub_epoch: str) -> SessionMessage:
    """The answer to a birth of a device that is refused."""
    return SessionMessage(
        hub_epoch=hub_epoch, protocol=PROTOCOL, session=birth.session, epoch=birth.epoch, upto={}, refused=reason
    )
