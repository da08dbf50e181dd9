"""Where everything the device has to say comes together: judged by the rules, then committed to the outbox.

Telemetry waits for the next commit; an escalation at most a tenth of a second; an alarm not at all, and it
takes along the samples that caused it, under one trace.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from edge_agent import clock
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.runtime.health import clock_quality
from edge_agent.store.outbox import Outbox, OutboxFull, RowBatch
from edge_agent.store.statestore import StateStore
from shared.messages import Alarm, Escalation, Event, Sample, Stream

log = logging.getLogger(__name__)

Item = Sample | Event | Escalation
MAX_WAITING = 5000
"""Items that may wait in memory while the store refuses; then the oldest of the class go, counted."""


class Pipeline:
    """Pending items by stream. `pump` is called after each commit, so that the link sends what is new."""

    def __init__(self, rules: LimitRules, outbox: Outbox, keep: StateStore, pump: Callable[[], None]) -> None:
        self._rules, self._outbox, self._keep, self._pump = rules, outbox, keep, pump
        self._pending: dict[Stream, list[Alarm | Item]] = {"alarm": [], "escalation": [], "event": [], "telemetry": []}
        self._checkpoints: dict[str, bytes] = {}
        self._refused = 0
        self._kept: dict[str, str] = {}

    def add(self, items: Sequence[Item], checkpoints: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Accept what a collector, a model or the agent itself has to say, and where collectors stand after that."""
        self._checkpoints |= checkpoints
        alarms: list[Alarm] = []
        for item in items:
            if isinstance(item, Sample):
                self._pending["telemetry"].append(item)
                alarms += self._rules.judge(item, clock.new_id)
            else:
                self._pending["event" if isinstance(item, Event) else "escalation"].append(item)
        self._raise(alarms)

    def tick(self) -> None:
        """About once a second: what only time can tell."""
        self._raise(self._rules.tick(clock.now_us(), clock.new_id))
        self._keep_standing()

    def _raise(self, alarms: Sequence[Alarm]) -> None:
        if not alarms:
            return
        self._pending["alarm"] += alarms
        if self.commit():  # else the store refused them: after a restart they are raised anew
            self._keep_standing()

    def _keep_standing(self) -> None:
        standing = self._rules.standing()
        ids = {key: state.id for key, state in standing.items()}
        if ids != self._kept:  # an alarm may go on under another rule, and nobody is told
            self._keep.put("alarms", standing)
            self._kept = ids

    def commit_urgent(self) -> None:
        """Commit when an escalation or an event waits."""
        if self._pending["escalation"] or self._pending["event"]:
            self.commit()

    def commit(self) -> bool:
        """Everything pending into the outbox, durable when this returns True; then let the link send it."""
        trace = clock.new_trace()
        lots = [RowBatch(stream=stream, items=items, trace=trace) for stream, items in self._pending.items() if items]
        # What cannot be stored must not hold back an alarm that can.
        return self._accepted(lots, self._checkpoints) or self._accepted([lot for lot in lots if lot.stream == "alarm"])

    def _accepted(self, lots: list[RowBatch], checkpoints: Mapping[str, bytes] = MappingProxyType({})) -> bool:
        if not lots and not checkpoints:
            return True
        try:
            self._outbox.accept(lots, clock_quality(), clock.now_us(), checkpoints)
        except OutboxFull as error:
            self._overflow(str(error))
            return False
        for lot in lots:
            if lot.stream == "alarm":
                self._tell(lot)
            self._pending[lot.stream] = []
        if checkpoints:
            self._checkpoints = {}
        if lots:
            self._pump()
        return True

    def expire(self) -> None:
        """Give up what is older than it may be; a clock that nobody set tells no age."""
        if clock_quality() != "unsynced" and (rows := self._outbox.expire(clock.now_us())):
            log.warning("outbox.expired", extra={"fields": {"rows": rows}})
            self._pump()

    def _tell(self, lot: RowBatch) -> None:
        for alarm in lot.items:
            fields = {"alarm": alarm.id, "metric": alarm.metric, "kind": alarm.kind, "value": alarm.value}
            log.warning(f"alarm.{alarm.state}", extra={"fields": fields, "trace": lot.trace})

    def _overflow(self, reason: str) -> None:
        for items in self._pending.values():
            self._refused += max(0, len(items) - MAX_WAITING)
            del items[:-MAX_WAITING]
        log.error("outbox.full", extra={"fields": {"reason": reason, "refused": self._refused}})
