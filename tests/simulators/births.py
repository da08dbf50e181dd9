"""One birth or death alone, for tests that need a device."""

from __future__ import annotations

from sqlmodel import Session

from cloud_hub.births import Births
from cloud_hub.marks import Marks
from shared.messages import Birth


def born(session: Session, birth: Birth, now_us: int) -> None:
    """Take it as ingest does."""
    births = Births(session, Marks(session))
    births.gone(birth, now_us) if birth.state == "offline" else births.born(birth, now_us)
    births.save()
