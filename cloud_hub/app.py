"""The hub, put together: ingest, background loops and REST around one database. This is the map of the hub."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI

from cloud_hub.access import lockout
from cloud_hub.access.lockout import Lockout
from cloud_hub.access.oidc import Oidc
from cloud_hub.api import (
    admission,
    alarms,
    audit,
    aws,
    commands,
    configurations,
    devices,
    est,
    health,
    learnings,
    models,
    notifications,
    openapi,
    problems,
    prometheus,
    query,
    tags,
    telemetry,
    tokens,
    twins,
    workers,
)
from cloud_hub.api import incidents as incident_routes
from cloud_hub.api import jobs as job_routes
from cloud_hub.api.hub import Hub
from cloud_hub.autoscale.worker import Autoscaler
from cloud_hub.broker.announcer import Announcer
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.extensions import open_engine, open_experts, open_scaler
from cloud_hub.incidents import actions
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker as diagnosis
from cloud_hub.inference.experts.worker import ExpertWorker
from cloud_hub.ingest.listener import Listener
from cloud_hub.jobs import service as jobs
from cloud_hub.notifications.delivery import ChannelWorker
from cloud_hub.notifications.senders import open_sender
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.waiters import WaiterRegistry
from cloud_hub.runtime.worker import BackgroundWorker, WorkerSpec, WorkerStatus, WorkResult
from cloud_hub.security import aws_key
from cloud_hub.settings import Settings
from cloud_hub.telemetry.retention import RetentionWorker
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.thresholds.learning import refit
from cloud_hub.thresholds.monitoring.anomalies import AnomalyMonitor
from cloud_hub.thresholds.monitoring.forecasters import ForecasterStore
from cloud_hub.thresholds.monitoring.forecasts import ForecastMonitor
from cloud_hub.thresholds.monitoring.peers import PeerMonitor
from cloud_hub.thresholds.rollouts import service as rollout
from shared import VERSION

log = logging.getLogger(__name__)

BURST_S = 0.05
"""A burst of notifications within this time is one run."""
WATCH_S = 10.0
"""Between two looks at new telemetry of the series that are watched."""
FORESEE_S = 60.0
"""Between two looks minutes ahead."""
ROLLUPS_S = 60.0
"""Between two looks for hours that are over and must be rolled up."""
RETENTION_S = 600.0
"""Between two looks for rows that have become old."""


class HubApp:
    """All parts of one hub. Opening it raises ConfigError; `start` and `stop` are called by the web server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        aws_key.read(settings.aws_key_path)
        self._oidc = Oidc(settings.oidc) if settings.oidc else None
        self.db = Database(settings.database_url)
        sign = signing(settings)
        self._listener = Listener(settings.mqtt, self.db, settings.twins, self.ring, self.changed, sign)
        self._announcer = Announcer(settings)
        self._bells = WaiterRegistry()
        self._forecasters = ForecasterStore()
        self._configurator = ConfigurationReconciler(
            self.db, settings.twins.max_bytes, settings.configurations.period_s
        )
        self._workers = {spec.name: BackgroundWorker(spec, self._finish) for spec in self._specs()}

    def _specs(self) -> list[WorkerSpec]:
        """The table of background workers: a line for each."""
        db, settings, max_bytes = self.db, self.settings, self.settings.twins.max_bytes
        engine = open_engine(settings)
        experts = ExpertWorker(db, open_experts(settings), settings.experts, max_bytes)
        watch, fleet = AnomalyMonitor(db, incidents.handle_alarm), PeerMonitor(db, incidents.handle_alarm)
        foreseeing = ForecastMonitor(db, self._forecasters, incidents.handle_alarm)
        roller, sweep = RollupWorker(db), RetentionWorker(db, settings.retention)

        def spec(name: str, run: Callable[[], WorkResult], period_s: float, linger_s: float = 0.0) -> WorkerSpec:
            return WorkerSpec(name=name, run_once=run, period_s=period_s, linger_s=linger_s)

        specs = [
            spec("experts", experts.run_once, 1.0),
            spec("diagnosis", lambda: diagnosis.run_once(db, engine, settings.actions), 1.0),
            spec("actions", lambda: actions.run_once(db, now_us(), settings.actions), 0.5, BURST_S),
            spec("alarms", lambda: incidents.apply_suppression_changes(db, now_us()), 1.0, BURST_S),
            spec("rollouts", lambda: rollout.run_once(db, now_us(), max_bytes), 1.0, BURST_S),
            spec("refit", lambda: refit.run_once(db, now_us()), 5.0),
            spec("watch", lambda: watch.run_once(now_us(), self._listener.connected), WATCH_S),
            spec("peers", lambda: fleet.run_once(now_us()), WATCH_S, BURST_S),
            spec("foresee", lambda: foreseeing.run_once(now_us()), FORESEE_S),
            spec("jobs", lambda: jobs.run_once(db, now_us(), max_bytes), 1.0),
            spec("configurations", self._configurator.run_once, 1.0, BURST_S),
            spec("rollups", lambda: roller.run_once(now_us()), ROLLUPS_S, BURST_S),
        ]
        if any(settings.retention.model_dump().values()):
            specs.append(spec("retention", lambda: sweep.run_once(now_us()), RETENTION_S, BURST_S))
        for name, channel in settings.notify.items():
            sender = open_sender(name, channel, settings.name)
            told = ChannelWorker(db, name, channel, sender, random.SystemRandom().random)
            specs.append(spec(f"notify-{name}", told.run_once, 1.0))
        scaler = open_scaler(settings)
        if scaler is not None:
            specs.append(spec("autoscale", Autoscaler(db, scaler, settings.autoscale).run_once, 2.0))
        return specs

    def start(self) -> None:
        """Begin to listen and to work."""
        self._listener.start()
        for worker in self._workers.values():
            worker.start()
        self._announcer.start()
        log.info("hub.started", extra={"fields": {"epoch": self.db.hub_epoch, "workers": sorted(self._workers)}})

    def stop(self) -> None:
        """End everything, in the opposite order."""
        self._announcer.stop()
        self._listener.stop()
        for worker in self._workers.values():
            worker.stop()
        self.db.close()

    def ring(self, name: str) -> None:
        """Wake the worker `name`, or the requests that wait for the command `name`.

        Configurations are then held against every device.
        """
        if name == "configurations":
            self._configurator.all_changed()
        if name in self._workers:
            self._workers[name].notify()
        else:
            self._bells.notify(name)

    def changed(self, devices: Iterable[str]) -> None:
        """Hold the configurations against these devices."""
        self._configurator.changed(devices)
        self._workers["configurations"].notify()

    def publish(self, messages: Iterable[OutgoingMessage]) -> None:
        """Publish what is already committed."""
        self._listener.publish(messages)

    def statuses(self) -> list[WorkerStatus]:
        """How the background workers do."""
        return [worker.status() for worker in self._workers.values()]

    def _finish(self, result: WorkResult) -> None:
        """What a run of a worker leaves to do."""
        self.publish(result.messages)
        if result.changed:
            self.changed(result.changed)
        for name in result.wake:
            self.ring(name)

    # -- REST --------------------------------------------------------------------------------------

    def rest(self) -> FastAPI:
        """The web application."""

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            self.start()
            yield
            self.stop()

        app = web(lifespan)
        with self.db.read() as session:
            locked = Lockout(lockout.active_locks(session, now_us()))
        app.state.hub = Hub(
            settings=self.settings, db=self.db, publish=self.publish, ring=self.ring,
            connected=lambda: self._listener.connected, changed=self.changed, bells=self._bells,
            heard_us=self._listener.heard_us, lockout=locked, oidc=self._oidc,
            forecasters=self._forecasters, workers=self.statuses,
        )  # fmt: skip
        return app


def web(lifespan: Any = None) -> FastAPI:
    """The routes alone; `openapi.json` is made from this without a database."""
    app = FastAPI(
        title="Tidegate hub", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
    )  # fmt: skip
    openapi.install(app)
    strict = [Depends(openapi.known_query)]
    problems.install(app)
    admission.install(app)
    rooms = (
        devices, commands, tags, telemetry, query, twins, alarms, incident_routes, notifications, models, learnings,
        job_routes, configurations, tokens, audit, workers,
    )  # fmt: skip
    for router in (*(room.router for room in rooms), configurations.owners_router, devices.restoring):
        app.include_router(router, dependencies=strict)
    app.include_router(health.router)
    app.include_router(est.router, dependencies=strict)
    app.include_router(prometheus.router, dependencies=strict)
    aws.install(app, strict)
    return app


def signing(settings: Settings) -> Callable[[bytes], bytes | None]:
    """With a CA, the hub signs its commands: from the start, or from the moment on that the CA is made."""
    folder = CaFolder(settings.state_dir)
    keys = [folder.open_signing()] if folder.exists else []

    def sign(message: bytes) -> bytes | None:
        if not keys and folder.exists:
            keys.append(folder.open_signing())
        return keys[0].sign(message) if keys else None

    return sign
