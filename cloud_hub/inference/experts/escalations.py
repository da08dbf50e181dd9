"""Counts escalations, for metrics and lists."""

from __future__ import annotations

from sqlmodel import Session, col, func, select

from cloud_hub.database.tables import EscalationRow


def waiting(session: Session) -> dict[str, int]:
    """Frames without an answer, by model."""
    query = select(EscalationRow.model, func.count()).where(col(EscalationRow.answer).is_(None))
    return dict(session.exec(query.group_by(EscalationRow.model)).all())
