"""Collects samples, events and escalations, evaluates alarm rules, and commits everything to the outbox.

Telemetry waits for the next periodic commit, events and escalations at most 0.1 s. An alarm is committed at once,
together with the samples that caused it, in one trace.
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
from shared.protocol.messages import Alarm, Escalation, Event, Sample, Stream

log = logging.getLogger(__name__)

Item = Sample | Event | Escalation
MAX_WAITING = 5000
"""Maximum pending items of a stream while the outbox is full; the oldest ones are dropped and counted."""


class Pipeline:
    """Pending items by stream. `pump` is called after each commit, so that the link sends what is new.

    `observe` gets all items that are added, and alarms; it must return at once and raise nothing.
    """

    def __init__(
        self, rules: LimitRules, outbox: Outbox, store: StateStore, pump: Callable[[], None],
        observe: Callable[[Sequence[Item | Alarm]], None] = lambda _items: None,
    ) -> None:  # fmt: skip
        self._rules, self._outbox, self._store, self._pump = rules, outbox, store, pump
        self._observe = observe
        self._pending: dict[Stream, list[Alarm | Item]] = {"alarm": [], "escalation": [], "event": [], "telemetry": []}
        self._checkpoints: dict[str, bytes] = {}
        self._refused = 0
        self._stored: dict[str, str] = {}

    def add(self, items: Sequence[Item], checkpoints: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Add items of a collector, a model or the agent, and the checkpoints of the collectors after them."""
        self._checkpoints |= checkpoints
        alarms: list[Alarm] = []
        for item in items:
            if isinstance(item, Sample):
                self._pending["telemetry"].append(item)
                alarms += self._rules.judge(item, clock.new_id)
            else:
                self._pending["event" if isinstance(item, Event) else "escalation"].append(item)
        self._observe(items)
        self._raise(alarms)

    def tick(self) -> None:
        """Evaluate rules that depend on time alone; called about once a second."""
        self._raise(self._rules.tick(clock.now_us(), clock.new_id))
        self._store_active()

    def _raise(self, alarms: Sequence[Alarm]) -> None:
        if not alarms:
            return
        self._pending["alarm"] += alarms
        self._observe(alarms)
        if self.commit():  # if the outbox is full, they are raised again after a restart
            self._store_active()

    def _store_active(self) -> None:
        active = self._rules.standing()
        ids = {key: state.id for key, state in active.items()}
        if ids != self._stored:  # also when another rule has taken over an alarm
            self._store.put("alarms", active)
            self._stored = ids

    def commit_urgent(self) -> None:
        """Commit if an escalation or an event is pending."""
        if self._pending["escalation"] or self._pending["event"]:
            self.commit()

    def commit(self) -> bool:
        """Commit everything pending to the outbox, then let the link send it. Durable when this returns True."""
        trace = clock.new_trace()
        lots = [RowBatch(stream=stream, items=items, trace=trace) for stream, items in self._pending.items() if items]
        # If not everything fits, at least the alarms.
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
                self._log_alarms(lot)
            self._pending[lot.stream] = []
        if checkpoints:
            self._checkpoints = {}
        if lots:
            self._pump()
        return True

    def expire(self) -> None:
        """Delete items beyond their age limit, unless the clock is unsynchronized."""
        if clock_quality() != "unsynced" and (rows := self._outbox.expire(clock.now_us())):
            log.warning("outbox.expired", extra={"fields": {"rows": rows}})
            self._pump()

    def _log_alarms(self, lot: RowBatch) -> None:
        for alarm in lot.items:
            fields = {"alarm": alarm.id, "metric": alarm.metric, "kind": alarm.kind, "value": alarm.value}
            log.warning(f"alarm.{alarm.state}", extra={"fields": fields, "trace": lot.trace})

    def _overflow(self, reason: str) -> None:
        for items in self._pending.values():
            self._refused += max(0, len(items) - MAX_WAITING)
            del items[:-MAX_WAITING]
        log.error("outbox.full", extra={"fields": {"reason": reason, "refused": self._refused}})
