"""The fleet: who is there, since when, with which hardware; and the hub's answer to a birth."""

from __future__ import annotations

import msgspec
from sqlmodel import Session, select

from cloud_hub.errors import HubError
from cloud_hub.tables import Device, HighWater, LostRange
from shared import PROTOCOL
from shared.messages import STREAMS, Birth
from shared.messages import Session as SessionWord

CONFLICT_US = 60_000_000
"""Two agents under one id show themselves by an epoch that comes back within this time of another."""


def device(session: Session, device_id: str) -> Device:
    """The device, or HubError 404."""
    row = session.get(Device, device_id)
    if row is None:
        raise HubError(404, "No such device", f"'{device_id}' has never been born here")
    return row


def devices(session: Session) -> list[Device]:
    """All devices by id."""
    return list(session.exec(select(Device).order_by(Device.id)))


def born(session: Session, birth: Birth, now_us: int) -> Device | None:
    """Take a birth or a death; returns the device when it is online now and must be answered.

    A death of an older connection is ignored: the newer one has already spoken.
    """
    row = session.get(Device, birth.device) or Device(id=birth.device)
    if birth.state == "offline":
        if row.session in ("", birth.session):
            row.state, row.seen_us = "offline", now_us
            session.add(row)
        return None
    row.conflict = _conflict(session, row, birth, now_us)
    if not row.conflict:
        row.epoch = birth.epoch
    row.session, row.state, row.born_us, row.seen_us = birth.session, "online", now_us, now_us
    row.profile, row.version, row.protocol = birth.profile, birth.version, birth.protocol
    row.asset_path, row.clock = birth.asset_path, birth.clock
    row.metrics = [msgspec.to_builtins(metric) for metric in birth.metrics]
    session.add(row)
    return row


def _conflict(session: Session, row: Device, birth: Birth, now_us: int) -> str:
    """A second agent with the same id: its epoch is one that this hub knows, but not the newest one."""
    if row.epoch in ("", birth.epoch) or now_us - row.seen_us > CONFLICT_US:
        return ""
    known = session.exec(
        select(HighWater).where(HighWater.device == birth.device, HighWater.epoch == birth.epoch)
    ).first()
    if known is None:
        return ""
    return f"device id '{birth.device}' is in use by another agent: give each its own device.id"


def high_water(session: Session, device_id: str, epoch: str, stream: str) -> HighWater:
    """The high-water mark of one stream, made at 0 when it is new."""
    query = select(HighWater).where(HighWater.device == device_id, HighWater.epoch == epoch, HighWater.stream == stream)
    mark = session.exec(query).first()
    if mark is None:
        mark = HighWater(device=device_id, epoch=epoch, stream=stream)
        session.add(mark)
        session.flush()
    return mark


def lose(session: Session, mark: HighWater, first: int, last: int, reason: str) -> None:
    """Items first..last of a stream will never come: kept as a range."""
    session.merge(LostRange(source=mark.id or 0, first=first, last=last, reason=reason))


def answer(session: Session, row: Device, birth: Birth, hub_epoch: str) -> SessionWord:
    """The hub's word on a birth. What the device deleted on an earlier hub's word and this one lacks is lost."""
    upto: dict[str, int] = {}
    for stream in STREAMS:
        mark = high_water(session, row.id, birth.epoch, stream)
        deleted = birth.acked.get(stream, 0)
        if deleted > mark.upto:
            lose(session, mark, mark.upto + 1, deleted, "hub-restored")
            mark.upto = deleted
        upto[stream] = mark.upto
    refused = row.conflict
    if birth.protocol > PROTOCOL:
        refused = f"protocol {birth.protocol} is newer than this hub's {PROTOCOL}: update the hub first"
    return SessionWord(
        hub_epoch=hub_epoch, protocol=PROTOCOL, session=birth.session, epoch=birth.epoch, upto=upto, refused=refused
    )
