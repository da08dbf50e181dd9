"""What a birth defines: the names, aliases and datatypes of the metrics of one node or device, as a host keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from shared.sparkplug.datatypes import METRIC, DataType
from shared.sparkplug.decode import typed
from shared.sparkplug.payload import Invalid, Metric, Untyped
from shared.sparkplug.value_checks import misfit

MAX_PROBLEMS = 5
"""Problems of one message that are reported one by one."""


@dataclass(slots=True)
class Definitions:
    """`types` by name and by alias, as `decode` takes them; `names` by alias."""

    types: dict[str | int, DataType] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many metrics there are."""
        return len(self.types) - len(self.names)

    def alias_of(self, name: str) -> int | None:
        """The alias of a metric, if it has one."""
        return next((alias for alias, one in self.names.items() if one == name), None)


@dataclass(slots=True)
class Reading:
    """The metrics of a message that can be used, and what is wrong with the others.

    `unknown` is set if a metric is not in the birth, or only has an alias that cannot be trusted: a rebirth mends it.
    """

    metrics: list[Metric] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unknown: bool = False

    def problem(self, text: str) -> None:
        """Note a problem; many are counted as one."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("and more metrics like these")


def read_birth(metrics: Iterable[Metric]) -> tuple[Definitions, Reading]:
    """The definitions of a birth and its metrics. A value that breaks its datatype is null, and a problem."""
    defined, reading = Definitions(), Reading()
    for metric in metrics:
        if problem := _define(defined, metric):
            reading.problem(f"metric {_shown(metric)} {problem}")
        if metric.name is None or defined.types.get(metric.name) is not metric.datatype:
            continue
        if isinstance(metric.value, Invalid):
            reading.problem(f"metric {_shown(metric)}: {metric.value.reason}")
            metric = replace(metric, value=None)  # noqa: PLW2901
        reading.metrics.append(metric)
    return defined, reading


def _define(defined: Definitions, metric: Metric) -> str:
    """Add a metric; returns what is wrong with it, or ''. An alias that is used twice counts for the first."""
    name, datatype = metric.name, metric.datatype
    if name is None:
        return "has no name in the birth"
    if datatype is None or datatype not in METRIC:
        return "has no datatype of a metric in the birth"
    if defined.types.setdefault(name, datatype) is not datatype:
        return "is in the birth with two datatypes"
    alias = metric.alias
    if alias is not None:
        if defined.names.setdefault(alias, name) != name:
            return f"has alias {alias}, which another metric has"
        defined.types[alias] = datatype
    return ""


def read_data(defined: Definitions, metrics: Iterable[Metric], *, trust_aliases: bool) -> Reading:
    """The metrics of a DATA message with the names and datatypes of the birth. Each metric stands alone.

    A value that breaks its datatype is null, and a problem: the one before it is not the present one any more.
    """
    reading = Reading()
    for metric in metrics:
        name = metric.name
        if name is None and trust_aliases and metric.alias is not None:
            name = defined.names.get(metric.alias)
        known = defined.types.get(name) if name is not None else None
        if name is None or known is None:
            reading.unknown = True
            reading.problem(f"metric {_shown(metric)} was not in the birth, or its alias is not sure any more")
            continue
        one = _as_defined(metric, name, known)
        if isinstance(one, str):
            reading.problem(f"metric {_shown(metric)}: {one}")
            one = replace(metric, name=name, datatype=known, value=None)
        reading.metrics.append(one)
    return reading


def _as_defined(metric: Metric, name: str, known: DataType) -> Metric | str:
    """The metric with this name and datatype, or why its value does not fit."""
    value = metric.value
    if isinstance(value, Untyped):
        metric = typed(metric, known)
        value = metric.value
    if isinstance(value, Invalid):
        return value.reason
    if metric.datatype is not known:
        if problem := misfit(known, value):
            return problem
    elif metric.name is not None:
        return metric
    return replace(metric, name=name, datatype=known)


def _shown(metric: Metric) -> str:
    return ascii(metric.name)[:100] if metric.name is not None else f"with alias {metric.alias}"
