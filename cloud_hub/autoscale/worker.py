"""The autoscaler: observes each target, decides, stores the decision, calls the platform, stores the outcome.

Reading signals and calling platforms happens in threads, a target at a time, and with time limits; a target that takes
longer is left behind and taken up when it is ready, and is read by threads of its own from then on; so it delays no
other. Decisions are made together, in one
transaction; a target that fails there fails alone (`runtime.items`). A platform that cannot be reached is an
observation like any other: its count is unknown, and its target is held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

from sqlmodel import Session

from cloud_hub.autoscale import Counts, Drifted, ScaleRefused, signals
from cloud_hub.autoscale import lease as leases
from cloud_hub.autoscale.core.state import Outcome, Outlook
from cloud_hub.autoscale.lease import MARGIN_S, HubLease
from cloud_hub.autoscale.published import PUBLISHED
from cloud_hub.autoscale.signals import SignalContext
from cloud_hub.autoscale.store import Decided, Observed, decide_all, store_outcome, store_rehearsal
from cloud_hub.autoscale.targets_file import Target, TargetsInForce
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.runtime.items import WorkItems, storable, text_of
from cloud_hub.runtime.worker import WorkResult
from shared.durations import SECOND_US
from shared.errors import NotReady

log = logging.getLogger(__name__)

PERIOD_S = 1.0
THREADS = 16
WAIT_S = 2.0
"""Time that a run waits for slow signals and platforms; what is not ready then is taken up by the next one."""
BATCH = 100
"""Targets of one transaction."""
MOST_INSTANCES = 2**31 - 1
"""A larger number is no count of instances."""
CALL_S = 5.0
"""Time that a call to a platform is expected to end within; the lease must last so long."""

_R = TypeVar("_R")
OutlookOf = Callable[[Target, Observed, int], Outlook | None]


class NoFence(NotReady):
    """Another hub holds the lease: nothing may be stored or done."""


class Autoscaler:
    """The turns of all targets of one hub. Without `executor` everything runs in the caller's thread.

    `slow_executor` reads the targets that took longer than WAIT_S to read.
    """

    def __init__(
        self, db: Database, in_force: TargetsInForce, lease: HubLease, context: SignalContext, *,
        clock: Callable[[], int] = now_us, executor: Executor | None = None, slow_executor: Executor | None = None,
        outlook: OutlookOf = lambda *_: None,
    ) -> None:  # fmt: skip
        self._db, self.in_force, self.lease, self._context = db, in_force, lease, context
        self._clock, self._outlook = clock, outlook
        self._executor, self._slow_executor = executor, slow_executor or executor
        self._slow: set[str] = set()
        self._due: dict[str, int] = {}
        self._observing: dict[str, Future[Observed]] = {}
        self._calling: dict[str, Future[None]] = {}

    def run_once(self) -> WorkResult:
        """Observe the targets that are due, decide on those that are ready, call their platforms."""
        items = WorkItems(self._db, "autoscale", self._clock())
        self.in_force.reload()
        token = self.lease.hold()
        if token is None:
            self._stand_by()
            return items.result()
        self._observe(items)
        ready = [one for one in self._ready(items, self._observing, "observe") if self._in_force(one.target)]
        for first in range(0, len(ready), BATCH):
            decided = items.batch(
                "target", ready[first : first + BATCH], partial(self._decide, token), lambda one: one.target.name
            )
            self._call([one for batch in decided for one in batch])
        self._ready(items, self._calling, "call")
        return items.result()

    def _stand_by(self) -> None:
        """Another hub decides: forget what was read, and publish no counts."""
        self._observing.clear()
        for name in self.in_force.targets:
            PUBLISHED.withdraw(name)

    def decide_soon(self, name: str) -> None:
        """The target is due at once."""
        self._due.pop(name, None)

    # -- observe -----------------------------------------------------------------------------------------

    def _observe(self, items: WorkItems) -> None:
        now = self._clock()
        for name, target in self.in_force.targets.items():
            busy = name in self._observing or name in self._calling
            if busy or not self._is_due(name, now) or not items.due("target", name):
                continue
            self._due[name] = now + int(target.entry.period_s * SECOND_US)
            threads = self._slow_executor if name in self._slow else self._executor
            self._observing[name] = self._submit(partial(self._observed, target), threads)

    def _is_due(self, name: str, now: int) -> bool:
        """Whether its period is over; a clock that was set back makes it due as well."""
        due, target = self._due.get(name, 0), self.in_force.targets[name]
        return not now < due <= now + int(3 * target.entry.period_s * SECOND_US) + 120 * SECOND_US

    def _observed(self, target: Target) -> Observed:
        """Observe, and note whether it took long: what is slow to read gets threads of its own."""
        began_s = time.monotonic()
        try:
            return self.observed(target)
        finally:
            (self._slow.add if time.monotonic() - began_s > WAIT_S else self._slow.discard)(target.name)

    def observed(self, target: Target) -> Observed:
        """Read the signals and the platform of a target. Raises nothing for what cannot be read."""
        entry, errors = target.entry, dict[str, str]()
        found = signals.read_all(entry.signals, self._context, self._clock)
        errors |= found.errors
        busy: int | None = None
        if entry.busy is not None:
            value, reason = signals.read_source(entry.busy, self._context, 120.0, self._clock())
            if value is None or value.value > MOST_INSTANCES:
                errors["busy"] = reason if value is None else f"{value.value:g} is more than there can be"
            else:
                busy = max(0, round(value.value))
        counts, reason = read_counts(target)
        errors |= {"platform": reason} if reason else {}
        one = Observed(target=target, counts=counts, readings=found.readings, busy=busy, errors=errors)
        return self._with_outlook(one)

    def _with_outlook(self, one: Observed) -> Observed:
        try:
            outlook = self._outlook(one.target, one, self._clock())
        except Exception as error:  # without its forecast the target is scaled by its present demand
            log.exception("autoscale.forecast_failed", extra={"fields": {"target": one.target.name}})
            one.errors["forecast"] = f"{type(error).__name__}: {error}"[:300]
            return one
        return Observed(
            target=one.target, counts=one.counts, readings=one.readings, busy=one.busy, outlook=outlook,
            errors=one.errors,
        )  # fmt: skip

    def _in_force(self, target: Target) -> bool:
        """Whether the file still says the same of the target; else it is read anew, if at all."""
        now = self.in_force.targets.get(target.name)
        if now is not None and now.entry != target.entry:
            self.decide_soon(target.name)
        return now is not None and now.entry == target.entry

    # -- decide ------------------------------------------------------------------------------------------

    def _decide(self, token: int, observed: Sequence[Observed]) -> list[Decided]:
        if not self.lease.lasts(MARGIN_S):
            raise NoFence("the lease ran out before the decision was stored")
        with self._db.write() as session:
            self._fence(session, token)
            return decide_all(session, observed, token, self._clock())

    def _fence(self, session: Session, token: int) -> None:
        """Raise NoFence unless this hub's lease is the newest: the check is part of the transaction (A6)."""
        if not leases.holds(session, token):
            raise NoFence("another hub has taken the lease")

    # -- call --------------------------------------------------------------------------------------------

    def _call(self, decided: Iterable[Decided]) -> None:
        for one in decided:
            if one.calls:
                self._calling[one.target.name] = self._submit(partial(self._carry_out, one), self._executor)
            elif one.decision.calls:
                self._calling[one.target.name] = self._submit(partial(self._rehearse, one), self._slow_executor)

    def _carry_out(self, one: Decided) -> None:
        """Call the platform and store the outcome. Without the lease nothing is called: the next holder retries."""
        if not self.lease.lasts(CALL_S + MARGIN_S):
            return
        name, decision = one.target.name, one.decision
        outcome, reason = call_platform(one.target, decision.to, decision.key)
        with self._db.write() as session:
            store_outcome(session, name, decision.key, outcome, reason, self._clock())
        fields = {"target": name, "before": decision.before, "to": decision.to, "outcome": reason}
        log.info(f"scale.{outcome}", extra={"fields": fields})
        if outcome == "refused":  # a limit of the platform does not change at once
            wait_s = max(one.target.entry.period_s, one.target.entry.cooldown_s)
            self._due[name] = self._clock() + int(wait_s * SECOND_US)
        else:
            self._due[name] = self._clock() + SECOND_US  # read it back soon

    def _rehearse(self, one: Decided) -> None:
        """In a dry run: what the platform would say, where it can tell without a change."""
        outcome, reason = call_platform(one.target, one.decision.to, one.decision.key, dry_run=True)
        said = "the platform would accept it" if outcome == "done" else reason
        with self._db.write() as session:
            store_rehearsal(session, one.id, said, self._clock())

    # -- threads -----------------------------------------------------------------------------------------

    @staticmethod
    def _submit(do: Callable[[], _R], threads: Executor | None) -> Future[_R]:
        if threads is not None:
            return threads.submit(do)
        future: Future[_R] = Future()
        try:
            future.set_result(do())
        except Exception as error:  # noqa: BLE001 - raised again where the result is taken
            future.set_exception(error)
        return future

    def _ready(self, items: WorkItems, futures: dict[str, Future[_R]], kind: str) -> list[_R]:
        """Wait a while, and take the results that are there. A failure is stored as the item's."""
        wait(futures.values(), WAIT_S)
        found = []
        for name in [name for name, future in futures.items() if future.done()]:
            result = items.run(kind, name, futures.pop(name).result)
            if result is not None:
                found.append(result)
        return found


