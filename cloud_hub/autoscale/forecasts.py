"""Forecasts for targets: a daily backtest decides whether one is used, and the past is kept in memory between.

One target is tested in a run, at most once a day, on at most `prediction.history_days` of minutes; so the cost is
bounded however many targets there are. The verdict, with its figures, is stored with the target.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from cloud_hub.audit import trail
from cloud_hub.autoscale.core.backtest import Report, backtest
from cloud_hub.autoscale.core.forecast import Analogs
from cloud_hub.autoscale.core.state import Outlook
from cloud_hub.autoscale.core.targets import SignalEntry
from cloud_hub.autoscale.history import Floats, minutes
from cloud_hub.autoscale.signals import SignalContext, SignalUnknown
from cloud_hub.autoscale.store import Observed
from cloud_hub.autoscale.targets_file import Target, TargetsInForce
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import ScaleTarget
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.worker import WorkResult
from shared.durations import DAY_US, MINUTE_US

log = logging.getLogger(__name__)

MOST_DAYS = 35.0
AGAIN_US = DAY_US
STEP_S = 60.0


@dataclass(slots=True)
class Past:
    """The minutes of a signal from `start_us` on; the present minute is the mean of what was read in it."""

    signal: str
    start_us: int
    values: Floats
    minute: int = -1
    total: float = 0.0
    count: int = 0

    def add(self, t_us: int, value: float) -> int:
        """Add a reading; returns the number of its minute, -1 if it lies outside."""
        minute = (t_us - self.start_us) // MINUTE_US
        if minute < 0 or minute > self.values.size + 2 * 24 * 60:
            return -1
        if minute >= self.values.size:
            self.values = np.concatenate([self.values, np.full(minute + 1 - self.values.size, np.nan)])
        if minute != self.minute:
            self.minute, self.total, self.count = minute, 0.0, 0
        self.total, self.count = self.total + value, self.count + 1
        self.values[minute] = self.total / self.count
        return minute


class Forecasts:
    """The pasts and verdicts of one hub's targets."""

    def __init__(self, db: Database, in_force: TargetsInForce, clock: Callable[[], int]) -> None:
        self._db, self._in_force, self._clock = db, in_force, clock
        self._context = SignalContext(db)
        self._lock = threading.Lock()
        self._pasts: dict[str, Past | None] = {}
        self._tested: dict[str, tuple[int, str]] = {}

    # -- the daily test ----------------------------------------------------------------------------------

    def run_once(self) -> WorkResult:
        """Test one target whose last verdict is a day old, or whose policy changed."""
        now = self._clock()
        items = WorkItems(self._db, "autoscale-backtests", now)
        due = [target for target in self._in_force.targets.values() if self._is_due(target, now)]
        for target in due:
            if items.due("target", target.name):
                self._tested[target.name] = (now, target.digest)
                items.run("target", target.name, partial(self.test, target))
                break
        return items.result(again=len(due) > 1)

    def _is_due(self, target: Target, now: int) -> bool:
        tested_us, digest = self._tested.get(target.name, (0, ""))
        changed = digest != target.digest
        return target.entry.prediction.mode != "never" and (changed or not 0 <= now - tested_us < AGAIN_US)

    def test(self, target: Target) -> Report:
        """Read the past, decide whether a forecast is used, and store the verdict."""
        signal, now = _predicted(target), self._clock()
        end = now // MINUTE_US * MINUTE_US
        start = end - int(min(target.entry.prediction.history_days, MOST_DAYS) * DAY_US) // MINUTE_US * MINUTE_US
        past: Past | None = None
        if signal is None:
            report = Report(enabled=False, reason="no signal is a load", days=0)
        else:
            try:
                values = minutes(signal.source, self._context, start, end)
            except SignalUnknown as error:
                report = Report(enabled=False, reason=str(error), days=0)
            else:
                report, past = self._verdict(target, signal, values, start)
        with self._lock:
            self._pasts[target.name] = past
        self._store(target, report, now)
        return report

    def _verdict(self, target: Target, signal: SignalEntry, values: Floats, start: int) -> tuple[Report, Past | None]:
        known = np.flatnonzero(np.isfinite(values))
        if not known.size:
            return Report(enabled=False, reason="its past holds no values", days=0), None
        values, start = values[known[0] :], start + int(known[0]) * MINUTE_US
        if target.entry.prediction.mode == "always":
            report = Report(enabled=True, reason="prediction.mode is always", days=int(values.size // 1440))
        else:
            report = backtest(target.entry.policy, signal, values, start, STEP_S)
        return report, Past(signal.name, start, values) if report.enabled else None

    def _store(self, target: Target, report: Report, now: int) -> None:
        verdict = msgspec.to_builtins(report) | {"t_us": now}
        with self._db.write() as session:
            row = session.get(ScaleTarget, target.name, with_for_update=True) or ScaleTarget(name=target.name)
            if bool(row.backtest.get("enabled")) != report.enabled:
                trail.add(session, now, "hub", "scale.prediction", target.name, enabled=report.enabled,
                          reason=report.reason)  # fmt: skip
            row.backtest = verdict
            session.add(row)
        fields = {"target": target.name, "enabled": report.enabled, "reason": report.reason}
        log.info("scale.backtest", extra={"fields": fields})

    # -- the forecast of now -----------------------------------------------------------------------------

    def outlook(self, target: Target, one: Observed, now: int) -> Outlook | None:
        """The forecast from the past and the present reading; None where prediction is off or nothing is known."""
        with self._lock:
            past = self._pasts.get(target.name)
            if past is None:
                return None
            reading = next((r for r in one.readings if r.signal == past.signal and r.value is not None), None)
            if reading is None or reading.value is None:
                return None
            index = past.add(reading.t_us, reading.value)
            values, start = past.values.copy(), past.start_us
        rule = next(signal for signal in target.entry.signals if signal.name == past.signal)
        if index < 0:
            return None
        found = Analogs(values, start, STEP_S, rule.per_instance).at(index, target.entry.boot_s, past.signal)
        return None if found is None else msgspec.structs.replace(found, t_us=reading.t_us)


def _predicted(target: Target) -> SignalEntry | None:
    """The signal that is forecast: the first load."""
    return next((signal for signal in target.entry.signals if signal.kind == "load"), None)
