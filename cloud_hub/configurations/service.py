"""Creates, changes and deletes configurations: desired state for every device that a condition finds.

`configurations.reconciler` applies them to twins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub import query
from cloud_hub.audit import trail
from cloud_hub.configurations.core import rules as configuration_rules
from cloud_hub.configurations.core.rules import is_managed
from cloud_hub.database import scopes
from cloud_hub.database.tables import Configuration, ConfigurationDevice, TwinRow
from cloud_hub.errors import HubError
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins.core.owners import RELEASED, REMOVED
from shared.twin import shadow
from shared.twin.merge import Path, format_path, leaves, tree

LIMIT = 100
BATCH_SIZE = 500


# -- operations -----------------------------------------------------------------------------------


def get(session: Session, number: str) -> Configuration:
    """The configuration, or HubError 404."""
    row = session.get(Configuration, number)
    if row is None or not scopes.covers(scopes.session_scope(session), row.scope):
        raise HubError(404, "No such configuration", f"'{number}' is not known")
    return row


def put(session: Session, row: Configuration, max_bytes: int, trace: str) -> tuple[Configuration, bool]:
    """Create a configuration, or change all but the content of one that is there: (as stored, whether it is new)."""
    _check(row, max_bytes)
    old = session.get(Configuration, row.id)
    if old is None:
        if session.exec(select(func.count()).select_from(Configuration)).one() >= LIMIT:
            raise HubError(409, "Too many configurations", f"there may be {LIMIT}: delete one that is not needed")
        session.add(row)
        trail.add(session, row.created_us, row.actor, "configuration.created", row.id, trace=trace, target=row.target,
                  priority=row.priority)  # fmt: skip
        return row, True
    if not scopes.covers(scopes.session_scope(session), old.scope):
        raise HubError(409, "Name is taken", f"'{row.id}' is the name of a configuration beyond this token's scope")
    if not shadow.json_equal(old.content, row.content):
        cure = "make another configuration with a higher priority, or delete this one first"
        raise HubError(409, "Content cannot be changed", f"'{row.id}' was created with other content: {cure}")
    changes = {name: getattr(row, name) for name in ("priority", "target", "metrics", "labels")}
    return change(session, row.id, changes, row.created_us, row.actor, trace), False


def change(
    session: Session, number: str, changes: Mapping[str, Any], now: int, actor: str, trace: str
) -> Configuration:  # fmt: skip
    """Change priority, target, metrics or labels."""
    row = get(session, number)
    for name, value in changes.items():
        setattr(row, name, value)
    _conditions(row)
    session.add(row)
    trail.add(session, now, actor, "configuration.changed", number, trace=trace, changed=sorted(changes))
    return row


def remove(session: Session, number: str, now: int, actor: str, trace: str) -> None:
    """End a configuration; what it set is taken away, or falls to the next, device by device."""
    session.delete(get(session, number))
    trail.add(session, now, actor, "configuration.deleted", number, trace=trace)


def release(
    session: Session, device: str, document: str, paths: Sequence[str], now: int, actor: str, trace: str
) -> list[str]:  # fmt: skip
    """Give paths, with all below them, back to the configurations: (the leaves). Raises HubError 404 for a path.

    No value changes here, and the document keeps its version.
    """
    stored = twin_batch.read_documents(session, [device], [document], lock=True)
    old, owners = stored.get((device, document), (shadow.Document(), {}))
    names = dict(leaves(owners))
    chosen: set[Path] = set()
    for path in paths:
        matching = {leaf for leaf in names if format_path(leaf) == path or format_path(leaf).startswith(f"{path}.")}
        if not matching:
            raise HubError(404, "Nothing to release", f"nobody has set '{path[:200]}' in document '{document}'")
        chosen |= {leaf for leaf in matching if not is_managed(names[leaf])}
    after = {
        leaf: RELEASED + actor if leaf in chosen else name
        for leaf, name in names.items() if not (leaf in chosen and name.startswith(REMOVED))
    }  # fmt: skip
    if chosen:
        batch = twin_batch.TwinBatch(stored, now, 0)
        batch.set_owners(device, document, old, tree(after.items()))
        batch.write(session)
        trail.add(session, now, actor, "twin.released", f"twin '{document}'" if document else "twin", device=device,
                  trace=trace, paths=sorted(map(format_path, chosen)))  # fmt: skip
    return sorted(map(format_path, chosen))


def _check(row: Configuration, max_bytes: int) -> None:
    try:
        configuration_rules.check(row.content, max_bytes)
    except ValueError as error:
        raise HubError(422, "Invalid request", f"body.content: {error}") from error
    _conditions(row)


def _conditions(row: Configuration) -> None:
    for text in (row.target, *row.metrics.values()):
        query.condition(text)


# -- status ----------------------------------------------------------------------------------------


def counts(session: Session) -> dict[str, dict[str, int]]:
    """Devices in each state, by configuration."""
    rows = session.exec(
        select(ConfigurationDevice.configuration, ConfigurationDevice.state, func.count())
        .group_by(ConfigurationDevice.configuration, ConfigurationDevice.state)
    )  # fmt: skip
    by_configuration: dict[str, dict[str, int]] = {}
    for number, state, count in rows:
        by_configuration.setdefault(number, {})[state] = count
    return by_configuration


def devices(
    session: Session, number: str, *, state: str = "", after: str = "", limit: int = 100
) -> list[ConfigurationDevice]:  # fmt: skip
    """Its devices by id, a page at a time."""
    chosen = select(ConfigurationDevice).where(
        ConfigurationDevice.configuration == number, ConfigurationDevice.device > after
    )
    chosen = scopes.restrict(session, chosen, col(ConfigurationDevice.device))
    if state:
        chosen = chosen.where(ConfigurationDevice.state == state)
    return list(session.exec(chosen.order_by(ConfigurationDevice.device).limit(limit)))


def metrics(session: Session, row: Configuration) -> dict[str, int]:
    """Devices that it targets, on which it is applied, in conflict and in force; then its own conditions' counts."""
    stands = counts(session).get(row.id, {})
    targeted = list(session.exec(select(ConfigurationDevice.device).where(ConfigurationDevice.configuration == row.id)))
    values = {
        "targeted": len(targeted), "applied": stands.get("applied", 0), "conflicts": stands.get("conflict", 0),
        "overridden": stands.get("overridden", 0), "refused": stands.get("refused", 0),
        "in_force": _in_force(session, row, targeted),
    }  # fmt: skip
    own = {name: len(query.devices(session, text, only=targeted)) for name, text in row.metrics.items()}
    return values | own


def _in_force(session: Session, row: Configuration, targeted: Sequence[str]) -> int:
    """Devices that report everything it wants."""
    counted = 0
    for first in range(0, len(targeted), BATCH_SIZE):
        some = targeted[first : first + BATCH_SIZE]
        chosen = select(TwinRow.device, TwinRow.name, TwinRow.state).where(
            col(TwinRow.device).in_(some), col(TwinRow.name).in_(row.content)
        )
        reported = {(device, name): state.get("reported", {}) for device, name, state in session.exec(chosen)}
        counted += sum(
            not any(shadow.difference(want, reported.get((device, name), {})) for name, want in row.content.items())
            for device in some
        )
    return counted


def conflicts(session: Session, device: str, document: str) -> list[dict[str, Any]]:
    """What configurations want of one document and may not have."""
    chosen = select(ConfigurationDevice).where(ConfigurationDevice.device == device)
    everything = [
        conflict
        for row in session.exec(chosen.order_by(ConfigurationDevice.configuration))
        for conflict in row.conflicts
    ]
    return [conflict for conflict in everything if conflict["document"] == document]
