"""Models whose escalations arrive though no expert is configured: nobody answers, and no gate is calibrated."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from sqlmodel import Session, col, func, select

from cloud_hub.database.tables import EscalationRow
from cloud_hub.settings.experts import Experts

log = logging.getLogger(__name__)

RECENT_US = 24 * 3_600_000_000
"""Models without an expert are those with escalations of the last day."""
PERIOD_US = 60_000_000
MAX_MODELS = 100


def configured(experts: Experts) -> set[str]:
    """Names of the models that have an expert."""
    return set(experts.bundles) | set(experts.servers) | set(experts.vision)


def hint(model: str) -> str:
    """What is missing for a model, and the cure."""
    return (
        f"escalations of model '{model}' arrive and no expert is configured for it, so none is answered. Add it to "
        f'[experts.bundles] of hub.toml: "{model}" = "FOLDER", the bundle that answers (docs/models.md)'
    )


def models_without_expert(session: Session, configured: Collection[str], now_us: int) -> list[str]:
    """Models with recent escalations and no expert, at most MAX_MODELS; read from an index, not from the frames."""
    names: Any = (
        select(EscalationRow.model)
        .where(
            col(EscalationRow.received_us) > now_us - RECENT_US,
            col(EscalationRow.model).not_in(sorted(configured)),
        )
        .group_by(EscalationRow.model)
        .order_by(func.count().desc(), EscalationRow.model)
        .limit(MAX_MODELS)
    )
    return list(session.exec(names))


class CoverageReporter:
    """Logs each model without an expert once."""

    def __init__(self, configured: Collection[str]) -> None:
        self._configured = configured
        self._reported: set[str] = set()
        self._due_us = 0

    def due(self, now_us: int) -> bool:
        """Whether it is time to look again: once a minute."""
        due = not self._due_us - PERIOD_US <= now_us < self._due_us
        if due:
            self._due_us = now_us + PERIOD_US
        return due

    def report(self, session: Session, now_us: int) -> None:
        """Log models that were not logged yet."""
        for model in models_without_expert(session, self._configured, now_us):
            if model not in self._reported and len(self._reported) < MAX_MODELS:
                self._reported.add(model)
                log.warning("expert.missing", extra={"fields": {"model": model, "reason": hint(model)}})
