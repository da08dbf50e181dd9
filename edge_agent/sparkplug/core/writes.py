"""Writes from SCADA: judged, started, read back, and reported. A state machine without I/O.

A write passes these checks in order: the command rate, the rule (`[[sparkplug.writable]]`), the local switch, another
write under way, the rule's bounds and conditions, and whether anything can carry it out. The caller then starts it and
reports `done`. The write is verified when a good sample of the metric, taken after that, is the written value.

Times: `now_us` is the wall clock, as in samples; `boot_us` a clock that is never set, for intervals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from shared.plant.write_rules import CurrentValue, Refused, WriteRule, WriteValue, is_verified, judge_write

State = Literal["refused", "started", "verified", "failed"]
BURST, PER_SECOND = 20, 10
"""Commands for metrics that are judged at once, and a second; more are dropped and counted."""
QUIET_US = 60_000_000
"""Equal refusals within this time are reported together, and so are dropped commands."""
MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command for one metric. `metric` is the agent's name, `shown` the name in SCADA; `source` the topic."""

    metric: str
    value: object
    source: str
    shown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Carry out this write now, then call `done` with `number`."""

    metric: str
    value: WriteValue
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a write. `repeated`: how many equal ones are reported by this one; `quiet`: one that is not
    reported by itself, because it will be in such a report.
    """

    metric: str
    value: object
    source: str
    state: State
    code: str = ""
    reason: str = ""
    repeated: int = 1
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """`dropped` commands were not even judged because there are too many; 0 when it begins."""

    dropped: int
    source: str


Effect = Start | Outcome | Flood


@dataclass(slots=True)
class _Open:
    """A write under way; `done` when the source has confirmed it, and its value is being read back."""

    request: Request
    value: WriteValue
    number: int
    until_us: int
    done: bool = False


@dataclass(slots=True)
class _Repeated:
    outcome: Outcome
    since_us: int
    count: int = 0


