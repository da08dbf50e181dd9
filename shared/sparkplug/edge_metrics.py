"""Definitions and current values of the metrics of one edge node and its devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from shared.sparkplug.datatypes import METRIC, DataType, check
from shared.sparkplug.payload import BD_SEQ, REBIRTH, Metric, Template, Value

NODE = ""
"""In place of a device id: the node itself."""
RESERVED = frozenset({BD_SEQ, REBIRTH})
"""Metrics of the node that the session makes."""


class EdgeMetrics:
    """What the node may report, and what it reported last. With `aliases` each metric has a number of its own.

    A metric keeps its alias as long as the process lives, also over a new definition of its device.
    """

    def __init__(self, *, aliases: bool) -> None:
        self._use_aliases = aliases
        self._alias: dict[tuple[str, str], int] = {}
        self._of_alias: dict[int, tuple[str, str]] = {}
        self._metrics: dict[str, dict[str, Metric]] = {NODE: {}}
        self._dead: set[str] = set()

    @property
    def alive(self) -> list[str]:
        """Devices that are alive, in the order of their definition."""
        return [one for one in self._metrics if one and one not in self._dead]

    def is_alive(self, device: str) -> bool:
        """Whether the device (or the node, NODE) is defined and alive."""
        return device in self._metrics and device not in self._dead

    def define(self, device: str, metrics: Sequence[Metric]) -> bool:
        """Replace the definition; returns whether anything differs. Raises ValueError that names the metric."""
        table: dict[str, Metric] = {}
        for metric in metrics:
            name = _checked(metric, device)
            if name in table:
                raise ValueError(f"metric '{name}' is defined twice; leave one out")
            table[name] = replace(metric, alias=self.alias(device, name))
        changed = not self.is_alive(device) or self._metrics[device] != table
        self._metrics[device] = table
        self._dead.discard(device)
        return changed

    def died(self, device: str) -> bool:
        """The device is not alive any more; returns whether it was."""
        if not device or not self.is_alive(device):
            return False
        self._dead.add(device)
        return True

    def alias(self, device: str, name: str) -> int | None:
        """The alias of a metric, None without aliases. `Node Control/Rebirth` never has one."""
        if not self._use_aliases or (device == NODE and name == REBIRTH):
            return None
        key = (device, name)
        if key not in self._alias:
            self._alias[key] = number = len(self._alias)
            self._of_alias[number] = key
        return self._alias[key]

    def birth(self, device: str, now_ms: int) -> tuple[Metric, ...]:
        """All metrics with their current values in chronological order, as a birth must list them; `now_ms` is the
        timestamp of those that never had one.
        """
        dated = (
            metric if metric.timestamp is not None else replace(metric, timestamp=now_ms)
            for metric in self._metrics[device].values()
        )
        return tuple(sorted(dated, key=time_of))

    def updates(self, device: str, metrics: Iterable[Metric], now_ms: int) -> list[Metric]:
        """`metrics` as a DATA message has them: with datatype, timestamp and alias, those that are current in
        chronological order. Raises ValueError for what is not defined or does not fit.
        """
        table = self._metrics.get(device)
        if table is None:
            raise ValueError(f"device '{device}' is not defined; call set_device first")
        return sorted((self._update(table, device, one, now_ms) for one in metrics), key=time_of)

    def _update(self, table: dict[str, Metric], device: str, metric: Metric, now_ms: int) -> Metric:
        name = metric.name or ""
        known = table.get(name)
        if known is None or known.datatype is None:
            raise ValueError(f"metric '{name}' of {device or 'the node'} is not defined; define it before data")
        _check_value(name, known.datatype, metric.value)
        at = now_ms if metric.timestamp is None else metric.timestamp
        return replace(metric, alias=known.alias, datatype=known.datatype, timestamp=at)

    def keep(self, device: str, updates: Iterable[Metric]) -> None:
        """Make what `updates` returned the current values; historical metrics and transient flags leave no trace."""
        table = self._metrics[device]
        for one in updates:
            if not one.is_historical:
                known = table[one.name or ""]
                properties = {**(known.properties or {}), **one.properties} if one.properties else known.properties
                table[one.name or ""] = replace(
                    known,
                    value=_current(known.value, one.value),
                    timestamp=one.timestamp,
                    properties=properties,
                    metadata=one.metadata,
                )

    def find(self, device: str, metric: Metric) -> Metric | None:
        """The definition that a metric of a command means, by name or by alias; None if there is none."""
        name = metric.name
        if name is None and metric.alias is not None:
            of_device, name = self._of_alias.get(metric.alias, (None, None))
            if of_device != device:
                return None
        return self._metrics.get(device, {}).get(name) if name is not None else None


def _checked(metric: Metric, device: str) -> str:
    """The metric's name, if it may be defined."""
    if not metric.name:
        raise ValueError("a metric has no name; a birth needs one for each metric")
    if device == NODE and metric.name in RESERVED:
        raise ValueError(f"metric '{metric.name}' is made by the session; leave it out")
    if metric.datatype is None or metric.datatype not in METRIC:
        raise ValueError(f"metric '{metric.name}' has no datatype of a metric; set one")
    _check_value(metric.name, metric.datatype, metric.value)
    return metric.name


def _check_value(name: str, datatype: DataType, value: object) -> None:
    try:
        check(datatype, value)
    except ValueError as error:
        raise ValueError(f"metric '{name}': {error}") from None


def _current(before: Value, value: Value) -> Value:
    """The current value after a new one: an instance of a template may bring only the members that changed, and the
    next birth must have all of them.
    """
    if not isinstance(before, Template) or not isinstance(value, Template):
        return value
    members = {one.name: one for one in (*before.metrics, *value.metrics)}
    parameters = {one.name: one for one in (*before.parameters, *value.parameters)}
    return replace(value, metrics=tuple(members.values()), parameters=tuple(parameters.values()))


def time_of(metric: Metric) -> int:
    """The timestamp as a sort key."""
    return metric.timestamp or 0
