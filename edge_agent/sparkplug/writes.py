"""Carries out writes from SCADA, and records them: events for the hub, a metric for SCADA, a file for this device.

The rules are in the agent's configuration, the switches in a file that only a person on the device changes. This is
not a safety function: the controller's own logic and hardware interlocks remain responsible.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edge_agent import clock
from edge_agent.collectors import Writer
from edge_agent.sparkplug.core.writes import Effect as WriteEffect
from edge_agent.sparkplug.core.writes import (
    Flood,
    Outcome,
    Request,
    Start,
    WriteDesk,
    restored_history,
    stored_history,
)
from edge_agent.sparkplug.switches import SwitchFile
from edge_agent.store.statestore import StateStore
from shared.plant.write_rules import CurrentValue, Refused, WriteRule, WriteValue, needed_metrics
from shared.protocol.messages import Event, Level

log = logging.getLogger(__name__)

HISTORY, UNDER_WAY, OUTCOMES, ENABLED = (
    "sparkplug:history", "sparkplug:under_way", "sparkplug:outcomes", "sparkplug:enabled",
)  # fmt: skip
"""Keys of the state store."""
SETTING = "settings."


class ScadaWrites:
    """`writers` by metric; `report(metric, text)` shows the outcome of the last write in SCADA.

    `events` collects what is to be sent to the hub; the caller takes it.
    """

    def __init__(
        self,
        rules: list[WriteRule],
        switches: SwitchFile,
        store: StateStore,
        writers: Mapping[str, Writer],
        report: Callable[[str, str], None],
    ) -> None:
        self._store, self._writers, self._report, self._switches = store, writers, report, switches
        self._desk = WriteDesk({rule.metric: rule for rule in rules}, writers.keys())
        self._watched = {rule.metric for rule in rules}.union(*map(needed_metrics, rules))
        self._latest: dict[str, CurrentValue] = {}
        self._outcomes: dict[str, str] = store.get(OUTCOMES, {}, dict[str, str])
        self._stored_outcomes = dict(self._outcomes)
        self._enabled: set[str] = set(store.get(ENABLED, [], list[str]))
        self._unread = True
        self.events: list[Event] = []
        self._restore()

    @property
    def enabled(self) -> dict[str, int]:
        """Metrics that may be written now, and until when (UTC, microseconds)."""
        switches = self._switches.read()
        return {
            metric: switches[metric].until_us
            for metric in sorted(self._desk.rules)
            if self._switches.is_on(switches.get(metric))
        }

    @property
    def problem(self) -> str:
        """Why the switches cannot be read, or ''."""
        return self._switches.problem

    # -- what happens ----------------------------------------------------------------------------------

    def command(self, metric: str, shown: str, value: object, source: str) -> None:
        """A command for one metric; `metric` is '' for one that is not of the plant, called `shown` in SCADA."""
        request = Request(metric=metric or shown, value=value, source=source, shown=shown)
        enabled = metric in self._desk.rules and self._switches.enabled(metric)
        self._run(self._desk.request(request, enabled, self._latest, clock.now_us(), _boot_us()))

    def observe(self, metric: str, value: WriteValue | None, good: bool, t_us: int) -> None:
        """A sample of any metric of the device."""
        if metric in self._watched:
            self._latest[metric] = CurrentValue(value=value, t_us=t_us, good=good)
            self._run(self._desk.sample(metric, value, good))

    def tick(self) -> None:
        """Called once a second."""
        self._run(self._desk.tick(self._latest, _boot_us()))
        self._watch_switches()
        if self._outcomes != self._stored_outcomes:
            self._stored_outcomes = dict(self._outcomes)
            self._store.put(OUTCOMES, self._outcomes)
        if self._unread or self._store.changed("writes"):
            self._unread = False
            self._answer_trials()

    def trial(self, metric: str, value: object) -> dict[str, Any]:
        """Judge a write without carrying it out."""
        enabled = self._switches.enabled(metric)
        answer = self._desk.judge(metric, value, True, self._latest, clock.now_us(), _boot_us())
        result: dict[str, Any] = {"metric": metric, "enabled": enabled, "allowed": not isinstance(answer, Refused)}
        if isinstance(answer, Refused):
            return result | {"code": answer.code, "reason": answer.reason, "cure": answer.cure}
        return result | {"value": answer}

    # -- effects ---------------------------------------------------------------------------------------

    def _run(self, effects: list[WriteEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                self._start(effect)
            elif isinstance(effect, Outcome):
                self._record(effect)
            else:
                self._flooded(effect)

    def _start(self, start: Start) -> None:
        self._store.put(HISTORY, stored_history(self._desk.history, clock.now_us(), _boot_us()))
        on_done = partial(self._done, start)
        try:
            self._writers[start.metric].write(start.metric, start.value, on_done)
        except Exception as error:  # a plug-in may raise anything, and the write must have an outcome
            log.exception("sparkplug.writer_failed", extra={"fields": {"metric": start.metric}})
            on_done(f"the collector failed ({type(error).__name__})")

    def _done(self, start: Start, reason: str) -> None:
        self._run(self._desk.done(start.metric, start.number, reason[:500], _boot_us()))
        found = self._latest.get(start.metric)
        if start.metric.startswith(SETTING) and found is not None:  # a setting is in force before its write is done
            self._run(self._desk.sample(start.metric, found.value, found.good))

    def _record(self, outcome: Outcome) -> None:
        if not outcome.quiet:
            event = _event(outcome)
            log.warning("sparkplug.write", extra={"fields": event.fields})
            self.events.append(event)
        if outcome.metric in self._desk.rules:
            if outcome.state != "refused":
                self._store.put(UNDER_WAY, self._desk.under_way)
            self._outcomes[outcome.metric] = text = _text(outcome)
            self._report(outcome.metric, text)

    def _flooded(self, flood: Flood) -> None:
        done = f"{flood.dropped} commands were not even judged" if flood.dropped else "commands are being dropped"
        text = f"too many write commands from SCADA: {done}"
        self.events.append(Event(t_us=clock.now_us(), source="sparkplug", text=text, level="warning",
                                 fields={"actor": _actor(flood.source), "dropped": float(flood.dropped)}))  # fmt: skip

    def _restore(self) -> None:
        """Take over from before a restart: the rate limits, and writes whose outcome nobody will know."""
        times = self._store.get(HISTORY, {}, dict[str, list[int]])
        known = {metric: found for metric, found in times.items() if metric in self._desk.rules}
        self._desk.history.update(restored_history(known, clock.now_us(), _boot_us()))
        for metric, source in self._store.get(UNDER_WAY, {}, dict[str, str]).items():
            reason = "the agent was restarted before its outcome was known"
            self._record(Outcome(metric=metric, value="", source=source, state="failed", reason=reason))

    def _watch_switches(self) -> None:
        """Report what a person has switched on or off, or what has expired."""
        switches, now = self._switches.read(), self.enabled
        for metric in sorted(now.keys() ^ self._enabled):
            switch, on = switches.get(metric), metric in now
            fields: dict[str, str | float] = {"metric": metric, "actor": switch.by if switch else ""}
            if switch and switch.reason:
                fields["reason"] = switch.reason
            text = f"writes from SCADA to {metric} are {'enabled' if on else 'off again'}"
            self.events.append(Event(t_us=clock.now_us(), source="sparkplug", text=text, fields=fields))
        if now.keys() != self._enabled:
            self._enabled = set(now)
            self._store.put(ENABLED, sorted(now))

    def _answer_trials(self) -> None:
        for number, wanted in self._store.write_trials():
            found = wanted if isinstance(wanted, dict) else {}
            self._store.answer(number, self.trial(str(found.get("metric", "")), found.get("value")))


def _boot_us() -> int:
    return int(clock.boottime_s() * 1e6)


def _actor(source: str) -> str:
    """Who wrote. MQTT does not tell a receiver which client published: the broker's access list decides who may."""
    return f"scada {source}"


def _shown(value: object) -> str:
    """At most 200 characters that are safe to show; the hub's database refuses an event with NUL."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text[:200])


def _text(outcome: Outcome) -> str:
    return f"{outcome.state}: {_shown(outcome.value)[:60]}" + (f" ({outcome.reason})" if outcome.reason else "")


def _event(outcome: Outcome) -> Event:
    level: Level = "warning" if outcome.state in {"refused", "failed"} else "info"
    times = f", {outcome.repeated} more times" if outcome.state == "refused" and outcome.repeated > 1 else ""
    text = f"write to {outcome.metric} {_text(outcome)}{times}"
    fields: dict[str, str | float] = {
        "actor": _actor(outcome.source), "metric": outcome.metric, "value": _shown(outcome.value),
        "state": outcome.state, "code": outcome.code, "reason": outcome.reason, "count": float(outcome.repeated),
    }  # fmt: skip
    return Event(t_us=clock.now_us(), source="sparkplug", text=text[:1000], level=level, fields=fields)
