"""Collects events from the shells, in the order in which they come, and feeds the checker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from cloud_hub.scada.conformance.core.checker import Checker, Scope
from cloud_hub.scada.conformance.core.events import AnyEvent, Confirmed, Tick
from cloud_hub.scada.conformance.core.report import Verdict
from cloud_hub.scada.conformance.core.world import Node

log = logging.getLogger(__name__)

MAX_PROBLEMS = 20


def now_ms() -> int:
    """This machine's time, milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Watch:
    """A checker that many threads may feed. `problems` are what kept it from watching, for the report."""

    def __init__(self, scope: Scope) -> None:
        self._checker = Checker(scope)
        self._lock = threading.Lock()
        self.scope = scope
        self.problems: list[str] = []

    def observe(self, event: AnyEvent) -> None:
        """Judge one event. An event that the checker cannot read is a problem, not the end of the watch."""
        with self._lock:
            try:
                self._checker.observe(event)
            except Exception as error:
                log.debug("event was not judged", exc_info=True)
                self._problem(f"{type(event).__name__} was not judged: {type(error).__name__}: {error}")

    def confirm(self, rule: str, kept: bool, detail: str) -> None:
        """Judge a rule by what a shell or an operator saw."""
        self.observe(Confirmed(at_ms=now_ms(), rule=rule, kept=kept, detail="" if kept else detail))

    def excuse(self, rules: Iterable[str], why: str) -> None:
        """Note that rules do not apply; used for those that are not judged."""
        with self._lock:
            self._checker.excuses.update(dict.fromkeys(rules, why))

    def problem(self, text: str) -> None:
        """Note what kept the checker from watching."""
        with self._lock:
            self._problem(text)

    def _problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text[:300])

    def tick(self) -> None:
        """Judge deadlines."""
        self.observe(Tick(at_ms=now_ms()))

    def verdicts(self) -> list[Verdict]:
        """The verdicts so far."""
        with self._lock:
            return self._checker.verdicts()

    def messages(self) -> int:
        """How many Sparkplug messages were seen."""
        with self._lock:
            return self._checker.messages

    def judged(self, rule: str) -> int:
        """How often a rule was judged."""
        with self._lock:
            tally = self._checker.ledger.tallies[rule]
            return tally.kept + tally.violated

    def violated(self, rule: str) -> bool:
        """Whether a rule was violated."""
        with self._lock:
            return self._checker.ledger.tallies[rule].violated > 0

    def nodes(self) -> list[Node]:
        """Edge nodes that are within the scope and have been born."""
        scope = self.scope
        with self._lock:
            return [
                node for node in self._checker.world.nodes.values()
                if node.seen_birth and scope.group in ("", node.key.group) and scope.node in ("", node.key.node)
            ]  # fmt: skip

    def others(self) -> list[str]:
        """Edge nodes outside the scope that publish, as group/node."""
        with self._lock:
            return sorted(self._checker.others)

    def connected(self) -> set[str]:
        """Descriptors of edge nodes that are connected and have subscribed, as far as a proxy sees them."""
        with self._lock:
            clients = self._checker.world.clients.values()
            return {str(one.node) for one in clients if one.node is not None and one.open and one.filters}

    def state_was_delivered(self, nodes: set[str], *, outdated: bool) -> bool:
        """Whether each of these nodes was told on each broker that its host is offline; or `outdated`: on one of them,
        an outdated online STATE. A subscriber does not see it.
        """
        with self._lock:
            states = self._checker.primary.states()
        if outdated:
            return nodes <= {node for (_, node), state in states.items() if state.stale_online}
        told = {key for key, state in states.items() if state.told_offline}
        return all((server, node) in told for server in range(self.scope.servers) for node in nodes)

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait, judging deadlines meanwhile; whether `until` came true."""
        end = time.monotonic() + seconds
        while not until():
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(0.2, left))
            self.tick()
        return True
