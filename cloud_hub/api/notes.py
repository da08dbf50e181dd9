"""/api/v1/devices/{id}/notes: what people leave on a device for whoever works on its next incident."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from cloud_hub.api.dependencies import Operator, Reader, TheHub
from cloud_hub.clock import now_us
from cloud_hub.database.tables import DeviceNote
from cloud_hub.devices import notes
from cloud_hub.devices import registry as device_registry

router = APIRouter(prefix="/api/v1/devices/{device}/notes", tags=["notes"])


class NoteBody(BaseModel):
    """A note: one line of text."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=notes.MAX_TEXT)


@router.get("")
def list_notes(device: str, hub: TheHub, caller: Reader) -> list[DeviceNote]:
    """List the notes of a device, the newest first."""
    with hub.db.read(scope=caller.scope) as session:
        device_registry.require_device(session, device)
        return notes.newest(session, device, notes.MAX_NOTES)


@router.post("", status_code=201)
def add_note(device: str, body: NoteBody, hub: TheHub, caller: Operator) -> DeviceNote:
    """Leave a note on a device."""
    with hub.db.write(scope=caller.scope) as session:
        return notes.add(session, device, body.text, now_us(), actor=caller.actor, trace=caller.trace)


@router.delete("/{note_id}", status_code=204)
def delete_note(device: str, note_id: str, hub: TheHub, caller: Operator) -> None:
    """Delete a note."""
    with hub.db.write(scope=caller.scope) as session:
        notes.delete(session, device, note_id, now_us(), actor=caller.actor, trace=caller.trace)
