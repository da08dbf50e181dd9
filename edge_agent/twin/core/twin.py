"""The device's side of its twin: desired state comes in, handlers act, reported state goes out.

A core: the agent carries out the effects. What is heard (invariants T1 to T8):

- A message older than one already seen is ignored; after a changed hub epoch all versions are forgotten.
- `get/accepted` tells everything. From there on each `update/accepted` carries the next version, so nothing is
  missed, not even what is wished no more; a hole in the numbers is answered with another get.
- A delta holds every difference. It is acted upon where no accepted message was heard; else it is old news.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.twin.core.document import Document, Handler, refusals
from shared.messages import Applied
from shared.twin import MAX_LEVELS, State, json_equal, merge, nesting_depth, size
from shared.twin_merge import Path, leaves, patch

FETCH_AT_ONCE = 10
"""AWS answers no more requests of one connection at the same time."""

MAX_BYTES = 32_768
"""Desired and reported of one document as JSON, the hub's own default: more is not even tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Publish `reported` of document `name`: null for what is no longer so."""

    name: str
    reported: State


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDesired:
    """Ask the hub to desire what was changed on the device, if its document still is at `version` (None: at all)."""

    name: str
    desired: State
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Get document `name` from the hub."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Remember document `name` on disk before anything is reported of it."""

    name: str


Effect = Report | RequestDesired | Fetch | Remember | Applied


