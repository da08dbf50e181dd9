"""The fleet: who is there, since when, with which hardware; and the hub's answer to a birth."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from cloud_hub import audit, scopes
from cloud_hub.errors import HubError
from cloud_hub.roles import Scope
from cloud_hub.tables import Device, HighWater, LostRange
from shared import PROTOCOL, protocol
from shared.ids import DEVICE_ID
from shared.messages import STREAMS, Birth
from shared.messages import Session as SessionWord

CONFLICT_US = 60_000_000
"""Two agents under one id show themselves by an epoch that comes back within this time of another."""


def device(session: Session, device_id: str) -> Device:
    """The device, or HubError 404."""
    row = session.get(Device, device_id)
    if row is None or not scopes.sees(session, [device_id]):
        raise _unknown(device_id)
    return row


_KNOWN = select(Device.id).where(Device.id == bindparam("b_id"))


def exists(session: Session, device_id: str) -> bool:
    """Whether this device is known, and within the session's scope; twins are made for known devices only."""
    known = session.connection().execute(_KNOWN, {"b_id": device_id}).scalar() is not None
    return known and scopes.sees(session, [device_id])


def known(session: Session, device_id: str) -> None:
    """HubError 404 unless the device is known."""
    if not exists(session, device_id):
        raise _unknown(device_id)


def register(session: Session, device_id: str, now_us: int, *, who: str, trace: str = "") -> bool:
    """Make a device known before its first birth (a client of the twin alone never has one); False when it was."""
    if not DEVICE_ID.match(device_id):
        rule = "use 1 to 60 of a-z 0-9 _ - and begin with a letter or digit"
        raise HubError(422, "Invalid request", f"'{device_id[:80]}' is no device id: {rule}")
    if exists(session, device_id):
        return False
    session.add(Device(id=device_id))
    audit.add(session, now_us, who, "device.registered", device_id, device=device_id, trace=trace)
    return True


def remove(session: Session, device_id: str, now_us: int, *, who: str, trace: str = "") -> None:
    """Forget a device. Its telemetry, its audit rows and the marks of what was delivered stay."""
    session.delete(device(session, device_id))
    audit.add(session, now_us, who, "device.removed", device_id, device=device_id, trace=trace)


def _unknown(device_id: str) -> HubError:
    return HubError(404, "No such device", f"'{device_id[:80]}' is not known here: register it, or let it be born")


def assign(
    session: Session, device_id: str, path: str, now_us: int, *, within: Scope, who: str, trace: str = ""
) -> Device:  # fmt: skip
    """Say where a device stands; that alone decides which scopes see it. '' takes it back.

    Raises HubError: 404 for a device, 422 for what is no path, 403 for a path beyond the scope of who asks.
    """
    row = device(session, device_id)
    try:
        path = path and scopes.path(path)
    except ValueError as error:
        raise HubError(422, "Invalid request", f"body.asset_path: {error}") from error
    if not scopes.covers(within, (path,)):
        raise HubError(403, "Not allowed", f"this token reaches only {', '.join(within or ())}")
    if path != row.assigned_path:
        audit.add(session, now_us, who, "device.assigned", device_id, device=device_id, trace=trace,
                  before=row.assigned_path, path=path)  # fmt: skip
        row.assigned_path = path
        session.add(row)
    return row


def devices(session: Session) -> list[Device]:
    """All devices by id."""
    return list(session.exec(scopes.only(session, select(Device), col(Device.id)).order_by(Device.id)))


def born(session: Session, birth: Birth, now_us: int) -> Device | None:
    """Take a birth or a death; returns the device when it is online now and must be answered.

    A death of an older connection is ignored: the newer one has already spoken.
    """
    row = session.get(Device, birth.device)
    if row is None:
        row = Device(id=birth.device)
        session.add(row)
        session.flush()  # from here on the session knows it, should it be born twice in one transaction
    if birth.state == "offline":
        if row.session in ("", birth.session):
            row.state, row.seen_us = "offline", now_us
            session.add(row)
        return None
    row.conflict = _conflict(session, row, birth, now_us)
    if not row.conflict:  # one that is refused asks again and again: that must not keep the other one alive
        row.epoch, row.seen_us = birth.epoch, now_us
    row.session, row.state, row.born_us = birth.session, "online", now_us
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


Marks = dict[tuple[str, str], dict[str, int]]
"""High-water marks by (device, epoch), then by stream."""


def gather(session: Session, births: Iterable[Birth]) -> Marks:
    """What many births ask of the database, in two questions: their devices, which `born` finds in the session, and
    the marks of their epochs.
    """
    births = list(births)
    devices = {birth.device for birth in births}
    session.info["born"] = list(session.exec(select(Device).where(col(Device.id).in_(devices))))  # else forgotten
    marks: Marks = {(birth.device, birth.epoch): {} for birth in births if birth.state == "online"}
    query = select(HighWater.device, HighWater.epoch, HighWater.stream, HighWater.upto).where(
        col(HighWater.device).in_({device for device, _ in marks})
    )
    for device_id, epoch, stream, upto in session.exec(query) if marks else ():
        if (device_id, epoch) in marks:
            marks[device_id, epoch][stream] = upto
    return marks


def answer(
    session: Session, row: Device, birth: Birth, hub_epoch: str, hub_link: str = "", marks: Marks | None = None
) -> SessionWord:
    """The hub's word on a birth. What the device deleted on an earlier hub's word and this one lacks is lost."""
    upto = (gather(session, [birth]) if marks is None else marks)[row.id, birth.epoch]
    missing = [stream for stream in STREAMS if stream not in upto]
    if missing:  # an epoch that was seen is known by its marks
        session.add_all([HighWater(device=row.id, epoch=birth.epoch, stream=stream) for stream in missing])
        session.flush()
        upto |= dict.fromkeys(missing, 0)
    for stream in STREAMS:
        deleted = birth.acked.get(stream, 0)
        if deleted > upto[stream]:
            mark = high_water(session, row.id, birth.epoch, stream)
            lose(session, mark, mark.upto + 1, deleted, "hub-restored")
            upto[stream] = mark.upto = deleted
    return SessionWord(
        hub_epoch=hub_epoch, protocol=protocol.agreed(birth.protocol, PROTOCOL) or PROTOCOL, session=birth.session,
        epoch=birth.epoch, upto=dict(upto), refused=row.conflict or protocol.refusal(birth.protocol), heartbeat=True,
        hub_link=hub_link,
    )  # fmt: skip


def refusal(birth: Birth, reason: str, hub_epoch: str) -> SessionWord:
    """The hub's word on a birth of a device that it does not listen to."""
    return SessionWord(
        hub_epoch=hub_epoch, protocol=PROTOCOL, session=birth.session, epoch=birth.epoch, upto={}, refused=reason
    )
