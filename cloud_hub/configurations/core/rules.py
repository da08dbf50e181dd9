"""Which configuration wins which leaf, and what that means for a document that others change too. A core without I/O.

`resolve` lays the configurations of a device over each other, `plan` compares the outcome with a document and its
owners, `apply_layers` makes the change by the twin's own rules. A leaf that anybody else set is never touched: a
different value there is a conflict, for people to see and to release. Applied twice, a plan is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cloud_hub.twins.core import plant
from cloud_hub.twins.core.owners import CONFIGURATION, RELEASED, REMOVED
from shared.protocol.codec import encode
from shared.twin import shadow
from shared.twin.merge import Path, format_path, leaves, tree

Wanted = dict[Path, tuple[Any, str]]
"""A document's leaves as configurations want them: path to (value, id of the configuration)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A configuration that targets a device; `content` maps document names to desired state without nulls."""

    id: str
    priority: int
    created_us: int
    content: Mapping[str, shadow.State]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """`configuration` wants `wanted` at `path`, but `owner` holds `value` at `at`; no value: it was removed there."""

    configuration: str
    path: str
    wanted: Any
    at: str
    owner: str
    value: Any = None

    def as_dict(self, document: str) -> shadow.State:
        """As it is stored and shown."""
        return {"document": document} | asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to change: a merge patch of desired state, all owners after it, and what is left alone.

    `touched` are the configurations whose leaves the patch sets or takes away, `winners` those that got a leaf at all.
    """

    patch: shadow.State
    owners: shadow.State
    conflicts: tuple[Conflict, ...] = ()
    touched: frozenset[str] = frozenset()
    winners: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedLayers:
    """A document after its plan: the old one when nothing was to change. `refused` gives reasons by configuration."""

    plan: Plan
    document: shadow.Document
    replies: list[shadow.Reply] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def by_priority(layers: Iterable[Layer]) -> list[Layer]:
    """The strongest first: highest priority, then the newest."""
    return sorted(layers, key=lambda layer: (-layer.priority, -layer.created_us, layer.id))


def resolve(layers: Iterable[Layer], document: str) -> Wanted:
    """The leaves of one document. Each goes to the strongest; one that would lie above or below it is lost too."""
    wanted: Wanted = {}
    for layer in by_priority(layers):
        mine = {path: (value, layer.id) for path, value in leaves(dict(layer.content.get(document, {})))}
        wanted |= {path: leaf for path, leaf in mine.items() if not any(paths_overlap(path, won) for won in wanted)}
    return wanted


def paths_overlap(left: Path, right: Path) -> bool:
    """Whether one path is the other, or leads to it."""
    shorter = min(len(left), len(right))
    return left[:shorter] == right[:shorter]


def plan(wanted: Wanted, desired: shadow.State, owners: shadow.State) -> Plan:
    """The change that sets `wanted` where no one else owns the leaf, and removes what no configuration wants now."""
    have, names = dict(leaves(desired)), dict(leaves(owners))
    removed = {path: name for path, name in names.items() if path not in have and name.startswith(REMOVED)}
    conflicts: list[Conflict] = []
    put: Wanted = {}
    kept: dict[Path, str] = {}
    for path, (value, source) in wanted.items():
        if path in have and shadow.json_equal(have[path], value):
            if is_managed(names.get(path, "")):
                kept[path] = source
            continue
        against = [at for at in (*have, *removed) if paths_overlap(at, path) and not is_managed(names.get(at, ""))]
        if not against:
            put[path] = (value, source)
        for at in against:
            owner = names.get(at, "").removeprefix(REMOVED)
            conflicts.append(Conflict(configuration=source, path=format_path(path), wanted=value, at=format_path(at),
                                      owner=owner, value=have.get(at)))  # fmt: skip
    stale = [path for path in have if path not in kept and names.get(path, "").startswith(CONFIGURATION)]
    gone = [path for path in stale if not any(paths_overlap(path, new) for new in put)]
    patch = tree([*((path, value) for path, (value, _) in put.items()), *((path, None) for path in gone)])
    sources = kept | {path: source for path, (_, source) in put.items()}
    after = {
        path: CONFIGURATION + sources[path] if path in sources else names.get(path, "")
        for path, _ in leaves(shadow.merge(desired, patch))
    }
    touched = {sources[path] for path in put} | {names[path].removeprefix(CONFIGURATION) for path in gone}
    winners = frozenset(source for _, source in wanted.values())
    return Plan(
        patch=patch, owners=tree((after | removed).items()), conflicts=tuple(conflicts),
        touched=frozenset(touched), winners=winners,
    )  # fmt: skip


def is_managed(owner: str) -> bool:
    """Whether configurations may change this owner's leaf."""
    return owner.startswith((CONFIGURATION, RELEASED))


def apply_layers(
    layers: Sequence[Layer], name: str, document: shadow.Document, owners: shadow.State, now_s: int, max_bytes: int,
) -> AppliedLayers:  # fmt: skip
    """The document with all `layers`; when the twin's rules refuse that, with those that fit, the strongest first."""
    whole, reason = _try(layers, name, document, owners, now_s, max_bytes)
    if not reason:
        return whole
    best, _ = _try([], name, document, owners, now_s, max_bytes)
    kept: list[Layer] = []
    refused: dict[str, str] = {}
    for layer in by_priority(layers):
        merged, reason = _try([*kept, layer], name, document, owners, now_s, max_bytes)
        if reason:
            refused[layer.id] = reason
        else:
            best = merged
            kept.append(layer)
    return AppliedLayers(plan=best.plan, document=best.document, replies=best.replies, refused=refused)


def _try(
    layers: Sequence[Layer], name: str, document: shadow.Document, owners: shadow.State, now_s: int, max_bytes: int,
) -> tuple[AppliedLayers, str]:  # fmt: skip
    """(the outcome, why the twin's rules refuse it); a refused outcome leaves the document as it is."""
    merged = plan(resolve(layers, name), document.state.get("desired", {}), owners)
    if not merged.patch:
        return AppliedLayers(plan=merged, document=document), ""
    new, replies = shadow.update(document, encode({"state": {"desired": merged.patch}}), now_s, max_bytes)
    if new is document:
        nothing = Plan(patch={}, owners=owners)
        return AppliedLayers(plan=nothing, document=document), str(replies[0].body["message"])
    return AppliedLayers(plan=merged, document=new, replies=replies), ""


def check(content: Mapping[str, shadow.State], max_bytes: int) -> None:
    """Raise ValueError that names the place unless every document of `content` could stand alone in a twin."""
    for name, state in content.items():
        place = f"document '{name}'"
        plant.refuse(name)
        if not state:
            raise ValueError(f"{place}: is empty; leave it out, or say what it sets")
        new, replies = shadow.update(shadow.Document(), encode({"state": {"desired": state}}), 0, max_bytes)
        if new.deleted:
            raise ValueError(f"{place}: {replies[0].body['message']}")
        if new.state.get("desired") != state:
            raise ValueError(f"{place}: holds a null; a configuration says what is set, and takes it away when it ends")
        empty = [format_path(path) for path, value in leaves(state) if value == {}]
        if empty:
            raise ValueError(f"{place}: '{empty[0]}' is an empty object, which sets nothing")
