"""One twin document on the device: what is desired, who acts on it, and what is in force. A core.

`base` is what the hub desired when both last agreed; what differs from it in `desired` was changed on the device, and
is merged three-way when the hub is there again. `reported` is what this boot has said; `told` are the paths of ours
that the hub may still hold: only those are taken away there, for other clients of this device may report too.
`sent` are changes asked of the hub since it told everything: what it says back of them is no change of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from shared.messages import Applied, AppliedState
from shared.twin import State, difference, json_equal, merge
from shared.twin_merge import ABSENT, Path, format_path, leaves, merge3, patch, tree, value_at, with_value

Handler = Callable[[Any], Any]
"""Takes a wanted value, puts it in force and returns what is now in force. Refuses by ValueError (TypeError and
LookupError count too: the value has another shape), with all as it was before; raises Later when it has only begun."""

Pairs = list[tuple[Path, Any]]

MAX_TOLD = 2000
"""So many paths of ours are remembered."""

NOT_DESIRED = "nothing is desired here any more"

MAX_REFUSALS = 64
"""So many leaves that nobody handles are refused one by one, and of so many that are gone it is said."""


class Deferred(Exception):  # not an error: the answer comes later
    """A handler has begun and cannot say yet. `Document.retry` calls it again with the value desired by then."""


@dataclass(frozen=True, slots=True)
class _Part:
    handler: Handler
    own: Any


class Document:
    """`kept` is what `plain` returned before the last boot, {} for nothing; an older agent's lacks base and told."""

    def __init__(self, name: str, kept: State) -> None:
        self.name: str = name
        self.version: int = kept.get("version", 0)
        """The hub's, as last seen."""
        self.desired: State = kept.get("desired", {})
        self.base: State = ({"base": self.desired} | kept)["base"]
        told = [tuple(path) for path in kept.get("told", [])]
        self.told: set[Path] = {*told, *(path for path, _ in leaves(kept.get("reported", {})))}
        self.sent: list[State] = kept.get("sent", [])
        self.reported: State = {}
        self.parts: dict[Path, _Part] = {}

    def plain(self) -> State:
        """What must survive a crash."""
        return {"version": self.version, "desired": self.desired, "base": self.base, "reported": self.reported,
                "told": sorted(map(list, self.told)), "sent": self.sent}  # fmt: skip

    def pending(self) -> State:
        """What was changed on the device and is not at the hub yet, as a patch."""
        return patch(self.base, self.desired)

    def is_reporting(self) -> None:
        """Before anything is reported: it is ours from now on.

        A path is forgotten late, and only because there are too many: a hub restored from a backup may hold it again.
        """
        now = {path for path, _ in leaves(self.reported)}
        self.told = self.told | now if len(self.told | now) <= MAX_TOLD else now

    def stale(self, reported: State) -> State:
        """What makes the hub's `reported` true, as a patch: ours as it is, others' as they are."""
        ours = tree((path, value_at(reported, path)) for path in self.told if value_at(reported, path) is not ABSENT)
        kept = merge3(ours, self.reported, reported, owner="local")
        return patch(reported, merge(kept, self.reported))  # what the device is, it alone knows

    def handle(self, path: Path, handler: Handler, own: Any) -> None:
        """Let `handler` act on `path`; `own` is in force while nothing is desired there, None for the last value."""
        self.parts[path] = _Part(handler, own)

    def begin(self) -> None:
        """After a boot, network or not: what was desired last; `own` where that is nothing or is refused."""
        for path in self.parts:
            if any(word.state == "refused" for word in self._act(path, [path])):
                self._fall_back(path)

    def apply_desired(self, desired: State, version: int) -> list[Applied]:
        """Merge all that the hub desires with what was changed here, and act on every difference."""
        desired = merge({}, desired)
        mine, base = self.desired, self._agreed(desired)
        self.desired = merge3(base, mine, desired, owner="remote")
        self.base, self.version = desired, version
        touched = dict(leaves(patch(mine, self.desired))) | dict(leaves(difference(self.desired, self.reported)))
        acts, unknown = self._parts_of(list(touched.items()))
        words = [word for path, where in acts.items() for word in self._act(path, where)]
        words += refusals(self.name, version, unknown, self.known())
        gone = [leaf for leaf, value in leaves(patch(mine, self.desired)) if value is None]
        words += [self._word(leaf, "applied", NOT_DESIRED) for leaf in gone[:MAX_REFUSALS]]
        lost = [
            leaf
            for leaf, _ in leaves(patch(base, mine))
            if not json_equal(value_at(self.desired, leaf), value_at(mine, leaf))
        ]
        return self._with_conflicts(words, [(leaf, value_at(mine, leaf)) for leaf in lost])

    def want(self, wanted: State) -> list[Applied]:
        """A person on the device wants something; null for no longer. What is refused is not desired."""
        before, pairs = self.desired, list(leaves(wanted))
        acts, unknown = self._parts_of(pairs)
        taken = [pair for pair in pairs if pair not in unknown]
        words = refusals(self.name, self.version, unknown, self.known())
        for path, where in acts.items():
            self.desired = merge(before, tree(taken))
            said = self._act(path, where)
            if any(word.state == "refused" for word in said):
                taken = [(leaf, value) for leaf, value in taken if leaf not in where]
            words += said
        self.desired = merge(before, tree(taken))
        gone = [leaf for leaf, value in pairs if value is None]
        return words + [self._word(leaf, "applied", NOT_DESIRED) for leaf in gone]

    def retry(self, path: Path) -> list[Applied]:
        """Ask one handler once more."""
        wanted = self._wanted(path)
        return self._act(path, [] if wanted is ABSENT else [leaf for leaf, _ in leaves(with_value({}, path, wanted))])

    def known(self) -> list[str]:
        """What is handled here, as people write it: `settings`, `thresholds: limits`."""
        return [f"{self.name}: {format_path(path)}" if self.name else format_path(path) for path in self.parts]

    # -- inside ------------------------------------------------------------------------------------

    def _agreed(self, desired: State) -> State:
        """The base of a merge: what was agreed; of what was changed here since, what the hub took over as asked."""
        base = self.base
        for leaf, _ in leaves(self.pending()):
            now = value_at(desired, leaf)
            if any(json_equal(value_at(asked, leaf), None if now is ABSENT else now) for asked in self.sent):
                base = with_value(base, leaf, now)
        return base

    def _parts_of(self, pairs: Pairs) -> tuple[dict[Path, list[Path]], Pairs]:
        """Which handlers must act, each with the leaves it answers for (deepest first); and what nobody handles."""
        acts: dict[Path, list[Path]] = {}
        unknown: Pairs = []
        for leaf, value in pairs:
            above = [path for path in self.parts if leaf[: len(path)] == path]
            below = [path for path in self.parts if path[: len(leaf)] == leaf]
            if above:
                acts.setdefault(max(above, key=len), []).append(leaf)
            elif value is not None and not (below and value == {}):  # an empty object above parts asks for nothing
                unknown.append((leaf, value))
            for path in below:  # what stood there is gone
                acts.setdefault(path, [])
        return acts, unknown

    def _inner(self, path: Path) -> list[Path]:
        return [inner for inner in self.parts if inner != path and inner[: len(path)] == path]

    def _wanted(self, path: Path) -> Any:
        """What is desired of one handler: its subtree without those of deeper handlers."""
        wanted = value_at(self.desired, path)
        for inner in self._inner(path) if isinstance(wanted, dict) and wanted else ():
            wanted = with_value(wanted, inner[len(path) :], ABSENT) if wanted is not ABSENT else {}
        return ABSENT if wanted == {} and value_at(self.desired, path) != {} else wanted

    def _act(self, path: Path, touched: list[Path]) -> list[Applied]:
        """Call a handler; its word on each leaf of `touched` that is desired. Its own value when nothing is."""
        wanted = self._wanted(path)
        if wanted is ABSENT:
            self._fall_back(path)
            return []
        wished = [leaf for leaf in touched if value_at(self.desired, leaf) is not ABSENT]
        try:
            if self._inner(path) and not isinstance(wanted, dict):
                raise ValueError("parts of it are handled one by one: only an object can stand here")
            self._in_force(path, self.parts[path].handler(wanted))
        except Deferred as later:
            return [self._word(leaf, "received", str(later)) for leaf in wished]
        except (ValueError, TypeError, LookupError) as error:
            return [self._word(leaf, "refused", str(error)[:500] or type(error).__name__) for leaf in wished]
        return [self._word(leaf, "verified" if self._is_so(leaf) else "applied") for leaf in wished]

    def _fall_back(self, path: Path) -> None:
        part = self.parts[path]
        if part.own is not None:
            self._in_force(path, part.handler(part.own))

    def _in_force(self, path: Path, value: Any) -> None:
        inner = [(where, value_at(self.reported, where)) for where in self._inner(path)]
        for where, theirs in [(path, value), *inner]:
            if theirs is not ABSENT:
                self.reported = with_value(self.reported, where, theirs)

    def _is_so(self, leaf: Path) -> bool:
        have = value_at(self.reported, leaf)
        return not difference({"": value_at(self.desired, leaf)}, {} if have is ABSENT else {"": have})

    def _word(self, leaf: Path, state: AppliedState, reason: str = "") -> Applied:
        return Applied(shadow=self.name, version=self.version, path=format_path(leaf), state=state, reason=reason)

    def _with_conflicts(self, words: list[Applied], lost: Pairs) -> list[Applied]:
        by_path = {word.path: word for word in words}
        for leaf, mine in lost:
            word = by_path.get(format_path(leaf)) or self._word(leaf, "applied")
            here = "nothing" if mine is ABSENT else repr(mine)[:60]
            reason = f"changed here and at the hub: the hub's value counts, not {here}"
            by_path[word.path] = replace(word, reason=f"{word.reason}; {reason}" if word.reason else reason)
        return list(by_path.values())


def refusals(name: str, version: int, pairs: Pairs, known: list[str]) -> list[Applied]:
    """The word on leaves that nobody handles; `known` is what is handled. Of very many, the last says how many more."""
    reason = f"nothing on this device handles it; it handles {', '.join(known)[:300] or 'nothing'}"
    words = [
        Applied(shadow=name, version=version, path=format_path(leaf), state="refused", reason=reason)
        for leaf, _ in pairs[:MAX_REFUSALS]
    ]
    if more := pairs[MAX_REFUSALS:]:
        words[-1] = replace(words[-1], reason=f"{reason}; nor {len(more)} more leaves of this document")
    return words
