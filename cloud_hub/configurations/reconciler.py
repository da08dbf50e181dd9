"""Keeps configurations in force: devices that changed are looked at at once, all of them now and then.

It reads first; only devices for which something is to be written take the write lock, and are read again there.
Nothing is kept in memory that the next full pass would not find again, so that a restart loses nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert
from sqlmodel import Session, col, select

from cloud_hub import query
from cloud_hub.clock import now_us
from cloud_hub.configurations.core import rules as configuration_rules
from cloud_hub.configurations.core.rules import AppliedLayers, Layer
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Configuration, ConfigurationDevice
from cloud_hub.errors import HubError
from cloud_hub.runtime.items import WorkItems
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.worker import WorkResult
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins.batch import TwinBatch
from cloud_hub.twins.core.owners import CONFIGURATION
from cloud_hub.twins.rows import Key, Stored
from shared.twin import shadow
from shared.twin.merge import leaves

log = logging.getLogger(__name__)

TOGETHER = 200
"""Devices that are looked at, and written, in one transaction."""

State = tuple[str, list[dict[str, Any]]]
"""How a configuration stands on a device, and why: ('conflict', [{document, path, ...}])."""

_ROWS: Any = ConfigurationDevice.__table__  # type: ignore[attr-defined]
_DELETE = delete(_ROWS).where(
    and_(_ROWS.c.configuration == bindparam("b_configuration"), _ROWS.c.device == bindparam("b_device"))
)
_INSERT = insert(_ROWS)


class ConfigurationReconciler:
    """The worker's state: devices to reconcile, and when all of them are due. Other threads add devices."""

    def __init__(
        self, db: Database, max_bytes: int, period_s: float, clock: Callable[[], int] = now_us
    ) -> None:  # fmt: skip
        self._db, self._max_bytes, self._clock = db, max_bytes, clock
        self._period_us, self._due_us = int(period_s * 1e6), 0
        self._waiting: dict[str, None] = {}
        self._idle = False
        self._lock = threading.Lock()

    def changed(self, devices: Iterable[str]) -> None:
        """Something about these devices changed: tags, a birth, a twin."""
        if not self._idle:
            with self._lock:
                self._waiting.update(dict.fromkeys(devices))

    def all_changed(self) -> None:
        """A configuration changed: look at every device."""
        self._due_us = 0

    def run_once(self) -> WorkResult:
        """Look at some of the devices that wait."""
        now = self._clock()
        items = WorkItems(self._db, "configurations", now)
        if now >= self._due_us:
            self._due_us = now + self._period_us
            self._add_all(items)
        with self._lock:
            some = list(islice(self._waiting, TOGETHER))
            for device in some:
                del self._waiting[device]
        done = items.batch("device", some, lambda devices: reconcile_devices(self._db, devices, now, self._max_bytes))
        if items.not_ready is not None:
            self.changed(some)
        messages = [message for part in done for message in part]
        return items.result(messages=messages, again=bool(self._waiting))

    def _add_all(self, items: WorkItems) -> None:
        """Every device that a configuration targets now, or did at the last look."""
        with self._db.read() as session:
            devices = set(session.exec(select(ConfigurationDevice.device).distinct()))
            rows = list(session.exec(select(Configuration)))
        self._idle = not devices and not rows
        for row in rows:
            devices |= items.run("configuration", row.id, partial(self._targeted, row)) or set()
        self.changed(sorted(devices))

    def _targeted(self, row: Configuration) -> set[str]:
        with self._db.read() as session:
            return set(_targets(session, row))


def reconcile_devices(db: Database, devices: Collection[str], now: int, max_bytes: int) -> list[OutgoingMessage]:
    """Bring these devices to what the configurations want; returns what must be published."""
    with db.read() as session:
        changed = reconcile(session, devices, now, max_bytes).changed()
    if not changed:
        return []
    with db.write() as session:
        return _write(session, reconcile(session, sorted(changed), now, max_bytes, lock=True), now, max_bytes)


