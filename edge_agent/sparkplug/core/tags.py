"""All metrics of the edge node: their definitions for births, their current values, and the changes to send.

A metric keeps its datatype, with one exception: one that was declared numeric and then gives text becomes a String
once, with a new birth. The number of metrics is bounded; what does not fit, or has the name of another, is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from edge_agent.sparkplug.core.naming import Place, name_problem
from edge_agent.sparkplug.core.reporting import Deadband, Point, Value, is_due
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.payload import BAD, GOOD, QUALITY, STALE, Metric, Property

MAX_TAGS = 10_000
MAX_TEXT = 4096
"""Characters of a text value; longer ones are cut."""
NO_DEADBAND = Deadband()
QUALITY_CODES: Mapping[str, int] = {"good": GOOD, "uncertain": STALE, "bad": BAD}
"""Sparkplug knows no `uncertain`: it is sent as STALE, so that nobody takes it for a good value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagDefinition:
    """Definition of a metric; `unit`, `low` and `high` become properties. `own`: named by the agent, not a template."""

    place: Place
    datatype: DataType = DataType.Double
    unit: str = ""
    low: float | None = None
    high: float | None = None
    band: Deadband = NO_DEADBAND
    own: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A point of a metric to send."""

    place: Place
    point: Point
    show_quality: bool


@dataclass(slots=True)
class _Tag:
    definition: TagDefinition
    current: Point
    sent: Point | None = None


@dataclass(slots=True)
class TagTable:
    """Metrics by a key of the caller. `redefined` are the devices whose definitions have changed; '' is the node."""

    redefined: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    """Keys that are not published, and why; at most 100."""
    left_out: int = 0
    _tags: dict[str, _Tag] = field(default_factory=dict)
    _keys: dict[Place, str] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self._tags

    def __len__(self) -> int:
        return len(self._tags)

    @property
    def devices(self) -> set[str]:
        """Devices that have a metric; '' is the node."""
        return {place.device for place in self._keys}

    def is_lost(self, device: str) -> bool:
        """Whether all metrics of the device that have a source are bad: nothing reaches the device any more."""
        of_source = [
            one for one in self._tags.values() if one.definition.place.device == device and not one.definition.own
        ]
        return bool(of_source) and all(one.current.quality == BAD for one in of_source)

    def key(self, place: Place) -> str | None:
        """The key of the metric at `place`."""
        return self._keys.get(place)

    def define(self, key: str, wanted: TagDefinition, t_ms: int) -> bool:
        """Define a metric, or change its definition; False if it cannot be published (see `problems`)."""
        tag = self._tags.get(key)
        if tag is not None:
            if tag.definition.datatype is DataType.String:  # also if it only became one
                wanted = replace(wanted, datatype=DataType.String)
            if tag.definition != wanted and tag.definition.place == wanted.place:
                tag.definition = wanted
                self.redefined.add(wanted.place.device)
            return True
        if reason := self._refusal(wanted):
            self._leave_out(key, reason)
            return False
        self._tags[key] = _Tag(wanted, Point(None, STALE, t_ms))
        self._keys[wanted.place] = key
        self.redefined.add(wanted.place.device)
        return True

    def update(self, key: str, value: Value, quality: int, t_ms: int) -> Change | None:
        """Set the current value; returns the change to send, None if it is not due."""
        tag = self._tags.get(key)
        if tag is None:
            return None
        point = Point(self._converted(tag, value), quality, t_ms)
        tag.current = point
        if not is_due(tag.sent, point, tag.definition.band):
            return None
        show = quality != GOOD or tag.sent is None or tag.sent.quality != quality
        tag.sent = point
        return Change(tag.definition.place, point, show)

    def fitted(self, change: Change) -> Change | None:
        """A stored change as one of the metric's present datatype; None if the metric is no more, or the value odd."""
        tag = self._tags.get(self._keys.get(change.place, ""))
        if tag is None:
            return None
        point = change.point
        if isinstance(point.value, str) and tag.definition.datatype is not DataType.String:
            return None
        return Change(change.place, Point(self._converted(tag, point.value), point.quality, point.t_ms), True)

    def current(self, key: str) -> Point | None:
        """The current value of a metric."""
        tag = self._tags.get(key)
        return None if tag is None else tag.current

    def definitions(self, device: str) -> list[Metric]:
        """The metrics of a device with their current values, for its birth."""
        return [_birth_metric(tag) for tag in self._tags.values() if tag.definition.place.device == device]

    def _refusal(self, wanted: TagDefinition) -> str:
        if len(self._tags) >= MAX_TAGS:
            return f"there are already {MAX_TAGS} metrics"
        if (other := self._keys.get(wanted.place)) is not None:
            return f"its name '{wanted.place.name}' is that of '{other}'"
        return "" if wanted.own else name_problem(wanted.place.name)

    def _leave_out(self, key: str, reason: str) -> None:
        if key not in self.problems:
            self.left_out += 1
            if len(self.problems) < 100:
                self.problems[key] = reason

    def _converted(self, tag: _Tag, value: Value) -> Value:
        """`value` as a value of the metric's datatype."""
        datatype = tag.definition.datatype
        if isinstance(value, str) and datatype is not DataType.String:
            datatype = self._become_text(tag)
        if value is None:
            return None
        if datatype is DataType.String:
            return _text(value)
        if datatype is DataType.Boolean:
            return bool(value)
        return int(value) if datatype is DataType.Int32 else float(value)

    def _become_text(self, tag: _Tag) -> DataType:
        was = tag.definition
        tag.definition = TagDefinition(place=was.place, datatype=DataType.String, unit=was.unit, own=was.own)
        self.redefined.add(was.place.device)
        return DataType.String


def data_metrics(changes: Iterable[Change], *, historical: bool = False) -> list[Metric]:
    """The metrics of one DATA message, in chronological order as the specification demands."""
    ordered = sorted(changes, key=lambda change: change.point.t_ms)
    return [
        Metric(
            name=change.place.name, timestamp=change.point.t_ms, value=change.point.value, is_historical=historical,
            properties=_quality(change.point.quality) if change.show_quality else None,
        )
        for change in ordered
    ]  # fmt: skip


def _text(value: float | str | bool) -> str:
    """At most MAX_TEXT characters that UTF-8 can encode."""
    text = value if isinstance(value, str) else f"{value:g}"
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def _quality(code: int) -> dict[str, Property]:
    return {QUALITY: Property(DataType.Int32, code)}


def _birth_metric(tag: _Tag) -> Metric:
    definition, point = tag.definition, tag.current
    properties = _quality(point.quality)
    if definition.unit not in {"", "1"}:
        properties["engUnit"] = Property(DataType.String, definition.unit)
    for name, bound in (("engLow", definition.low), ("engHigh", definition.high)):
        if bound is not None:
            properties[name] = Property(DataType.Double, float(bound))
    return Metric(
        name=definition.place.name, datatype=definition.datatype, timestamp=point.t_ms, value=point.value,
        properties=properties,
    )  # fmt: skip
