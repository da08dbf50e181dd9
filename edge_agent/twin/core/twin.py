"""State machine of the device's twin documents: applies desired state, publishes reported state.

No I/O: methods return effects that the agent executes. Rules for messages (invariants T1 to T8):

- A message older than one already received is ignored; a changed hub epoch resets all versions.
- `get/accepted` contains the whole document. After that each `update/accepted` has the next version, so that no change
  is missed, not even a removed value; after a gap in the versions the device gets the document again.
- A delta contains every difference. It is applied only if the `update/accepted` of that version was not received.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.twin.core.document import Document, Handler, refusals
from shared.protocol.messages import Applied
from shared.twin.merge import Path, leaves, patch
from shared.twin.shadow import MAX_LEVELS, State, json_equal, merge, nesting_depth, size

FETCH_AT_ONCE = 10
"""Maximum number of concurrent requests of one connection (a limit of AWS)."""

MAX_BYTES = 32_768
"""Maximum size of desired and reported of one document as JSON: the default limit of the hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Publish `reported` of document `name`; null removes a value."""

    name: str
    reported: State


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDesired:
    """Request the hub to change desired state, if its document is still at `version` (None: any version)."""

    name: str
    desired: State
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Get document `name` from the hub."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Store document `name` on disk, before anything of it is reported."""

    name: str


Effect = Report | RequestDesired | Fetch | Remember | Applied