def _write(session: Session, reconciliation: Reconciliation, now: int, max_bytes: int) -> list[OutgoingMessage]:
    batch = TwinBatch(reconciliation.stored, now, max_bytes)
    for (device, name), outcome in reconciliation.settled.items():
        document, owners = reconciliation.stored.get((device, name), (shadow.Document(), {}))
        if outcome.plan.patch:
            actor = CONFIGURATION + ",".join(sorted(outcome.plan.touched))
            batch.change(
                device,
                name,
                document,
                outcome.document,
                outcome.plan.owners,
                outcome.plan.patch,
                outcome.replies,
                actor,
            )
        elif outcome.plan.owners != owners:
            batch.set_owners(device, name, document, outcome.plan.owners)
    batch.write(session)
    moved = [
        key
        for key in reconciliation.old.keys() | reconciliation.new.keys()
        if reconciliation.old.get(key) != reconciliation.new.get(key)
    ]
    deletes = [{"b_device": device, "b_configuration": number} for device, number in moved]
    inserts = [
        {"device": device, "configuration": number, "state": state, "conflicts": conflicts, "t_us": now}
        for device, number in moved if (device, number) in reconciliation.new
        for state, conflicts in [reconciliation.new[device, number]]
    ]  # fmt: skip
    for statement, rows in ((_DELETE, deletes), (_INSERT, inserts)):
        if rows:
            session.connection().execute(statement, rows)
    return batch.messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What some devices have and what configurations make of it; nothing is written yet."""

    stored: dict[Key, Stored]
    settled: dict[Key, AppliedLayers]
    old: dict[tuple[str, str], State]
    new: dict[tuple[str, str], State]

    def changed(self) -> set[str]:
        """Devices for which something is to be written."""
        documents = {
            device
            for (device, name), outcome in self.settled.items()
            if outcome.plan.patch or outcome.plan.owners != self.stored.get((device, name), (None, {}))[1]
        }
        stands = {key for key in self.old.keys() | self.new.keys() if self.old.get(key) != self.new.get(key)}
        return documents | {device for device, _ in stands}


def reconcile(
    session: Session, names: Collection[str], now: int, max_bytes: int, *, lock: bool = False
) -> Reconciliation:
    """Compute every document of these devices, and the state of each configuration on them.

    A device that a configuration targeted which cannot be read now is left as it is: nothing is taken from it.
    """
    targeted, broken = _layers(session, names)
    unsure = select(ConfigurationDevice.device).where(col(ConfigurationDevice.configuration).in_(broken))
    names = sorted(set(names) - {str(one) for one in session.exec(unsure)}) if broken else names
    targeted = {device: layers for device, layers in targeted.items() if device in names} if broken else targeted
    stored = twin_batch.read_documents(session, names, lock=lock)
    settled: dict[Key, AppliedLayers] = {}
    for device in names:
        layers = targeted.get(device, [])
        wanted = {name for layer in layers for name in layer.content}
        for name in sorted(wanted | _held(stored, device)):
            document, owners = stored.get((device, name), (shadow.Document(), {}))
            settled[device, name] = configuration_rules.apply_layers(
                layers, name, document, owners, now // 1_000_000, max_bytes
            )
    chosen = select(ConfigurationDevice).where(col(ConfigurationDevice.device).in_(names))
    old = {(row.device, row.configuration): (row.state, row.conflicts) for row in session.exec(chosen)}
    new = {
        (device, layer.id): _stands(layer, {name: settled[device, name] for name in layer.content})
        for device, layers in targeted.items()
        for layer in layers
    }
    return Reconciliation(stored=stored, settled=settled, old=old, new=new)


def _layers(session: Session, names: Collection[str]) -> tuple[dict[str, list[Layer]], list[str]]:
    """The configurations that target each of these devices, as long as it is there; and those that cannot be read."""
    layers: dict[str, list[Layer]] = {}
    broken: list[str] = []
    for row in session.exec(select(Configuration)):
        try:
            devices = _targets(session, row, only=names)
        except (HubError, TypeError, ValueError) as error:
            log.warning("configuration.unreadable", extra={"fields": {"configuration": row.id, "reason": str(error)}})
            broken.append(row.id)
            continue
        layer = Layer(id=row.id, priority=row.priority, created_us=row.created_us, content=row.content)
        for device in devices:
            layers.setdefault(device, []).append(layer)
    return layers, broken


def _targets(session: Session, row: Configuration, only: Collection[str] | None = None) -> list[str]:
    """Devices that a configuration targets; raises ValueError where its content is none."""
    if not isinstance(row.content, dict) or not all(isinstance(section, dict) for section in row.content.values()):
        raise ValueError("its content is no object of documents")
    return list(query.devices(session, row.target, only=only, scope=row.scope))


def _held(stored: dict[Key, Stored], device: str) -> set[str]:
    """Documents of the device in which a configuration owns something."""
    return {
        name
        for (of, name), (_, owners) in stored.items()
        if of == device and any(owner.startswith(CONFIGURATION) for _, owner in leaves(owners))
    }


def _stands(layer: Layer, settled: dict[str, AppliedLayers]) -> State:
    conflicts = [
        conflict.as_dict(name) for name, outcome in settled.items() for conflict in outcome.plan.conflicts
        if conflict.configuration == layer.id
    ]  # fmt: skip
    refused = [
        {"document": name, "configuration": layer.id, "reason": outcome.refused[layer.id]}
        for name, outcome in settled.items() if layer.id in outcome.refused
    ]  # fmt: skip
    if refused:
        return "refused", refused + conflicts
    if conflicts:
        return "conflict", conflicts
    won = any(layer.id in outcome.plan.winners for outcome in settled.values())
    return ("applied" if won else "overridden"), []
