"""One birth or death alone, for tests that need a device."""

from __future__ import annotations

from sqlmodel import Session

from cloud_hub.devices.births import Births
from cloud_hub.devices.offsets import StreamOffsets
from shared.protocol.messages import Birth


def born(session: Session, birth: Birth, now_us: int) -> None:
    """Take it as ingest does."""
    births = Births(session, StreamOffsets(session))
    births.handle_death(birth, now_us) if birth.state == "offline" else births.handle_birth(birth, now_us)
    births.save()