class DeviceTwin:
    """All documents of this device by name ('' is the classic one); `kept` are stored results of `Document.plain`."""

    def __init__(self, kept: dict[str, State]) -> None:
        self.documents = {name: Document(name, value) for name, value in kept.items()}
        self._following: set[str] = set()
        self._asked: set[str] = set()
        self._throttled: set[str] = set()
        self._gone: set[str] = set()
        self._deleted: set[str] = set()

    def handle(self, name: str, path: str | Path, handler: Handler, own: object = None) -> None:
        """Register `handler` for `path` of document `name`: one key or several.

        With nested handlers the deepest gets its subtree and the upper one the rest. `own` is the device's own
        value, in force while nothing is desired; without it the last value stays until the next boot.
        """
        self._document(name).handle(_path(path), handler, own)

    def begin(self) -> None:
        """Apply the stored desired state, after all handlers were registered."""
        for document in self.documents.values():
            document.begin()

    # -- the connection ------------------------------------------------------------------------------

    def hub_changed(self) -> list[Effect]:
        """Handle a changed hub epoch (a restored backup): reset all versions, durably."""
        for document in self.documents.values():
            document.version, document.sent = 0, []
        return [Remember(name=name) for name in self.documents]

    def connected(self) -> list[Effect]:
        """Handle a new connection to the hub: get every document once."""
        for memory in (self._following, self._asked, self._throttled, self._gone):
            memory.clear()
        return [effect for name in self.documents for effect in self._fetch(name)]

    def tick(self) -> list[Effect]:
        """Retry throttled requests, a few at a time; called once a second."""
        names = sorted(self._throttled)[:FETCH_AT_ONCE]
        self._throttled.difference_update(names)
        return [effect for name in names for effect in self._fetch(name)]

    # -- messages of the hub -------------------------------------------------------------------------

    def fetched(self, name: str, version: int, desired: State, reported: State) -> list[Effect]:
        """Handle `get/accepted`: the whole document."""
        document = self._heard(name, version)
        self._asked.discard(name)
        if document is None:
            return []
        self._following.add(name)
        self._deleted.discard(name)
        results: list[Effect] = [*document.apply_desired(desired, version)]
        stale = document.stale(reported)
        document.sent = []
        return self._effects(document, stale, self._pending(document), results)

    def missing(self, name: str) -> list[Effect]:
        """Handle a 404: nothing is desired; report everything."""
        document = self.documents.get(name)
        self._asked.discard(name)
        if document is None:
            return []
        self._following.add(name)
        self._gone.add(name)
        results: list[Effect] = [*document.apply_desired({}, document.version)]
        pending, document.sent = document.pending(), []
        if pending and document.reported:  # the report creates the document; the request then needs its version
            return self._effects(document, document.reported, [], results) + self._fetch(name)
        desire: list[Effect] = [RequestDesired(name=name, desired=pending, version=None)] if pending else []
        return self._effects(document, document.reported, desire, results)

    def unanswered(self, name: str) -> list[Effect]:
        """Handle a get that failed with 429 (throttled) or 500."""
        self._asked.discard(name)
        self._throttled |= {name} & self.documents.keys()
        return []

    def accepted(self, name: str, version: int, state: State | None) -> list[Effect]:
        """Handle `update/accepted`, from any client; None: the document is empty now."""
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
        """Handle `update/delta`: everything that is desired and not reported."""
        if name not in self.documents:
            known = [part for document in self.documents.values() for part in document.known()]
            return [*refusals(name, version, list(leaves(state)), known)]
        document = self._heard(name, version)
        if document is None or (name in self._following and version == document.version):
            return []
        effects = self._settle(document, merge(document.base, state), version)
        return effects + (self._missed(name) if name in self._following else [])

    def deleted(self, name: str, version: int) -> list[Effect]:
        """Handle `delete/accepted` of `version`; the next report creates the document again."""
        document = self._heard(name, version)
        if document is None:
            return []
        results: list[Effect] = [*document.apply_desired({}, version + 1)]
        self._deleted.add(name)
        return [Remember(name=name), *results]

    def refused(self, name: str, code: int, *, desire: bool) -> list[Effect]:
        """Handle `update/rejected`; `desire`: it was an update of desired state.

        409: the document has a newer version, so get it and merge. After any other refusal the local change is undone.
        """
        document = self.documents.get(name)
        if document is None or not desire or code in {429, 500}:
            return []
        if code == 409:
            return self._missed(name)
        wanted, document.base = document.base, document.desired
        return self._settle(document, wanted, document.version)

    # -- changes on the device -----------------------------------------------------------------------

    def report(self, name: str, reported: State) -> list[Effect]:
        """Set top-level values of reported state; only differences are published."""
        document = self._document(name)
        before, document.reported = document.reported, {**document.reported, **reported}
        if json_equal(before, document.reported):
            return []
        if name in self._asked:  # the answer to the get shows which reports the hub needs
            return [Remember(name=name)]
        return self._publish_changes(document, before, [], [])

    def want(self, name: str, wanted: State) -> list[Effect]:
        """Change desired state on the device: applied at once, then sent to the hub. Raises ValueError."""
        document = self.documents.get(name)
        if document is None:
            return self.delta(name, 0, wanted)
        if nesting_depth(wanted) > MAX_LEVELS:
            raise ValueError(f"more than {MAX_LEVELS} levels of nesting")
        if size({"desired": merge(document.desired, wanted), "reported": document.reported}) > MAX_BYTES:
            raise ValueError(f"the document would be larger than {MAX_BYTES} bytes")
        before = document.reported
        results: list[Effect] = [*document.want(wanted)]
        return self._publish_changes(
            document, before, self._pending(document) if name in self._following else [], results
        )

    def retry(self, name: str, path: str | Path) -> list[Effect]:
        """Call a handler again: deferred work has finished, or the reason of a refusal no longer applies."""
        document = self.documents[name]
        before = document.reported
        return self._publish_changes(document, before, [], [*document.retry(_path(path))])

    # -- inside ------------------------------------------------------------------------------------

    def _document(self, name: str) -> Document:
        return self.documents.setdefault(name, Document(name, {}))

    def _heard(self, name: str, version: int) -> Document | None:
        """The document, or None if the message is older than one already received, or than a deletion."""
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
        results: list[Effect] = [*document.apply_desired(desired, version)]
        return self._publish_changes(document, before, [], results)

    def _publish_changes(
        self, document: Document, before: State, desire: list[Effect], results: list[Effect]
    ) -> list[Effect]:
        whole = document.name in self._deleted
        return self._effects(
            document, document.reported if whole else patch(before, document.reported), desire, results
        )

    def _effects(
        self, document: Document, reported: State, desire: list[Effect], results: list[Effect]
    ) -> list[Effect]:
        """Effects in the required order: store on disk, then documents, then progress."""
        document.is_reporting()
        document.sent = document.sent + [effect.desired for effect in desire if isinstance(effect, RequestDesired)]
        self._deleted.discard(document.name)
        report: list[Effect] = [Report(name=document.name, reported=reported)] if reported else []
        return [Remember(name=document.name), *desire, *report, *results]


def _path(path: str | Path) -> Path:
    return (path,) if isinstance(path, str) else path
