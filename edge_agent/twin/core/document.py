"""A twin document on the device: desired state, the handlers that apply it, and reported state. No I/O.

`base` is the desired state when hub and device last agreed. Where `desired` differs from it, it was changed on the
device and is merged three-way when the hub is reachable again. `reported` is what was reported since boot;
`reported_paths` are the paths reported by this agent that the hub may still have. Only those are deleted on the hub,
because other clients may report too. `sent` are the changes requested since the last complete document from the hub,
which are not changes of the hub when they come back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from shared.messages import Applied, AppliedState
from shared.twin import State, difference, json_equal, merge
from shared.twin_merge import ABSENT, Path, format_path, leaves, merge3, patch, tree, value_at, with_value

Handler = Callable[[Any], Any]
"""Applies a desired value and returns the value now in force. Raises ValueError, TypeError or LookupError to refuse the
value, without changing anything, or Deferred if it finishes later."""

Pairs = list[tuple[Path, Any]]

MAX_REPORTED_PATHS = 2000
"""Maximum number of remembered paths."""

NOT_DESIRED = "no longer desired"

MAX_REFUSALS = 64
"""Maximum number of leaves without a handler, or of removed leaves, that are reported one by one."""


class Deferred(Exception):  # not an error: the result comes later
    """A handler has started and will finish later. `Document.retry` calls it again with the value desired by then."""


@dataclass(frozen=True, slots=True)
class _Part:
    handler: Handler
    own: Any


class Document:
    """`kept` is the stored result of `plain`, or {}; older agents did not store `base` and `reported_paths`."""

    def __init__(self, name: str, kept: State) -> None:
        self.name: str = name
        self.version: int = kept.get("version", 0)
        """Version on the hub, as last received."""
        self.desired: State = kept.get("desired", {})
        self.base: State = ({"base": self.desired} | kept)["base"]
        remembered = [tuple(path) for path in kept.get("reported_paths", [])]
        self.reported_paths: set[Path] = {*remembered, *(path for path, _ in leaves(kept.get("reported", {})))}
        self.sent: list[State] = kept.get("sent", [])
        self.reported: State = {}
        self.parts: dict[Path, _Part] = {}

    def plain(self) -> State:
        """The state to store."""
        return {"version": self.version, "desired": self.desired, "base": self.base, "reported": self.reported,
                "reported_paths": sorted(map(list, self.reported_paths)), "sent": self.sent}  # fmt: skip

    def pending(self) -> State:
        """Changes of desired state made on the device that the hub does not have yet, as a patch."""
        return patch(self.base, self.desired)

    def is_reporting(self) -> None:
        """Remember the reported paths; called before a report is published.

        Paths are dropped only when there are too many: a hub restored from a backup may have an old path again.
        """
        now = {path for path, _ in leaves(self.reported)}
        both = self.reported_paths | now
        self.reported_paths = both if len(both) <= MAX_REPORTED_PATHS else now

    def stale(self, reported: State) -> State:
        """The patch that corrects the hub's `reported`; values reported by other clients are kept."""
        own = tree(
            (path, value_at(reported, path)) for path in self.reported_paths if value_at(reported, path) is not ABSENT
        )
        kept = merge3(own, self.reported, reported, owner="local")
        return patch(reported, merge(kept, self.reported))  # the device's values win

    def handle(self, path: Path, handler: Handler, own: Any) -> None:
        """Register `handler` for `path`. `own` is in force while nothing is desired; None keeps the last value."""
        self.parts[path] = _Part(handler, own)

    def begin(self) -> None:
        """Apply the stored desired state after a boot; `own` where it is absent or refused."""
        for path in self.parts:
            if any(result.state == "refused" for result in self._act(path, [path])):
                self._fall_back(path)

    def apply_desired(self, desired: State, version: int) -> list[Applied]:
        """Merge the hub's desired state with changes made on the device, and apply every difference."""
        desired = merge({}, desired)
        mine, base = self.desired, self._merge_base(desired)
        self.desired = merge3(base, mine, desired, owner="remote")
        self.base, self.version = desired, version
        touched = dict(leaves(patch(mine, self.desired))) | dict(leaves(difference(self.desired, self.reported)))
        acts, unknown = self._parts_of(list(touched.items()))
        results = [result for path, where in acts.items() for result in self._act(path, where)]
        results += refusals(self.name, version, unknown, self.known())
        gone = [leaf for leaf, value in leaves(patch(mine, self.desired)) if value is None]
        results += [self._applied(leaf, "applied", NOT_DESIRED) for leaf in gone[:MAX_REFUSALS]]
        lost = [
            leaf
            for leaf, _ in leaves(patch(base, mine))
            if not json_equal(value_at(self.desired, leaf), value_at(mine, leaf))
        ]
        return self._with_conflicts(results, [(leaf, value_at(mine, leaf)) for leaf in lost])

    def want(self, wanted: State) -> list[Applied]:
        """Apply a change made on the device; null removes a value. Refused values are dropped."""
        before, pairs = self.desired, list(leaves(wanted))
        acts, unknown = self._parts_of(pairs)
        valid = [pair for pair in pairs if pair not in unknown]
        results = refusals(self.name, self.version, unknown, self.known())
        for path, where in acts.items():
            self.desired = merge(before, tree(valid))
            answers = self._act(path, where)
            if any(answer.state == "refused" for answer in answers):
                valid = [(leaf, value) for leaf, value in valid if leaf not in where]
            results += answers
        self.desired = merge(before, tree(valid))
        gone = [leaf for leaf, value in pairs if value is None]
        return results + [self._applied(leaf, "applied", NOT_DESIRED) for leaf in gone]

    def retry(self, path: Path) -> list[Applied]:
        """Call the handler of `path` again."""
        wanted = self._wanted(path)
        return self._act(path, [] if wanted is ABSENT else [leaf for leaf, _ in leaves(with_value({}, path, wanted))])

    def known(self) -> list[str]:
        """The handled paths as shown in messages: `settings`, `thresholds: limits`."""
        return [f"{self.name}: {format_path(path)}" if self.name else format_path(path) for path in self.parts]

    # -- inside ------------------------------------------------------------------------------------

    def _merge_base(self, desired: State) -> State:
        """The base of a merge: `base`, plus the local changes that the hub has accepted as requested."""
        base = self.base
        for leaf, _ in leaves(self.pending()):
            now = value_at(desired, leaf)
            if any(json_equal(value_at(asked, leaf), None if now is ABSENT else now) for asked in self.sent):
                base = with_value(base, leaf, now)
        return base

    def _parts_of(self, pairs: Pairs) -> tuple[dict[Path, list[Path]], Pairs]:
        """The handlers to call, each with its leaves (deepest handler first), and the leaves without a handler."""
        acts: dict[Path, list[Path]] = {}
        unknown: Pairs = []
        for leaf, value in pairs:
            above = [path for path in self.parts if leaf[: len(path)] == path]
            below = [path for path in self.parts if path[: len(leaf)] == leaf]
            if above:
                acts.setdefault(max(above, key=len), []).append(leaf)
            elif value is not None and not (
                below and value == {}
            ):  # an empty object above handled paths desires nothing
                unknown.append((leaf, value))
            for path in below:  # their old values were replaced
                acts.setdefault(path, [])
        return acts, unknown

    def _inner(self, path: Path) -> list[Path]:
        return [inner for inner in self.parts if inner != path and inner[: len(path)] == path]

    def _wanted(self, path: Path) -> Any:
        """The desired value of one handler: its subtree without those of deeper handlers."""
        wanted = value_at(self.desired, path)
        for inner in self._inner(path) if isinstance(wanted, dict) and wanted else ():
            wanted = with_value(wanted, inner[len(path) :], ABSENT) if wanted is not ABSENT else {}
        return ABSENT if wanted == {} and value_at(self.desired, path) != {} else wanted

    def _act(self, path: Path, touched: list[Path]) -> list[Applied]:
        """Call a handler with the desired value, or its own value if there is none; returns the progress of each
        desired leaf in `touched`."""
        wanted = self._wanted(path)
        if wanted is ABSENT:
            self._fall_back(path)
            return []
        desired = [leaf for leaf in touched if value_at(self.desired, leaf) is not ABSENT]
        try:
            if self._inner(path) and not isinstance(wanted, dict):
                raise ValueError("has parts with their own handlers, so the value must be an object")
            self._in_force(path, self.parts[path].handler(wanted))
        except Deferred as later:
            return [self._applied(leaf, "received", str(later)) for leaf in desired]
        except (ValueError, TypeError, LookupError) as error:
            return [self._applied(leaf, "refused", str(error)[:500] or type(error).__name__) for leaf in desired]
        return [self._applied(leaf, "verified" if self._is_reported(leaf) else "applied") for leaf in desired]

    def _fall_back(self, path: Path) -> None:
        part = self.parts[path]
        if part.own is not None:
            self._in_force(path, part.handler(part.own))

    def _in_force(self, path: Path, value: Any) -> None:
        inner = [(where, value_at(self.reported, where)) for where in self._inner(path)]
        for where, reported in [(path, value), *inner]:
            if reported is not ABSENT:
                self.reported = with_value(self.reported, where, reported)

    def _is_reported(self, leaf: Path) -> bool:
        have = value_at(self.reported, leaf)
        return not difference({"": value_at(self.desired, leaf)}, {} if have is ABSENT else {"": have})

    def _applied(self, leaf: Path, state: AppliedState, reason: str = "") -> Applied:
        return Applied(shadow=self.name, version=self.version, path=format_path(leaf), state=state, reason=reason)

    def _with_conflicts(self, results: list[Applied], lost: Pairs) -> list[Applied]:
        by_path = {result.path: result for result in results}
        for leaf, mine in lost:
            result = by_path.get(format_path(leaf)) or self._applied(leaf, "applied")
            here = "nothing" if mine is ABSENT else repr(mine)[:60]
            reason = f"changed here and at the hub: the hub's value counts, not {here}"
            by_path[result.path] = replace(result, reason=f"{result.reason}; {reason}" if result.reason else reason)
        return list(by_path.values())


def refusals(name: str, version: int, pairs: Pairs, known: list[str]) -> list[Applied]:
    """Refusals of leaves without a handler; `known` are the handled paths. The last one counts further leaves."""
    reason = f"nothing on this device handles it; it handles {', '.join(known)[:300] or 'nothing'}"
    results = [
        Applied(shadow=name, version=version, path=format_path(leaf), state="refused", reason=reason)
        for leaf, _ in pairs[:MAX_REFUSALS]
    ]
    if more := pairs[MAX_REFUSALS:]:
        results[-1] = replace(results[-1], reason=f"{reason}; nor {len(more)} more leaves of this document")
    return results
