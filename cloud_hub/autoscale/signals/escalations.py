"""The queue of frames that devices escalated to experts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub.autoscale.core.sources import EscalationSource
from cloud_hub.autoscale.signals.base import SignalContext, Value
from cloud_hub.database.tables import EscalationRow
from shared.durations import SECOND_US


def read(source: EscalationSource, context: SignalContext, fresh_s: float, now_us: int) -> Value:
    """Escalations a second within the window, or frames without an answer."""
    query = select(func.count()).select_from(EscalationRow)
    if source.model:
        query = query.where(EscalationRow.model == source.model)
    if source.of == "rate":
        query = query.where(col(EscalationRow.received_us) > now_us - int(source.window_s * SECOND_US))
    else:
        query = query.where(col(EscalationRow.answer).is_(None))
    with context.db.read() as session:
        count = session.exec(query).one()
    return Value(count / source.window_s, now_us, "1/s") if source.of == "rate" else Value(count, now_us, "frames")


def arrivals(session: Session, source: EscalationSource, start_us: int, end_us: int) -> npt.NDArray[np.int64]:
    """When escalations arrived within start_us..end_us, int64 [n]."""
    query = select(EscalationRow.received_us).where(
        col(EscalationRow.received_us) >= start_us, col(EscalationRow.received_us) < end_us
    )
    if source.model:
        query = query.where(EscalationRow.model == source.model)
    return np.fromiter(session.exec(query), np.int64)