@dataclass(slots=True)
class WriteDesk:
    """`rules` by metric; `supported` are the metrics that something on this device can set."""

    rules: Mapping[str, WriteRule]
    supported: Collection[str]
    history: dict[str, deque[int]] = field(default_factory=dict)
    """Times of the writes that were started, by metric, on the boot clock."""
    _open: dict[str, _Open] = field(default_factory=dict)
    _refusals: dict[tuple[str, str], _Repeated] = field(default_factory=dict)
    _number: int = 0
    _tokens: float = BURST
    _filled_us: int = 0
    _flood: Flood | None = None
    _flood_until_us: int = 0

    @property
    def under_way(self) -> dict[str, str]:
        """Sources of the writes under way, by metric."""
        return {metric: found.request.source for metric, found in self._open.items()}

    def judge(
        self, metric: str, value: object, enabled: bool, current: Mapping[str, CurrentValue], now_us: int, boot_us: int
    ) -> WriteValue | Refused:
        """The value that would be written, or why not. Changes nothing."""
        rule = self.rules.get(metric)
        if rule is None:
            cure = "Declare it as [[sparkplug.writable]] in the agent's configuration, if it may be written"
            return Refused("undeclared", f"{metric} is not declared writable", cure)
        if not enabled:
            cure = f"On the device: tidegate-edge write enable {metric} --for 8h"
            return Refused("disabled", f"writes to {metric} are not enabled on this device", cure)
        if metric in self._open:
            return Refused("busy", f"another write to {metric} is under way", "Wait for its outcome")
        past = [now_us - (boot_us - t_us) for t_us in self.history.get(metric, ())]
        answer = judge_write(rule, value, current, past, now_us)
        if isinstance(answer, Refused):
            return answer
        if metric not in self.supported:
            return Refused("unsupported", f"no collector can set {metric}", "Use one that writes, such as modbus")
        return answer.value

    def request(
        self, request: Request, enabled: bool, current: Mapping[str, CurrentValue], now_us: int, boot_us: int
    ) -> list[Effect]:
        """A host wants to set a metric."""
        if not self._allowed(boot_us):
            return self._drop(request, boot_us)
        answer = self.judge(request.metric, request.value, enabled, current, now_us, boot_us)
        if isinstance(answer, Refused):
            outcome = _outcome(request, request.value, "refused", str(answer), answer.code)
            return self._refuse(outcome, boot_us)
        rule = self.rules[request.metric]
        self._number += 1
        self._open[request.metric] = _Open(request, answer, self._number, boot_us + int(rule.verify_s * 1e6))
        self._remember(rule, boot_us)
        return [
            _outcome(request, answer, "started"),
            Start(metric=request.metric, value=answer, number=self._number),
        ]

    def done(self, metric: str, number: int, reason: str, boot_us: int) -> list[Effect]:
        """The source has carried out a write, or `reason` says why not. A late answer is ignored."""
        found = self._open.get(metric)
        if found is None or found.number != number or found.done:
            return []
        if reason:
            return self._end(metric, "failed", reason)
        found.done = True
        found.until_us = boot_us + int(self.rules[metric].verify_s * 1e6)
        return []

    def sample(self, metric: str, value: WriteValue | None, good: bool) -> list[Effect]:
        """A new sample of a metric; only one that comes after `done` can verify a write."""
        found = self._open.get(metric)
        if found is None or not found.done or not good or not is_verified(self.rules[metric], found.value, value):
            return []
        return self._end(metric, "verified")

    def tick(self, current: Mapping[str, CurrentValue], boot_us: int) -> list[Effect]:
        """End the writes whose time is over, and report what was held back. Called about once a second."""
        effects: list[Effect] = []
        for metric in [metric for metric, found in self._open.items() if found.until_us <= boot_us]:
            effects += self._expired(metric, current.get(metric))
        return effects + self._summaries(boot_us) + self._flood_over(boot_us)

    # -- ends ----------------------------------------------------------------------------------------

    def _expired(self, metric: str, last: CurrentValue | None) -> list[Effect]:
        """A value that did not change gives no new sample where sources report changes only: the last one counts."""
        found, rule = self._open[metric], self.rules[metric]
        if not found.done:
            return self._end(metric, "failed", f"no answer within {rule.verify_s:g} s; the write may still happen")
        if last is not None and last.good and is_verified(rule, found.value, last.value):
            return self._end(metric, "verified")
        seen = "nothing good" if last is None or not last.good else str(last.value)
        return self._end(metric, "failed", f"read back {seen} within {rule.verify_s:g} s, not {found.value}")

    def _end(self, metric: str, state: State, reason: str = "") -> list[Effect]:
        found = self._open.pop(metric)
        return [_outcome(found.request, found.value, state, reason)]

    def _remember(self, rule: WriteRule, boot_us: int) -> None:
        times = self.history.setdefault(rule.metric, deque())
        times.append(boot_us)
        while len(times) > rule.per_minute:  # older ones cannot matter to the rule
            times.popleft()

    # -- what is reported together -------------------------------------------------------------------

    def _refuse(self, outcome: Outcome, boot_us: int) -> list[Effect]:
        key = (outcome.metric, outcome.code)
        earlier = self._refusals.get(key)
        if earlier is not None:
            earlier.count += 1
            earlier.outcome = outcome
            return [replace(outcome, quiet=True)]
        if len(self._refusals) < MAX_REMEMBERED:
            self._refusals[key] = _Repeated(outcome, boot_us)
        return [outcome]

    def _summaries(self, boot_us: int) -> list[Effect]:
        old = [key for key, found in self._refusals.items() if boot_us - found.since_us >= QUIET_US]
        ended = [self._refusals.pop(key) for key in old]
        return [replace(found.outcome, repeated=found.count) for found in ended if found.count]

    def _allowed(self, boot_us: int) -> bool:
        """Token bucket over all commands."""
        gained = max(0, boot_us - self._filled_us) * PER_SECOND / 1e6
        self._tokens, self._filled_us = min(float(BURST), self._tokens + gained), boot_us
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _drop(self, request: Request, boot_us: int) -> list[Effect]:
        first = self._flood is None
        self._flood = Flood(dropped=(self._flood.dropped if self._flood else 0) + 1, source=request.source)
        self._flood_until_us = boot_us + QUIET_US
        return [Flood(dropped=0, source=request.source)] if first else []

    def _flood_over(self, boot_us: int) -> list[Effect]:
        if self._flood is None or boot_us < self._flood_until_us:
            return []
        ended, self._flood = self._flood, None
        return [ended]


def restored_history(times_us: Mapping[str, Iterable[int]], now_us: int, boot_us: int) -> dict[str, deque[int]]:
    """The history from stored wall-clock times; a time in the future counts as now."""
    return {
        metric: deque(sorted(boot_us - max(0, now_us - t_us) for t_us in times)) for metric, times in times_us.items()
    }


def stored_history(history: Mapping[str, Iterable[int]], now_us: int, boot_us: int) -> dict[str, list[int]]:
    """The history as wall-clock times, to be stored."""
    return {metric: [now_us - (boot_us - t_us) for t_us in times] for metric, times in history.items()}


def _outcome(request: Request, value: object, state: State, reason: str = "", code: str = "") -> Outcome:
    return Outcome(
        metric=request.metric, value=value, source=request.source, state=state, reason=reason, code=code
    )  # fmt: skip
