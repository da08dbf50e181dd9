"""Calibrates the gates of devices, with the expert's labels as ground truth.

Only frames that no gate selected are used (no gate yet, another model file, drift): others would be a biased sample.
"""

from __future__ import annotations

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud_hub.database.tables import EscalationRow
from cloud_hub.settings.experts import Experts
from shared.models.gate import Gate, calibrate, drift_tests

UNSELECTED = ("no-gate", "wrong-model", "drift")


def recalibrated_gate(session: Session, device: str, model: str, since_us: int, settings: Experts) -> Gate | None:
    """Calibrate a gate for a device's model from the first `frames` unselected frames received after `since_us`.

    Returns None while there are not enough frames of the newest model file.
    """
    newest = session.exec(
        _unselected(device, model, since_us).order_by(
            col(EscalationRow.received_us).desc(), col(EscalationRow.id).desc()
        )
    ).first()
    if newest is None:
        return None
    rows = session.exec(
        _unselected(device, model, since_us)
        .where(EscalationRow.digest == newest.digest, col(EscalationRow.answer).is_not(None))
        .order_by(col(EscalationRow.received_us), EscalationRow.id)
        .limit(settings.frames)
    ).all()
    if len(rows) < settings.frames:
        return None
    agrees = [row.label == row.answer for row in rows]
    k, margin = calibrate([row.margin for row in rows], agrees, settings.alpha, settings.delta)
    return Gate(
        digest=newest.digest, alpha=settings.alpha, delta=settings.delta, n=len(rows), k=max(k, 0), margin=margin,
        audit=settings.audit, panel=drift_tests([row.features for row in rows]),
    )  # fmt: skip


def _unselected(device: str, model: str, since_us: int) -> SelectOfScalar[EscalationRow]:
    return select(EscalationRow).where(
        EscalationRow.device == device,
        EscalationRow.model == model,
        col(EscalationRow.received_us) > since_us,
        col(EscalationRow.reason).in_(UNSELECTED),
        EscalationRow.label != "",
    )
