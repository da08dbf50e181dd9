"""Backtest on a Prometheus: compares past alarms of its fixed limits with those that Tidegate would have raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from cloud_hub.prometheus.client import Client, PrometheusError
from cloud_hub.prometheus.core import promql
from cloud_hub.prometheus.core.series import Labels, Rule, Series
from cloud_hub.thresholds.backtest.core import comparison, walk_forward
from cloud_hub.thresholds.backtest.core.comparison import Comparison, RaisedAlarm
from shared.durations import DAY_US

FIRING = 'ALERTS{alertstate="firing"}'
COUNTERS = {"counter", "histogram", "summary"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLimit:
    """A limit as written on the command line: `query sign number`, for at least `for_s` seconds."""

    compared: promql.Comparison
    for_s: float = 0.0

    @property
    def name(self) -> str:
        """The limit as text, such as `up < 1`."""
        return f"{self.compared.query} {self.compared.sign} {self.compared.number:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestRequest:
    """Parameters of the comparison over start_us..end_us, of which the first `train_days` are for training only.

    Tidegate judges a point each `step_s`; fixed limits are evaluated each `fixed_step_s` seconds, as a server would.
    All series together have a budget of `pages_per_shift` alarms in 12 hours. Without `queries` the series are those
    that limits and rules compare with a number. `replay` evaluates the rules' expressions instead of reading the
    recorded history of their alerts.
    """

    start_us: int
    end_us: int
    step_s: int
    fixed_step_s: int
    train_days: float
    pages_per_shift: float = 2.0
    gap_s: float = 600.0
    queries: tuple[str, ...] = ()
    limits: tuple[FixedLimit, ...] = ()
    rules: bool = True
    replay: bool = False
    max_series: int = 500


@dataclass(slots=True, kw_only=True)
class Report:
    """The comparison, the amount of data it is based on, and notes for the reader."""

    comparison: Comparison
    series: int
    points: int
    devices: int
    queries: list[str]
    notes: list[str]


@dataclass(slots=True)
class _Study:
    client: Client
    wanted: BacktestRequest
    progress: Callable[[str], None]
    judged: list[tuple[str, Series]] = field(default_factory=list)
    alarms: list[RaisedAlarm] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)

    @property
    def from_us(self) -> int:
        """The end of training; alarms of both sides count from here."""
        return self.wanted.start_us + int(self.wanted.train_days * DAY_US)

    def fetch(self, query: str, step_s: int) -> list[Series]:
        """The series of a query over the whole time."""
        self.progress(f"query: {query[:80]}")
        return self.client.query_range(query, self.wanted.start_us, self.wanted.end_us, step_s)

    # -- learned --------------------------------------------------------------------------------------

    def gather(self, query: str) -> None:
        """Fetch the series of a query for the learned thresholds; a counter is judged by its rate."""
        found = self.fetch(self._as_rate(query), self.wanted.step_s)
        if not found:
            self.notes.append(f"no series: {query}")
        self.judged += [(query, one) for one in found]
        if len(self.judged) > self.wanted.max_series:
            hint = "Select fewer with --query, or allow more with --max-series"
            raise PrometheusError(f"{len(self.judged)} series or more are too many. {hint}")

    def judge(self) -> None:
        """Judge all fetched series together, because they share one budget of pages."""
        self.progress(f"judging {len(self.judged)} series")
        samples = [(one.t_us, one.values) for _, one in self.judged]
        found = walk_forward.alarms(samples, self.from_us, self.wanted.pages_per_shift)
        for (query, one), mine in zip(self.judged, found, strict=True):
            device, name = comparison.device_of(one.labels), name_of(query, one.labels)
            self.devices.add(device)
            self.alarms += [
                RaisedAlarm(side="ours", device=device, what=f"{name} ({alarm.score:.1f})", start_us=alarm.start_us,
                       end_us=alarm.end_us or self.wanted.end_us)
                for alarm in mine
            ]  # fmt: skip

    def _as_rate(self, query: str) -> str:
        name = promql.selector_name(query)
        if not name or not (promql.counter_name(query) or self.client.kind(name) in COUNTERS):
            return query
        self.notes.append(f"a counter, judged by its rate: {query}")
        return f"rate({query}[{max(300, 2 * self.wanted.step_s)}s])"

    # -- fixed -----------------------------------------------------------------------------------------

    def limit(self, limit: FixedLimit) -> None:
        """Evaluate a fixed limit of the command line on each series of its query."""
        step_s = self.wanted.fixed_step_s
        for one in self.fetch(limit.compared.query, step_s):
            spans = comparison.crossings(one, limit.compared.sign, limit.compared.number, step_s, limit.for_s)
            self._fixed(comparison.device_of(one.labels), limit.name, spans)

    def recorded(self, rules: Iterable[Rule]) -> set[str]:
        """Alerts that Prometheus recorded as firing; returns the names of rules that have any history."""
        known = list(rules)
        found: set[str] = set()
        step_s = self.wanted.fixed_step_s
        # A rule is evaluated once per interval; in between, the alert is still firing.
        window_s = max([step_s, *(round(rule.interval_s) for rule in known)])
        for one in self.fetch(f"max_over_time({FIRING}[{window_s}s])", step_s):
            rule = next((rule for rule in known if rule.matches_alert(one.labels)), None)
            if rule is not None:
                found.add(rule.name)
                spans = comparison.runs(one.t_us, one.values > 0, step_s, 0.0)
                self._fixed(comparison.alert_device(one.labels, rule), rule.name, spans)
        return found

    def replayed(self, rule: Rule) -> None:
        """Let the server evaluate a rule's expression at each step; it has a value where the rule fires."""
        for one in self.fetch(rule.query, self.wanted.fixed_step_s):
            spans = comparison.runs(one.t_us, one.t_us > 0, self.wanted.fixed_step_s, rule.for_s)
            self._fixed(comparison.device_of(one.labels), rule.name, spans)

    def _fixed(self, device: str, what: str, spans: Iterable[tuple[int, int]]) -> None:
        self.alarms += [
            RaisedAlarm(side="fixed", device=device, what=what, start_us=start, end_us=end) for start, end in spans
        ]


