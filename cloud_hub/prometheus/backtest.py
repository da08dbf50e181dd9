"""What the present fixed limits of a Prometheus gave over its past, and what ours would have given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from cloud_hub.prometheus import comparison, promql
from cloud_hub.prometheus.client import Client, PrometheusError
from cloud_hub.prometheus.comparison import Comparison, Raised
from cloud_hub.prometheus.series import Labels, Rule, Series
from cloud_hub.thresholds import hindsight

FIRING = 'ALERTS{alertstate="firing"}'
COUNTERS = {"counter", "histogram", "summary"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLimit:
    """A limit as written on the command line: `query sign number`, for at least `for_s` seconds."""

    compared: promql.Compared
    for_s: float = 0.0

    @property
    def name(self) -> str:
        """As a person wrote it."""
        return f"{self.compared.query} {self.compared.sign} {self.compared.number:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to compare: start_us..end_us at `step_s`, the first `train_days` of it for learning alone.

    Without `queries` the series are those that limits and rules compare with a number. `replay` works rules'
    expressions out anew where it would read the recorded history of their alerts.
    """

    start_us: int
    end_us: int
    step_s: int
    train_days: float
    gap_s: float = 600.0
    queries: tuple[str, ...] = ()
    limits: tuple[FixedLimit, ...] = ()
    rules: bool = True
    replay: bool = False
    max_series: int = 500


@dataclass(slots=True, kw_only=True)
class Report:
    """The comparison, how much it stands on, and what a reader must know about it."""

    comparison: Comparison
    series: int
    points: int
    devices: int
    queries: list[str]
    notes: list[str]


@dataclass(slots=True)
class _Study:
    client: Client
    wanted: Wanted
    tell: Callable[[str], None]
    alarms: list[Raised] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)
    series: int = 0
    points: int = 0

    def fetch(self, query: str) -> list[Series]:
        want = self.wanted
        return self.client.query_range(query, want.start_us, want.end_us, want.step_s)

    # -- ours ------------------------------------------------------------------------------------------

    def judge(self, query: str) -> None:
        """Ours on every series of a query; a counter is judged by its rate."""
        asked = self._as_rate(query)
        found = self.fetch(asked)
        if not found:
            self.notes.append(f"no series: {query}")
        if self.series + len(found) > self.wanted.max_series:
            cure = "Ask for less with --query, or allow more with --max-series"
            raise PrometheusError(f"{self.series + len(found)} series and more are too many. {cure}")
        for one in found:
            self.tell(f"judging {self.series + 1}: {asked[:60]}")
            self._judge(query, one)

    def _judge(self, query: str, one: Series) -> None:
        seen = hindsight.look("prometheus", one.t_us, one.values, train_days=self.wanted.train_days)
        self.series, self.points = self.series + 1, self.points + len(one.t_us)
        device = comparison.device_of(one.labels)
        self.devices.add(device)
        end_us = int(one.t_us[-1]) + self.wanted.step_s * 1_000_000
        self.alarms += [
            Raised(side="ours", device=device, what=f"{name_of(query, one.labels)} {episode.kind}",
                   start_us=episode.start_us, end_us=episode.end_us or end_us)
            for episode in seen.episodes
        ]  # fmt: skip

    def _as_rate(self, query: str) -> str:
        name = promql.selected(query)
        if not name or not (promql.counter_like(query) or self.client.kind(name) in COUNTERS):
            return query
        self.notes.append(f"a counter, judged by its rate: {query}")
        return f"rate({query}[{max(300, 2 * self.wanted.step_s)}s])"

    # -- fixed -----------------------------------------------------------------------------------------

    def limit(self, limit: FixedLimit) -> None:
        """A fixed limit of the command line on each series of its query."""
        for one in self.fetch(limit.compared.query):
            spans = comparison.crossings(
                one, limit.compared.sign, limit.compared.number, self.wanted.step_s, limit.for_s
            )
            self._fixed(comparison.device_of(one.labels), limit.name, spans)

    def recorded(self, rules: Iterable[Rule]) -> set[str]:
        """Alerts that Prometheus recorded as firing; returns the names of rules that have any history."""
        known = list(rules)
        found: set[str] = set()
        for one in self.fetch(f"max_over_time({FIRING}[{self.wanted.step_s}s])"):
            rule = next((rule for rule in known if rule.made(one.labels)), None)
            if rule is not None:
                found.add(rule.name)
                spans = comparison.runs(one.t_us, one.values > 0, self.wanted.step_s, 0.0)
                self._fixed(comparison.alert_device(one.labels, rule), rule.name, spans)
        return found

    def replayed(self, rule: Rule) -> None:
        """A rule's expression, worked out by the server at each step: it has a value where it holds."""
        for one in self.fetch(rule.query):
            spans = comparison.runs(one.t_us, one.t_us > 0, self.wanted.step_s, rule.for_s)
            self._fixed(comparison.device_of(one.labels), rule.name, spans)

    def _fixed(self, device: str, what: str, spans: Iterable[tuple[int, int]]) -> None:
        self.alarms += [
            Raised(side="fixed", device=device, what=what, start_us=start, end_us=end) for start, end in spans
        ]


def run(client: Client, wanted: Wanted, tell: Callable[[str], None] = lambda text: None) -> Report:
    """Ask, judge, compare. Raises PrometheusError, also when there is nothing to judge."""
    study = _Study(client, wanted, tell)
    rules = _judgeable(study, client.rules()) if wanted.rules else []
    queries = list(wanted.queries) or list(dict.fromkeys(_series_of(wanted.limits, rules)))
    if not queries:
        raise PrometheusError("no rule compares a series with a number. Name series with --query or --limit")
    for query in queries:
        study.judge(query)
    if not study.series:
        raise PrometheusError(f"none of {len(queries)} queries gives a series in this time. Check --query and --days")
    for limit in wanted.limits:
        study.limit(limit)
    _rules(study, rules)
    if wanted.queries:  # rules on what was not asked for would only stand on one side
        study.alarms = [one for one in study.alarms if one.device in study.devices]
    from_us = wanted.start_us + int(wanted.train_days * 86_400_000_000)
    return Report(
        comparison=comparison.compare(study.alarms, from_us, int(wanted.gap_s * 1e6)),
        series=study.series, points=study.points, devices=len(study.devices), queries=queries, notes=study.notes,
    )  # fmt: skip


def _judgeable(study: _Study, rules: list[Rule]) -> list[Rule]:
    """Rules that compare a series with a number; the others stand on neither side, and are named."""
    for rule in rules:
        if not promql.compared(rule.query):
            study.notes.append(f"left out, it compares no series with a number: rule {rule.name}")
    return [rule for rule in rules if promql.compared(rule.query)]


def _series_of(limits: Iterable[FixedLimit], rules: Iterable[Rule]) -> Iterator[str]:
    for limit in limits:
        yield limit.compared.query
    for rule in rules:
        for one in promql.compared(rule.query):
            yield one.query


def _rules(study: _Study, rules: list[Rule]) -> None:
    known = study.recorded(rules) if rules and not study.wanted.replay else set()
    for rule in rules:
        if rule.name not in known:
            if not study.wanted.replay:
                study.notes.append(f"no recorded alerts, its expression was worked out anew: rule {rule.name}")
            study.replayed(rule)


def name_of(query: str, labels: Labels) -> str:
    """A series for a person: its name (or the query) and the labels that tell it from others of its device."""
    left = {key: value for key, value in labels.items() if key not in {"__name__", "instance", "job"}}
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(left.items()))
    head = labels.get("__name__", query)
    return f"{head}{{{inner}}}" if inner else head
