"""The device's side of its twin: desired differences come in, handlers act, reported state goes out.

A core: the agent carries out the effects. A message older than one already seen is ignored; deltas hold every
difference, so a gap heals itself. After a changed hub epoch the versions are forgotten (invariants T2, T6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.messages import Applied
from shared.twin import State, difference, merge, same

Handler = Callable[[Any], Any]
"""Takes a wanted value, puts it in force and returns the value that is now in force; raises ValueError to refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Publish `reported` of document `name`."""

    name: str
    reported: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Remember document `name` on disk before anything is reported of it."""

    name: str


@dataclass(slots=True)
class LocalDocument:
    """What this device knows of one document; `version` is the hub's, as last seen."""

    version: int = 0
    desired: State = field(default_factory=dict)
    reported: State = field(default_factory=dict)


Effect = Report | Remember | Applied


def _patch(old: State, new: State) -> State:
    """What makes `new` of `old` when it is merged over it: null for each field that is gone."""
    result: State = {key: None for key in old if key not in new}
    for key, value in new.items():
        have = old.get(key)
        if isinstance(value, dict) and isinstance(have, dict):
            if inner := _patch(have, value):
                result[key] = inner
        elif key not in old or not same(value, have):
            result[key] = value
    return result


class Twin:
    """All documents of this device. Names: '' classic, 'thresholds', 'gates'."""

    def __init__(self, documents: dict[str, LocalDocument]) -> None:
        self.documents = documents
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._said: set[tuple[str, str]] = set()

    def handle(self, name: str, key: str, handler: Handler) -> None:
        """Let `handler` act on desired `key` of document `name`; a kept desired value is put in force at once.

        So a device that boots without network works with the last state it was asked for. What was in force
        before the boot and is not now is no longer reported, unless `report` has just said so.
        """
        self._handlers[name, key] = handler
        document = self.documents.setdefault(name, LocalDocument())
        if key in document.desired and self._act(name, document, key, document.desired[key]).state != "refused":
            return
        if (name, key) not in self._said:
            document.reported = {other: value for other, value in document.reported.items() if other != key}

    def hub_changed(self) -> list[Effect]:
        """Another life of the hub (restored backup): its versions begin anew, also after a crash just now."""
        for document in self.documents.values():
            document.version = 0
        return [Remember(name=name) for name in self.documents]

    def fetched(self, name: str, body: State) -> list[Effect]:
        """The hub's answer to a get: the whole document."""
        state = body.get("state") or {}
        document = self.documents.setdefault(name, LocalDocument())
        if not self._newer(document, body):
            return []
        document.desired = state.get("desired") or {}
        wanted = difference(document.desired, document.reported)
        effects = self._apply(name, document, wanted)
        stale = _patch(state.get("reported") or {}, document.reported)
        return effects + ([Report(name=name, reported=stale)] if stale else [])

    def missing(self, name: str) -> list[Effect]:
        """The hub has no such document yet: report all we have."""
        document = self.documents.setdefault(name, LocalDocument())
        return [Report(name=name, reported=document.reported)] if document.reported else []

    def delta(self, name: str, body: State) -> list[Effect]:
        """The hub's word of what is desired and not yet reported."""
        document = self.documents.setdefault(name, LocalDocument())
        if not self._newer(document, body):
            return []
        wanted = body.get("state") or {}
        document.desired = merge(document.desired, wanted)
        return self._apply(name, document, wanted)

    def report(self, name: str, reported: State) -> list[Effect]:
        """Something about the device changed by itself; each value is whole, only what differs is published."""
        document = self.documents.setdefault(name, LocalDocument())
        whole = {**document.reported, **reported}
        self._said |= {(name, key) for key in reported}
        changed = _patch(document.reported, whole)
        if not changed:
            return []
        document.reported = whole
        return [Remember(name=name), Report(name=name, reported=changed)]

    # -- inside ------------------------------------------------------------------------------------

    @staticmethod
    def _newer(document: LocalDocument, body: State) -> bool:
        version = body.get("version")
        if not isinstance(version, int) or version < document.version:
            return False
        document.version = version
        return True

    def _apply(self, name: str, document: LocalDocument, wanted: State) -> list[Effect]:
        if not wanted:
            return [Remember(name=name)]
        before = document.reported
        progress: list[Effect] = []
        for key in wanted:
            progress.append(self._progress(name, document, key, "received"))
            progress.append(self._act(name, document, key, document.desired.get(key)))
        changed = _patch(before, document.reported)
        report: list[Effect] = [Report(name=name, reported=changed)] if changed else []
        return [Remember(name=name), *report, *progress]

    def _act(self, name: str, document: LocalDocument, key: str, value: Any) -> Applied:
        handler = self._handlers.get((name, key))
        if handler is None:
            return self._progress(name, document, key, "refused", "this device has nothing that handles it")
        try:
            in_force = handler(value)
        except ValueError as error:
            return self._progress(name, document, key, "refused", str(error))
        document.reported = {**document.reported, key: in_force}
        lacking = difference({key: value}, {key: in_force})
        return self._progress(name, document, key, "applied" if lacking else "verified")

    @staticmethod
    def _progress(name: str, document: LocalDocument, key: str, state: Any, reason: str = "") -> Applied:
        return Applied(shadow=name, version=document.version, path=key, state=state, reason=reason)