def run(client: Client, wanted: BacktestRequest, progress: Callable[[str], None] = lambda text: None) -> Report:
    """Query the server, judge and compare. Raises PrometheusError, also when there is nothing to judge."""
    study = _Study(client, wanted, progress)
    rules = _judgeable(study, client.rules()) if wanted.rules else []
    queries = list(wanted.queries) or list(dict.fromkeys(_series_of(wanted.limits, rules)))
    if not queries:
        raise PrometheusError("no rule compares a series with a number. Name series with --query or --limit")
    for query in queries:
        study.gather(query)
    if not study.judged:
        raise PrometheusError(f"none of {len(queries)} queries gives a series in this time. Check --query and --days")
    study.judge()
    for limit in wanted.limits:
        study.limit(limit)
    _rules(study, rules)
    if wanted.queries:  # rules on series that were not queried would count on one side only
        study.alarms = [one for one in study.alarms if one.device in study.devices]
    return Report(
        comparison=comparison.compare(study.alarms, study.from_us, int(wanted.gap_s * 1e6)),
        series=len(study.judged), points=sum(len(one.t_us) for _, one in study.judged), devices=len(study.devices),
        queries=queries, notes=study.notes,
    )  # fmt: skip


def _judgeable(study: _Study, rules: list[Rule]) -> list[Rule]:
    """The rules that compare a series with a number; the others are left out and listed in the notes."""
    for rule in rules:
        if not promql.find_comparisons(rule.query):
            study.notes.append(f"left out, it compares no series with a number: rule {rule.name}")
    return [rule for rule in rules if promql.find_comparisons(rule.query)]


def _series_of(limits: Iterable[FixedLimit], rules: Iterable[Rule]) -> Iterator[str]:
    for limit in limits:
        yield limit.compared.query
    for rule in rules:
        for one in promql.find_comparisons(rule.query):
            yield one.query


def _rules(study: _Study, rules: list[Rule]) -> None:
    known = study.recorded(rules) if rules and not study.wanted.replay else set()
    for rule in rules:
        if rule.name not in known:
            if not study.wanted.replay:
                study.notes.append(f"no recorded alerts, its expression was evaluated instead: rule {rule.name}")
            study.replayed(rule)


def name_of(query: str, labels: Labels) -> str:
    """The display name of a series: its name (or the query) and the labels other than those of its device."""
    left = {key: value for key, value in labels.items() if key not in {"__name__", "instance", "job"}}
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(left.items()))
    head = labels.get("__name__", query)
    return f"{head}{{{inner}}}" if inner else head
