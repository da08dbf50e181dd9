"""The autoscaler of one hub: its targets, its workers, and what REST asks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud_hub.autoscale import lease as leases
from cloud_hub.autoscale.core import targets
from cloud_hub.autoscale.core.state import State
from cloud_hub.autoscale.core.turn import Control, turn
from cloud_hub.autoscale.forecasts import Forecasts
from cloud_hub.autoscale.lease import HubLease
from cloud_hub.autoscale.signals import SignalContext
from cloud_hub.autoscale.signals.base import PoolLoad
from cloud_hub.autoscale.store import observation_of
from cloud_hub.autoscale.targets_file import Target, TargetsInForce, open_target
from cloud_hub.autoscale.worker import PERIOD_S, Autoscaler, open_executor
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Lease, ScaleTarget
from cloud_hub.runtime.worker import WorkerSpec
from shared.errors import ConfigError, NotReady


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleWish:
    """What a target of a file would decide now. `known` is whether the hub has this target already."""

    target: str
    known: bool
    before: int | None
    to: int
    action: str
    reason: str
    candidates: list[dict[str, Any]]
    errors: dict[str, str]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The file in force, its last fault, and who holds the lease: this hub, or another."""

    file: str
    error: str
    targets: list[str]
    holder: str
    token: int | None
    active: bool


class AutoscaleSystem:
    """Opens the targets file of the settings; raises ConfigError. Without a file there are no targets."""

    def __init__(
        self, db: Database, path: str, pools: Mapping[str, PoolLoad], clock: Callable[[], int] = now_us
    ) -> None:  # fmt: skip
        self._db, self._clock = db, clock
        self.in_force = TargetsInForce(path)
        self.lease = HubLease(db)
        self._context = SignalContext(db, pools)
        self._executor, self._slow_executor = open_executor(), open_executor()
        self.forecasts = Forecasts(db, self.in_force, clock)
        self.worker = Autoscaler(
            db, self.in_force, self.lease, self._context, clock=clock, executor=self._executor,
            slow_executor=self._slow_executor, outlook=self.forecasts.outlook,
        )  # fmt: skip

    def workers(self) -> list[WorkerSpec]:
        """None if no file is named."""
        if not self.in_force.path:
            return []
        return [
            WorkerSpec(name="autoscale", run_once=self.worker.run_once, period_s=PERIOD_S),
            WorkerSpec(name="autoscale-backtests", run_once=self.forecasts.run_once, period_s=60.0),
        ]

    def close(self) -> None:
        """After the workers have stopped: let another hub take the lease at once."""
        for executor in (self._executor, self._slow_executor):
            executor.shutdown(wait=False, cancel_futures=True)
        with suppress(NotReady):
            self.lease.release()

    def status(self) -> Status:
        """How the autoscaler of this hub stands."""
        with self._db.read() as session:
            row = session.get(Lease, leases.NAME)
        token = self.lease.token
        return Status(
            file=self.in_force.path, error=self.in_force.error, targets=sorted(self.in_force.targets),
            holder=row.holder if row is not None else "", token=row.token if row is not None else None,
            active=token is not None,
        )  # fmt: skip

    def check(self, text: str) -> list[AutoscaleWish]:
        """What each target of a file would decide now; nothing is stored or called. Raises ConfigError."""
        entries = targets.read(text, "targets")
        return [self._wish(entry) for entry in entries]

    def _wish(self, entry: targets.TargetEntry) -> AutoscaleWish:
        try:
            target = open_target("targets", entry)
        except (ConfigError, NotReady) as error:
            errors = {"platform": str(error)}
            return AutoscaleWish(target=entry.name, known=False, before=None, to=entry.minimum, action="hold",
                        reason="the platform cannot be used", candidates=[], errors=errors)  # fmt: skip
        return self._decided(target)

    def _decided(self, target: Target) -> AutoscaleWish:
        with self._db.read() as session:
            row = session.get(ScaleTarget, target.name)
        one = self.worker.observed(target)
        state = msgspec.json.decode(row.state, type=State) if row is not None else State()
        state = msgspec.structs.replace(state, pending=None)
        observation = observation_of(one, 0, self._clock())
        decision, _ = turn(target.entry.policy, state, observation, Control(), target.name)
        return AutoscaleWish(
            target=target.name, known=row is not None, before=decision.before, to=decision.to, action=decision.action,
            reason=decision.reason, candidates=list(msgspec.to_builtins(decision.candidates)), errors=one.errors,
        )  # fmt: skip
