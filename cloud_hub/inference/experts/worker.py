"""Answers escalations and recalibrates gates. All state is in the database, so a restarted hub continues."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_span, now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, EscalationRow
from cloud_hub.devices import registry as device_registry
from cloud_hub.inference.experts import NO_OPINION, Expert, Opinion, Origin
from cloud_hub.inference.experts.calibration import recalibrated_gate
from cloud_hub.inference.experts.coverage import CoverageReporter, configured
from cloud_hub.inference.experts.metrics import ExpertMetrics
from cloud_hub.inference.experts.registry import load_local, load_remote
from cloud_hub.inference.gateway.service import Gateway
from cloud_hub.runtime import tracing
from cloud_hub.runtime.context import HubContext
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import WorkerSpec, WorkResult
from cloud_hub.settings.experts import Experts
from cloud_hub.twins import service as twins
from shared.errors import ModelError
from shared.protocol import topics
from shared.protocol.codec import encode, plain
from shared.protocol.messages import EscalationAnswer

log = logging.getLogger(__name__)

BATCH_SIZE = 64
GATES = "gates"
_ROWS: Any = EscalationRow


def workers(context: HubContext, gateway: Gateway | None, metrics: ExpertMetrics) -> list[WorkerSpec]:
    """Answer escalations; raises ConfigError if an expert cannot be opened. A slow remote one delays no other."""
    settings = context.settings.experts
    found = {"experts": load_local(context.settings), "experts-remote": load_remote(context.settings, gateway)}
    running = {
        name: ExpertWorker(context.db, experts, settings, context.max_twin_bytes, name, metrics)
        for name, experts in found.items() if experts or name == "experts"
    }  # fmt: skip
    return [
        WorkerSpec(name=name, run_once=worker.run_once, linger_s=settings.max_wait_s)
        for name, worker in running.items()
    ]


def _groups(rows: Iterable[EscalationRow]) -> list[list[EscalationRow]]:
    """Group rows that one call can answer."""
    groups: dict[tuple[str, tuple[int, ...], str, str], list[EscalationRow]] = {}
    for row in rows:
        groups.setdefault((row.model, _shape(row), row.dtype, row.color), []).append(row)
    return list(groups.values())


def _span(row: EscalationRow) -> tracing.Span:
    about = {"tidegate.device": row.device, "tidegate.model": row.model}
    return tracing.start("escalation.answer", new_span(row.trace_id), about)


def _shape(row: EscalationRow) -> tuple[int, ...]:
    """[height, width, channels] of pixels, [samples, metrics] of a window."""
    return (row.height, row.width, row.channels) if row.dtype == "uint8" else (row.height, row.width)


class ExpertWorker:
    """Runs `experts`, which are keyed by the device's name of the model."""

    def __init__(
        self, db: Database, experts: dict[str, Expert], settings: Experts, max_bytes: int, worker: str = "experts",
        metrics: ExpertMetrics | None = None,
    ) -> None:  # fmt: skip
        self._worker, self._metrics = worker, metrics or ExpertMetrics()
        for model, expert in experts.items():
            self._metrics.loaded(model, expert.name)
        self._db, self._experts, self._settings, self._max_bytes = db, experts, settings, max_bytes
        self._since: dict[tuple[str, str], int] = {}
        self._coverage = CoverageReporter(configured(settings) | set(experts)) if worker == "experts" else None

    def run_once(self) -> WorkResult:
        """Answer the waiting escalations, then recalibrate gates that are due; report models without an expert."""
        items = WorkItems(self._db, self._worker, now_us())
        messages: list[OutgoingMessage] = []
        touched: set[tuple[str, str]] = set()
        while items.not_ready is None and (rows := self._unanswered(items)):
            for group in self._batches(rows):
                answered = items.batch("escalation", group, self._answer, key=lambda row: row.id)
                messages += [message for part in answered for message in part]
            touched |= {(row.device, row.model) for row in rows}
        for device, model in sorted(touched):
            messages += items.run("gate", f"{device}/{model}", partial(self._calibrate, device, model)) or []
        if self._coverage is not None and self._coverage.due(now_us()):
            with self._db.read() as session:
                self._coverage.report(session, now_us())
        return items.result(messages=messages)

    def _batches(self, rows: Iterable[EscalationRow]) -> list[list[EscalationRow]]:
        """Groups that one call can answer, as large as the expert takes."""
        batches: list[list[EscalationRow]] = []
        for group in _groups(rows):
            size = min(self._settings.max_batch, getattr(self._experts[group[0].model], "max_batch", len(group)))
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        return batches

    def _unanswered(self, items: WorkItems) -> list[EscalationRow]:
        query = select(EscalationRow).where(
            col(EscalationRow.answer).is_(None), col(EscalationRow.model).in_(list(self._experts)),
            items.ready("escalation", EscalationRow.id),
        )  # fmt: skip
        wanted = (
            query.order_by(EscalationRow.id)
            .limit(max(BATCH_SIZE, self._settings.max_batch))
            .options(defer(_ROWS.features))
        )
        with self._db.read() as session:
            return list(session.exec(wanted))

    def _answer(self, rows: Sequence[EscalationRow]) -> list[OutgoingMessage]:
        """Answer frames of the same model, shape, type and colour."""
        spans = {row.id: _span(row) for row in rows}
        traces = {number: span.traceparent for number, span in spans.items()}
        failure, model, began_s = "failed", rows[0].model, time.monotonic()
        messages: list[OutgoingMessage] = []
        try:
            opinions = self._opinions(rows, traces)  # outside the transaction, which must not wait for a model
            self._metrics.answered(model, opinions, time.monotonic() - began_s)
            with self._db.write() as session:
                for row, opinion in zip(rows, opinions, strict=True):
                    messages += self._store(session, row, opinion, traces[row.id])
            failure = ""
        except Exception:
            self._metrics.failed(model, len(rows))
            raise
        finally:
            for span in spans.values():
                span.end(failure=failure)
        return messages

    def _opinions(self, rows: Sequence[EscalationRow], traces: dict[str, str]) -> list[Opinion]:
        """An opinion of each frame; one that spoils its batch spoils no other."""
        model, first = rows[0].model, rows[0]
        try:
            return self._experts[model].answer(
                _shape(first), [row.frame for row in rows], dtype=first.dtype, color=first.color,
                origins=self._origins(rows, traces),
            )  # fmt: skip
        except ModelError as error:
            if len(rows) > 1:
                return [opinion for row in rows for opinion in self._opinions([row], traces)]
            log.warning("expert.refused", extra={"fields": {"model": model, "reason": str(error)}})
            return [NO_OPINION]

    def _origins(self, rows: Sequence[EscalationRow], traces: dict[str, str]) -> list[Origin]:
        """Where the frames come from."""
        devices = {row.device for row in rows}
        query = select(Device.id, Device.assigned_path).where(col(Device.id).in_(devices))
        with self._db.read() as session:
            paths = {device: (path,) for device, path in session.exec(query) if path}
        return [
            Origin(
                device=row.device, sites=paths.get(row.device, ()), trace=traces[row.id],
                age_s=(now_us() - row.received_us) / 1e6,
            )
            for row in rows
        ]  # fmt: skip

    def _store(
        self, session: Session, row: EscalationRow, opinion: Opinion, trace: str
    ) -> list[OutgoingMessage]:  # fmt: skip
        expert = self._experts[row.model].name
        stored = session.get_one(EscalationRow, row.id)
        if stored.answer is not None:  # another hub was faster
            return []
        stored.answer, stored.confidence, stored.expert = opinion.label, opinion.confidence, expert
        stored.answered_us, stored.cost = now_us(), opinion.cost
        answer = EscalationAnswer(
            id=row.id, label=opinion.label, confidence=opinion.confidence, expert=expert, values=opinion.values,
            boxes=opinion.boxes,
        )  # fmt: skip
        topic = topics.thing(row.device, "escalations/answers")
        return [OutgoingMessage(topic=topic, payload=encode(answer), trace=trace)]

    def _calibrate(self, device: str, model: str) -> list[OutgoingMessage]:
        key = (device, model)
        with self._db.read() as session:
            since = self._since.get(key, 0) or self._last_gate(session, device, model)
            gate = recalibrated_gate(session, device, model, since, self._settings)
        if gate is None:
            return []
        now = now_us()
        with self._db.write() as session:
            if not device_registry.exists(session, device):
                return []
            messages = twins.update_desired(
                session, device, GATES, {model: plain(gate)}, now, actor="hub", max_bytes=self._max_bytes
            )
            trail.add(session, now, "hub", "gate.calibrated", model, device=device, n=gate.n, k=gate.k,
                      margin=gate.margin, alpha=gate.alpha, digest=gate.digest)  # fmt: skip
        self._since[key] = now
        log.info("gate.calibrated", extra={"fields": {"device": device, "model": model, "margin": gate.margin}})
        return messages

    @staticmethod
    def _last_gate(session: Session, device: str, model: str) -> int:
        """When the model's gate was last calibrated; read from the audit trail, so it survives a restart."""
        for row in trail.rows(session, device=device, kind="gate.calibrated", limit=50):
            if row.subject == model:
                return row.t_us
        return 0