def read_counts(target: Target) -> tuple[Counts | None, str]:
    """(the platform's counts, ''), or (None, why they are unknown)."""
    try:
        counts = target.scaler.current()
    except (ScaleRefused, NotReady) as error:
        return None, storable(error.reason)
    except Exception as error:  # noqa: BLE001 - a plug-in may fail in any way; its target is held, and others go on
        return None, _failed(target, error)
    wrong = [count for count in (counts.desired, counts.ready) if not _is_count(count)]
    if counts.desired is None or wrong:
        return None, storable(f"{counts.desired!r} desired, {counts.ready!r} ready is no count; nothing was believed")
    return counts, ""


def _is_count(count: object) -> bool:
    """Whether a plug-in's count can be one; None is an unknown one."""
    return count is None or (type(count) is int and 0 <= count <= MOST_INSTANCES)


def call_platform(target: Target, to: int, key: str, *, dry_run: bool = False) -> tuple[Outcome, str]:
    """Ask the platform for `to` instances: how it ended, and in words."""
    try:
        found = target.scaler.scale(to, key, dry_run=dry_run)
    except ScaleRefused as error:
        return "refused", storable(error.reason)
    except Drifted as error:  # the key is spent: decide again on what is there
        return "refused", storable(error.reason)
    except NotReady as error:
        return "unknown", storable(error.reason)
    except Exception as error:  # noqa: BLE001 - a plug-in may fail in any way: what it did is read back
        return "unknown", _failed(target, error)
    if found != to and not dry_run:
        return "unknown", f"the platform answers {found} instances"
    return "done", f"{found} instances asked for"


def _failed(target: Target, error: Exception) -> str:
    reason = text_of(error)
    log.warning("autoscale.platform_failed", extra={"fields": {"target": target.name, "error": reason}})
    return reason


def open_executor() -> ThreadPoolExecutor:
    """The threads of one hub's autoscaler."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="autoscale")
