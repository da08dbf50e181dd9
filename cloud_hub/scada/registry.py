"""Knows which Sparkplug node or device is which device here, and registers new ones with their metrics.

The rows that messages need are read once and kept; what a transaction adds is kept after it is committed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlmodel import Session

from cloud_hub.certificates import registry as certificates
from cloud_hub.database.tables import Claim, Device, Identity, SparkplugMetric, SparkplugNode
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices import tags
from cloud_hub.errors import HubError
from cloud_hub.scada.core import definitions, naming
from cloud_hub.scada.core.definitions import Definition
from cloud_hub.scada.core.records import Birth, Key
from cloud_hub.settings.scada import Sparkplug
from shared.ids import DEVICE_ID

PROFILE = "sparkplug"
ACTOR = "sparkplug"
NODE_METRICS = 20_000
"""The maximum number of metrics of one node or device, those of earlier births included."""
_CHUNK = 400

_NODES: Any = SparkplugNode.__table__  # type: ignore[attr-defined]
_METRICS: Any = SparkplugMetric.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_UPDATE_METRIC = (
    update(_METRICS)
    .where(_METRICS.c.device == bindparam("b_device"), _METRICS.c.metric == bindparam("b_metric"))
    .values({name: bindparam(name) for name in ("datatype", "unit", "low", "high", "stored", "present")})
)


@dataclass(frozen=True, slots=True)
class Known:
    """A registered node or device. `names` are the metric names of what is stored, by Sparkplug name."""

    digest: str
    node_digest: str
    device: str
    own: bool
    definitions: str
    names: Mapping[str, str] = field(default_factory=dict)


class RefusedBirth(Exception):
    """A birth that is not registered, with the reason."""


class NodeRegistry:
    """The nodes and devices that this process has seen. One thread uses it."""

    def __init__(self, settings: Sparkplug) -> None:
        self._settings = settings
        self._paths = {one.group: one.asset_path for one in settings.groups}
        self._known: dict[Key, Known] = {}
        self._of_node: dict[str, dict[Key, Known]] = {}
        self._whole: set[str] = set()

    def get(self, key: Key) -> Known | None:
        """The node or device; None if it is not registered. `load` it first."""
        return self._known.get(key)

    def of_node(self, group: str, node: str) -> dict[Key, Known]:
        """The node and its devices. `load` it first."""
        return self._of_node.get(naming.digest(group, node), {})

    def remember(self, staged: Mapping[Key, Known]) -> None:
        """Keep what a committed transaction registered."""
        for key, known in staged.items():
            self._known[key] = known
            self._of_node.setdefault(known.node_digest, {})[key] = known

    def forget(self, keys: Iterable[Key] | None = None) -> None:
        """Read these (or all) again when they are next needed."""
        if keys is None:
            for everything in (self._known, self._of_node, self._whole):
                everything.clear()
            return
        for key in keys:
            known = self._known.pop(key, None)
            if known is not None:
                self._whole.discard(known.node_digest)
                self._of_node.get(known.node_digest, {}).pop(key, None)

    def load(self, session: Session, keys: Collection[Key], nodes: Collection[tuple[str, str]]) -> None:
        """Read what is registered of `keys`, and `nodes` with all their devices."""
        missing = sorted({naming.digest(*key) for key in keys if key not in self._known})
        self._read(session, _NODES.c.digest, missing)
        whole = sorted({naming.digest(*node) for node in nodes} - self._whole)
        self._read(session, _NODES.c.node_digest, whole)
        self._whole.update(whole)

    def _read(self, session: Session, column: Any, values: list[str]) -> None:
        found: dict[str, list[Any]] = {}
        for chunk in chunks(values):
            for row in session.connection().execute(select(_NODES).where(column.in_(chunk))):
                if (row.group, row.node, row.sparkplug_device) not in self._known:
                    found.setdefault(row.device, []).append(row)
        names: dict[str, dict[str, str]] = {device: {} for device in found}
        for chunk in chunks(sorted(found)):
            query = select(_METRICS.c.device, _METRICS.c.name, _METRICS.c.metric)
            for device, name, metric in session.connection().execute(
                query.where(_METRICS.c.device.in_(chunk), _METRICS.c.stored != "no")
            ):
                names[device][name] = metric
        self.remember(
            {
                (row.group, row.node, row.sparkplug_device): Known(
                    row.digest, row.node_digest, device, row.own, row.definitions, {} if row.own else names[device]
                )
                for device, rows in found.items()
                for row in rows
            }
        )

    def asset_path(self, group: str) -> str:
        """The asset path of new devices of a group."""
        return self._paths.get(group, "")

    def register(
        self, session: Session, birth: Birth, parent: Known | None, now_us: int, trace: str
    ) -> Known:  # fmt: skip
        """Register a node or device at its birth, without its metrics. Needs `write()` without devices.

        Raises RefusedBirth when the hub has enough of them.
        """
        group, node, sub_device = birth.key
        digest = naming.digest(*birth.key)
        session.connection().execute(delete(_NODES).where(_NODES.c.digest == digest))  # it was another device
        count = _total(session, _NODES)
        if count >= self._settings.max_nodes:
            raise RefusedBirth(f"this hub has {count} nodes and devices; raise sparkplug.max_nodes")
        own = self.own_device(session, birth, parent)
        device = own or self._new_device(session, birth, parent, now_us, trace)
        known = Known(digest, naming.digest(group, node), device, bool(own), "")
        row = {"digest": known.digest, "node_digest": known.node_digest, "group": group, "node": node,
               "sparkplug_device": sub_device, "device": device, "own": known.own}  # fmt: skip
        session.connection().execute(insert(_NODES), _NODE_DEFAULTS | row)
        _added(session, _NODES, 1)
        return known

    def is_own_changed(self, session: Session, birth: Birth, parent: Known | None, known: Known) -> bool:
        """Whether a node became an agent of this hub, or another one, or no longer is one."""
        own = self.own_device(session, birth, parent)
        return known.own != bool(own) or (known.own and known.device != own)

    def own_device(self, session: Session, birth: Birth, parent: Known | None) -> str:
        """The agent of this hub that the node is, or ''. A device of such a node is the same agent."""
        if birth.key[2]:
            return parent.device if parent is not None and parent.own else ""
        named = definitions.own_device(birth.metrics)
        if not DEVICE_ID.match(named):
            return ""
        row = session.get(Device, named)
        return named if row is not None and row.profile != PROFILE else ""

    def _new_device(
        self, session: Session, birth: Birth, parent: Known | None, now_us: int, trace: str
    ) -> str:  # fmt: skip
        name = naming.device_id(*birth.key)
        if _taken(session, name):
            name = naming.disambiguate(name, naming.digest(*birth.key), naming.DEVICE_MOST)
        if _taken(session, name):
            raise RefusedBirth(f"the device id '{name}' is taken")
        row = Device(id=name, profile=PROFILE)
        session.add(row)
        session.flush()
        path = self.asset_path(birth.key[0])
        device_registry.audit_registration(session, name, path, now_us, actor=ACTOR, trace=trace)
        if parent is not None and not parent.own:
            try:
                tags.change(session, row, {"depends_on": parent.device}, now_us, actor=ACTOR, trace=trace)
            except HubError as error:  # never for ids; a tag is not worth a birth
                raise RefusedBirth(str(error)) from error
        session.flush()
        return name

    def define(
        self, session: Session, known: Known, wanted: Mapping[str, Definition]
    ) -> tuple[Known, dict[str, str], int]:  # fmt: skip
        """Store the metrics of a birth; returns the node, all names by Sparkplug name, and how many were left out."""
        connection = session.connection()
        rows = connection.execute(select(_METRICS).where(_METRICS.c.device == known.device)).all()
        names, taken = {row.name: row.metric for row in rows}, {row.metric for row in rows}
        room = max(0, min(NODE_METRICS - len(names), self._settings.max_metrics - _total(session, _METRICS)))
        new = [one for name, one in wanted.items() if name not in names]
        inserts = []
        for one in new[:room]:
            metric = naming.metric_name(one.name)
            if metric in taken:
                metric = naming.disambiguate(metric, naming.digest(one.name), naming.METRIC_MOST)
            if metric in taken:
                continue
            taken.add(metric)
            names[one.name] = metric
            inserts.append({"device": known.device, "metric": metric, "name": one.name} | _columns(one))
        updates = [
            {"b_device": known.device, "b_metric": row.metric} | _changed(row, wanted.get(row.name))
            for row in rows
            if _differs(row, wanted.get(row.name))
        ]
        for statement, values in ((insert(_METRICS), inserts), (_UPDATE_METRIC, updates)):
            if values:
                connection.execute(statement, values)
        _added(session, _METRICS, len(inserts))
        stored = {name: names[name] for name, one in wanted.items() if one.stored != "no" and name in names}
        return replace(known, names=stored, definitions=definitions.digest(wanted)), names, len(new) - len(inserts)


def _total(session: Session, table: Any) -> int:
    """Rows of a table; counted once in a transaction."""
    totals: dict[str, int] = session.info.setdefault("sparkplug_totals", {})
    if table.name not in totals:
        totals[table.name] = session.connection().execute(select(func.count()).select_from(table)).scalar() or 0
    return totals[table.name]


def _added(session: Session, table: Any, count: int) -> None:
    session.info["sparkplug_totals"][table.name] = _total(session, table) + count


def _taken(session: Session, name: str) -> bool:
    """Whether the id is that of a device, or of one that was removed, or that may enrol: no node may come before it."""
    if certificates.removed(session, name):
        return True
    return any(session.get(table, name) is not None for table in (Device, Claim, Identity))


def device_metrics(wanted: Mapping[str, Definition], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Metrics as devices list them in their births: what is stored of it."""
    return [
        {"name": names[name], "unit": one.unit, "kind": "state" if one.stored == "text" else "gauge", "low": one.low,
         "high": one.high}
        for name, one in wanted.items() if one.stored != "no" and name in names
    ]  # fmt: skip


def _columns(one: Definition) -> dict[str, Any]:
    return {"datatype": one.datatype, "unit": one.unit, "low": one.low, "high": one.high, "stored": one.stored,
            "present": True}  # fmt: skip


def _changed(row: Any, one: Definition | None) -> dict[str, Any]:
    if one is not None:
        return _columns(one)
    return {"datatype": row.datatype, "unit": row.unit, "low": row.low, "high": row.high, "stored": row.stored,
            "present": False}  # fmt: skip


def _differs(row: Any, one: Definition | None) -> bool:
    before = (row.datatype, row.unit, row.low, row.high, row.stored, row.present)
    return before != tuple(_changed(row, one).values())


_NODE_DEFAULTS = SparkplugNode(digest="", node_digest="", group="", node="", device="").model_dump()


def chunks(items: list[str]) -> Iterable[list[str]]:
    """The items in parts: databases limit the number of parameters."""
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
