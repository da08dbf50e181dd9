"""Notes that people leave on a device for whoever works on its next incident."""

from __future__ import annotations

from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database.tables import DeviceNote
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError

MAX_NOTES = 50
MAX_TEXT = 1000


def add(session: Session, device: str, text: str, now_us: int, *, actor: str, trace: str = "") -> DeviceNote:
    """Leave a note. HubError 404 for an unknown device, 422 for an empty or long text, 409 for too many notes."""
    device_registry.require_device(session, device)
    kept = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    if not 0 < len(kept) <= MAX_TEXT:
        raise HubError(422, "Invalid request", f"a note has 1 to {MAX_TEXT} characters")
    if len(newest(session, device, MAX_NOTES)) == MAX_NOTES:
        raise HubError(409, "Too many notes", f"a device has at most {MAX_NOTES}: delete one that is out of date")
    row = DeviceNote(id=new_id(), device=device, text=kept, actor=actor, t_us=now_us)
    session.add(row)
    trail.add(session, now_us, actor, "note.added", kept[:80], device=device, trace=trace, note=row.id)
    return row


def newest(session: Session, device: str, limit: int) -> list[DeviceNote]:
    """The notes of a device, the newest first."""
    query = select(DeviceNote).where(DeviceNote.device == device).order_by(col(DeviceNote.id).desc()).limit(limit)
    return list(session.exec(query))


def delete(session: Session, device: str, note_id: str, now_us: int, *, actor: str, trace: str = "") -> None:
    """Delete a note; HubError 404."""
    row = session.get(DeviceNote, note_id)
    if row is None or row.device != device:
        raise HubError(404, "No such note", f"'{note_id[:80]}' is no note of '{device}'")
    session.delete(row)
    trail.add(session, now_us, actor, "note.deleted", row.text[:80], device=device, trace=trace, note=note_id)