class DeviceTwin:
    """All documents of this device; `kept` is what `Document.plain` gave. Names: '' classic, 'thresholds', ..."""

    def __init__(self, kept: dict[str, State]) -> None:
        self.documents = {name: Document(name, value) for name, value in kept.items()}
        self._following: set[str] = set()
        self._asked: set[str] = set()
        self._throttled: set[str] = set()
        self._gone: set[str] = set()
        self._deleted: set[str] = set()

    def handle(self, name: str, path: str | Path, handler: Handler, own: object = None) -> None:
        """Let `handler` act on what is desired at `path` of document `name`: one key, or several keys deep.

        Of handlers below one another the deepest gets its subtree, the upper one the rest. `own` is this device's
        own value, in force while nothing is desired there; without it the last value stays until the next boot.
        """
        self._document(name).handle(_path(path), handler, own)

    def begin(self) -> None:
        """All handlers are there: put in force what was desired last, network or not."""
        for document in self.documents.values():
            document.begin()

    # -- the connection ------------------------------------------------------------------------------

    def hub_changed(self) -> list[Effect]:
        """Another life of the hub (restored backup): its versions begin anew, also after a crash just now."""
        for document in self.documents.values():
            document.version, document.sent = 0, []
        return [Remember(name=name) for name in self.documents]

    def connected(self) -> list[Effect]:
        """The hub is there: get every document, once."""
        for memory in (self._following, self._asked, self._throttled, self._gone):
            memory.clear()
        return [effect for name in self.documents for effect in self._fetch(name)]

    def tick(self) -> list[Effect]:
        """Once a second: ask again, a few at a time, for what the hub had no time for."""
        names = sorted(self._throttled)[:FETCH_AT_ONCE]
        self._throttled.difference_update(names)
        return [effect for name in names for effect in self._fetch(name)]

    # -- the hub's words -----------------------------------------------------------------------------

    def fetched(self, name: str, version: int, desired: State, reported: State) -> list[Effect]:
        """The hub's answer to a get: the whole document."""
        document = self._heard(name, version)
        self._asked.discard(name)
        if document is None:
            return []
        self._following.add(name)
        self._deleted.discard(name)
        words: list[Effect] = [*document.apply_desired(desired, version)]
        stale = document.stale(reported)
        document.sent = []
        return self._effects(document, stale, self._pending(document), words)

    def missing(self, name: str) -> list[Effect]:
        """The hub has no such document: nothing is desired. Report all we have."""
        document = self.documents.get(name)
        self._asked.discard(name)
        if document is None:
            return []
        self._following.add(name)
        self._gone.add(name)
        words: list[Effect] = [*document.apply_desired({}, document.version)]
        pending, document.sent = document.pending(), []
        if pending and document.reported:  # the report makes the document, whose version the wish then needs
            return self._effects(document, document.reported, [], words) + self._fetch(name)
        desire: list[Effect] = [RequestDesired(name=name, desired=pending, version=None)] if pending else []
        return self._effects(document, document.reported, desire, words)

    def unanswered(self, name: str) -> list[Effect]:
        """The hub did not answer a get: throttled (429) or broken (500)."""
        self._asked.discard(name)
        self._throttled |= {name} & self.documents.keys()
        return []

    def accepted(self, name: str, version: int, state: State | None) -> list[Effect]:
        """A change that the hub has accepted, anybody's; None: the document is empty now."""
        document = self._heard(name, version)
        if document is None or name not in self._following:
            return []
        if version > document.version + 1:
            return self._missed(name)
        if state is not None and "desired" not in state:
            document.version = version
            return []
        change = (state or {}).get("desired")
        return self._settle(document, merge(document.base, change) if change is not None else {}, version)

    def delta(self, name: str, version: int, state: State) -> list[Effect]:
        """Everything that the hub desires and was not told to be so."""
        if name not in self.documents:
            known = [part for document in self.documents.values() for part in document.known()]
            return [*refusals(name, version, list(leaves(state)), known)]
        document = self._heard(name, version)
        if document is None or (name in self._following and version == document.version):
            return []
        effects = self._settle(document, merge(document.base, state), version)
        return effects + (self._missed(name) if name in self._following else [])

    def deleted(self, name: str, version: int) -> list[Effect]:
        """The hub has deleted the document that stood at `version`; the next report makes it anew."""
        document = self._heard(name, version)
        if document is None:
            return []
        words: list[Effect] = [*document.apply_desired({}, version + 1)]
        self._deleted.add(name)
        return [Remember(name=name), *words]

    def refused(self, name: str, code: int, *, desire: bool) -> list[Effect]:
        """The hub has refused an update; `desire`: one of desired state.

        409: the document has moved on, so merge with what it is now. Any other no of the hub counts.
        """
        document = self.documents.get(name)
        if document is None or not desire or code in {429, 500}:
            return []
        if code == 409:
            return self._missed(name)
        wanted, document.base = document.base, document.desired
        return self._settle(document, wanted, document.version)

    # -- the device's words --------------------------------------------------------------------------

    def report(self, name: str, reported: State) -> list[Effect]:
        """Something about the device changed by itself; each value is whole, only what differs is published."""
        document = self._document(name)
        before, document.reported = document.reported, {**document.reported, **reported}
        if json_equal(before, document.reported):
            return []
        if name in self._asked:  # the hub's answer shows what it must be told, this too
            return [Remember(name=name)]
        return self._said(document, before, [], [])

    def want(self, name: str, wanted: State) -> list[Effect]:
        """A person on the device wants something: in force at once, then told to the hub. Raises ValueError."""
        document = self.documents.get(name)
        if document is None:
            return self.delta(name, 0, wanted)
        if nesting_depth(wanted) > MAX_LEVELS:
            raise ValueError(f"more than {MAX_LEVELS} levels of nesting")
        if size({"desired": merge(document.desired, wanted), "reported": document.reported}) > MAX_BYTES:
            raise ValueError(f"the document would be larger than {MAX_BYTES} bytes")
        before = document.reported
        words: list[Effect] = [*document.want(wanted)]
        return self._said(document, before, self._pending(document) if name in self._following else [], words)

    def retry(self, name: str, path: str | Path) -> list[Effect]:
        """Ask a handler once more: what it said Later about is ready, or a refusal has lost its reason."""
        document = self.documents[name]
        before = document.reported
        return self._said(document, before, [], [*document.retry(_path(path))])

    # -- inside ------------------------------------------------------------------------------------

    def _document(self, name: str) -> Document:
        return self.documents.setdefault(name, Document(name, {}))

    def _heard(self, name: str, version: int) -> Document | None:
        """The document, unless the message is older than one already seen, or than the document's deletion."""
        document = self.documents.get(name)
        if document is None or version < document.version + (name in self._gone):
            return None
        self._gone.discard(name)
        return document

    def _missed(self, name: str) -> list[Effect]:
        self._following.discard(name)
        return self._fetch(name)

    def _fetch(self, name: str) -> list[Effect]:
        if name in self._asked:
            return []
        self._asked.add(name)
        return [Fetch(name=name)]

    @staticmethod
    def _pending(document: Document) -> list[Effect]:
        changed = document.pending()
        return [RequestDesired(name=document.name, desired=changed, version=document.version)] if changed else []

    def _settle(self, document: Document, desired: State, version: int) -> list[Effect]:
        before = document.reported
        words: list[Effect] = [*document.apply_desired(desired, version)]
        return self._said(document, before, [], words)

    def _said(self, document: Document, before: State, desire: list[Effect], words: list[Effect]) -> list[Effect]:
        whole = document.name in self._deleted
        return self._effects(document, document.reported if whole else patch(before, document.reported), desire, words)

    def _effects(self, document: Document, reported: State, desire: list[Effect], words: list[Effect]) -> list[Effect]:
        """In the order that counts: on disk first; then the documents, which others wait for; then progress."""
        document.is_reporting()
        document.sent = document.sent + [one.desired for one in desire if isinstance(one, RequestDesired)]
        self._deleted.discard(document.name)
        report: list[Effect] = [Report(name=document.name, reported=reported)] if reported else []
        return [Remember(name=document.name), *desire, *report, *words]


def _path(path: str | Path) -> Path:
    return (path,) if isinstance(path, str) else path
