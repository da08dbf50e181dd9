"""The autoscaler: reads the demand, decides, stores the decision, calls the platform, stores the outcome.

A decision is committed before the platform is called, and its id is the idempotency key: a hub that was killed in
between repeats the call with the same key (invariant A5).
"""

from __future__ import annotations

import logging
from functools import partial

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.autoscale import Scaler, ScaleRefused
from cloud_hub.autoscale.core import single_signal as policy
from cloud_hub.clock import new_id, now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import EscalationRow, ScaleStep
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkerSpec, WorkResult
from cloud_hub.settings import Autoscale, Settings
from shared import plugins
from shared.errors import NotReady

log = logging.getLogger(__name__)

PERIOD_S = 2.0


def workers(context: HubContext) -> list[WorkerSpec]:
    """Scale the hub's workers if a scaler is configured; raises ConfigError."""
    scaler = load_scaler(context.settings)
    if scaler is None:
        return []
    run_once = Autoscaler(context.db, scaler, context.settings.autoscale).run_once
    return [WorkerSpec(name="autoscale", run_once=run_once, period_s=PERIOD_S)]


def load_scaler(settings: Settings) -> Scaler | None:
    """The configured scaler, or None; raises ConfigError."""
    wanted = settings.autoscale
    if not wanted.kind:
        return None
    scaler: Scaler = plugins.load(plugins.SCALERS, wanted.kind, "autoscale.kind")(wanted.options)
    return scaler


def escalation_rate(session: Session, window_s: float, now: int) -> float:
    """Escalations per second that reached the hub within the last `window_s` seconds."""
    query = select(func.count()).where(col(EscalationRow.received_us) > now - int(window_s * 1e6))
    return session.exec(query).one() / window_s


class Autoscaler:
    """Runs the policy for one scaler, and holds its state."""

    def __init__(self, db: Database, scaler: Scaler, settings: Autoscale) -> None:
        self._db, self._scaler, self._settings = db, scaler, settings
        self._bounds = policy.Bounds(
            minimum=settings.minimum, maximum=settings.maximum, per_replica=settings.per_replica,
            max_step=settings.max_step, cooldown_s=settings.cooldown_s, per_hour=settings.per_hour,
            window_s=settings.watch_s,
        )  # fmt: skip
        self._state = policy.State()
        self._refused_until = 0

    def run_once(self) -> WorkResult:
        """Decide once and call the platform; raises NotReady while it cannot be reached."""
        now = now_us()
        items = WorkItems(self._db, "autoscale", now)
        if now < self._refused_until or self._finish(items):
            return items.result()
        current, now = self._scaler.current().desired, now_us()
        with self._db.read() as session:
            wanted = escalation_rate(session, self._settings.window_s, now)
        self._state = policy.observe(self._bounds, self._state, wanted, now)
        decision = policy.decide(self._bounds, self._state, wanted, current, now)
        if decision.action == "hold":
            return items.result()
        row = ScaleStep(id=new_id(), t_us=now, demand=wanted, before=current, to=decision.to, reason=decision.reason)
        with self._db.write() as session:
            session.add(row)
        self._state = policy.record_action(self._bounds, self._state, decision, now)
        items.run("step", row.id, partial(self._scale, row))
        return items.result()

    def _finish(self, items: WorkItems) -> bool:
        """Repeat the call of a decision without an outcome."""
        decided = select(ScaleStep).where(ScaleStep.state == "decided", items.ready("step", ScaleStep.id))
        with self._db.read() as session:
            row = session.exec(decided).first()
        if row is not None:
            items.run("step", row.id, partial(self._scale, row))
        return row is not None

    def _scale(self, row: ScaleStep) -> None:
        try:
            state, outcome = "done", f"{self._scaler.scale(row.to, row.id)} replicas asked for"
        except ScaleRefused as error:
            # A limit of the platform does not change at once: wait before the next attempt.
            self._refused_until = now_us() + int(self._settings.cooldown_s * 1e6)
            state, outcome = "refused", error.reason
        except NotReady as error:
            log.warning("scale.not_ready", extra={"fields": {"reason": error.reason}})
            raise
        with self._db.write() as session:
            stored = session.get_one(ScaleStep, row.id)
            stored.state, stored.outcome = state, outcome
            trail.add(session, now_us(), "hub", f"scale.{state}", self._scaler.name, before=row.before, to=row.to,
                      reason=row.reason, outcome=outcome)  # fmt: skip
        log.info(f"scale.{state}", extra={"fields": {"before": row.before, "to": row.to, "outcome": outcome}})
