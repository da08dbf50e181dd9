"""The hub, put together: ingest, background loops and REST around one database. This is the map of the hub."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from cloud_hub import aws_key, diagnosis, incidents, jobs, lockout
from cloud_hub.actions import desk as actions
from cloud_hub.alarms import desk as alarm_desk
from cloud_hub.alarms import suppression
from cloud_hub.api import (
    alarms,
    audit,
    aws,
    commands,
    configurations,
    devices,
    est,
    learnings,
    models,
    notifications,
    problems,
    prometheus,
    query,
    tags,
    telemetry,
    tokens,
    twins,
)
from cloud_hub.api import incidents as incident_routes
from cloud_hub.api import jobs as job_routes
from cloud_hub.api.bells import Bells
from cloud_hub.api.hub import Hub
from cloud_hub.autoscale import Scaler
from cloud_hub.autoscale.steps import Autoscaler
from cloud_hub.ca.folder import CaFolder
from cloud_hub.clock import now_us
from cloud_hub.configurator import Configurator
from cloud_hub.db import Database
from cloud_hub.discovery import Announcer
from cloud_hub.experts import Expert
from cloud_hub.experts.desk import ExpertDesk
from cloud_hub.experts.onnx import open_expert
from cloud_hub.glm.engines import Engine
from cloud_hub.ingest.listener import Listener
from cloud_hub.lockout import Lockout
from cloud_hub.loops import Loop
from cloud_hub.notify.kinds import open_sender
from cloud_hub.notify.outgoing import Channel
from cloud_hub.oidc import Oidc
from cloud_hub.retention import Sweep
from cloud_hub.rollups.roller import Roller
from cloud_hub.settings import Settings
from cloud_hub.thresholds import refit, rollout
from cloud_hub.thresholds.fleet_watch import FleetWatch
from cloud_hub.thresholds.forecasters import Forecasters
from cloud_hub.thresholds.foreseeing import Foreseeing
from cloud_hub.thresholds.watch import Watch
from cloud_hub.twins import Outgoing
from shared import VERSION, plugins
from shared.errors import ConfigError, ModelError

log = logging.getLogger(__name__)

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
        self._bells = Bells()
        engine = _engine(settings)
        experts = ExpertDesk(self.db, _experts(settings), settings.experts, settings.twins.max_bytes)
        self._configurator = Configurator(
            self.db, self.publish, settings.twins.max_bytes, settings.configurations.period_s
        )
        self._watcher = Watch(self.db, incidents.alarm_changed)
        self._fleet = FleetWatch(self.db, incidents.alarm_changed)
        self._loops = {
            "experts": Loop("experts", lambda: self.publish(experts.step()), 1.0),
            "desk": Loop("desk", lambda: self._desk(engine), 1.0),
            "actions": Loop("actions", self._actions, 0.5, linger_s=0.05),
            "alarms": Loop("alarms", self._alarms, 1.0, linger_s=0.05),
            "rollouts": Loop("rollouts", self._rollouts, 1.0, linger_s=0.05),
            "refit": Loop("refit", self._refit, 5.0),
            "watch": Loop("watch", self._watch, WATCH_S),
            "peers": Loop("peers", self._peers, WATCH_S, linger_s=0.05),
            "jobs": Loop("jobs", self._jobs, 1.0),
            "configurations": Loop("configurations", self._configurations, 1.0, linger_s=0.05),
        }
        roller = Roller(self.db)
        self._forecasters = Forecasters()
        foreseeing = Foreseeing(self.db, self._forecasters, incidents.alarm_changed)
        self._loops["foresee"] = Loop("foresee", lambda: self._foresee(foreseeing), FORESEE_S)
        self._loops["rollups"] = Loop("rollups", lambda: self._roll(roller), ROLLUPS_S, linger_s=0.05)
        if any(settings.retention.model_dump().values()):
            sweep = Sweep(self.db, settings.retention)
            self._loops["retention"] = Loop("retention", lambda: self._sweep(sweep), RETENTION_S, linger_s=0.05)
        for name, channel in settings.notify.items():
            sender = open_sender(name, channel, settings.name)
            told = Channel(self.db, name, channel, sender, random.SystemRandom().random)
            self._loops[f"notify-{name}"] = Loop(f"notify-{name}", told.step, 1.0)
        scaler = _scaler(settings)
        if scaler is not None:
            self._loops["autoscale"] = Loop("autoscale", Autoscaler(self.db, scaler, settings.autoscale).step, 2.0)

    def start(self) -> None:
        """Begin to listen and to work."""
        self._listener.start()
        for loop in self._loops.values():
            loop.start()
        self._announcer.start()
        log.info("hub.started", extra={"fields": {"epoch": self.db.hub_epoch, "loops": sorted(self._loops)}})

    def stop(self) -> None:
        """End everything, in the opposite order."""
        self._announcer.stop()
        self._listener.stop()
        for loop in self._loops.values():
            loop.stop()
        self.db.close()

    def ring(self, name: str) -> None:
        """Wake the loop `name`, or the requests that wait for the command `name`.

        Configurations are then held against every device.
        """
        if name == "configurations":
            self._configurator.all_changed()
        if name in self._loops:
            self._loops[name].ring()
        else:
            self._bells.ring(name)

    def changed(self, devices: Iterable[str]) -> None:
        """Hold the configurations against these devices."""
        self._configurator.changed(devices)
        self._loops["configurations"].ring()

    def publish(self, messages: Iterable[Outgoing]) -> None:
        """Publish what is already committed."""
        self._listener.publish(messages)

    # -- steps of the loops ------------------------------------------------------------------------

    def _desk(self, engine: Engine | None) -> None:
        if diagnosis.step(self.db, engine, self.settings.actions):
            self.ring("actions")

    def _actions(self) -> None:
        with self.db.read() as session:
            if not actions.due(session, now_us()):
                return
        with self.db.write() as session:
            messages = actions.step(session, now_us(), self.settings.actions)
        self.publish(messages)

    def _alarms(self) -> None:
        """What time has changed: alarms that are suppressed no more come back, and somebody is called."""
        with self.db.read() as session:
            if not suppression.changes(session, now_us()):
                return
        with self.db.write() as session:
            rows = incidents.resume(session, now_us())
            words = [alarm_desk.word(row, now_us(), who="hub") for row in rows]
        self.publish(words)
        self.ring("desk")

    def _rollouts(self) -> None:
        with self.db.read() as session:
            if not rollout.due(session):
                return
        with self.db.write() as session:
            messages = rollout.step(session, now_us(), self.settings.twins.max_bytes)
        self.publish(messages)
        if messages:  # some devices at a time, so that others get the database in between
            self.ring("rollouts")

    def _refit(self) -> None:
        if refit.step(self.db, now_us()):  # one page at a time, so that others get the database in between
            self._loops["refit"].ring()
            self.ring("rollouts")

    def _watch(self) -> None:
        more, changed = self._watcher.step(now_us(), self._listener.connected)
        if more:  # one group at a time, as above
            self._loops["watch"].ring()
        if changed:
            self.ring("desk")

    def _peers(self) -> None:
        more, changed = self._fleet.step(now_us())
        if more:  # one metric at a time, as above
            self._loops["peers"].ring()
        if changed:
            self.ring("desk")

    def _foresee(self, foreseeing: Foreseeing) -> None:
        more, changed = foreseeing.step(now_us())
        if more:
            self._loops["foresee"].ring()
        if changed:
            self.ring("desk")

    def _jobs(self) -> None:
        done = jobs.step(self.db, now_us(), self.settings.twins.max_bytes)
        if done is not None:  # one piece at a time, so that others get the database in between
            self.publish(done.messages)
            self.changed(done.outcomes)
            self.ring("jobs")

    def _configurations(self) -> None:
        if self._configurator.step():
            self._loops["configurations"].ring()

    def _sweep(self, sweep: Sweep) -> None:
        if sweep.step(now_us()) is not None:  # one batch at a time, so that others get the database in between
            self.ring("retention")

    def _roll(self, roller: Roller) -> None:
        if roller.step(now_us()):
            self.ring("rollups")

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
            locked = Lockout(lockout.kept(session, now_us()))
        app.state.hub = Hub(
            settings=self.settings, db=self.db, publish=self.publish, ring=self.ring,
            connected=lambda: self._listener.connected, changed=self.changed, bells=self._bells,
            heard_us=self._listener.heard_us, lockout=locked, oidc=self._oidc,
            forecasters=self._forecasters,
        )  # fmt: skip
        return app


def web(lifespan: Any = None) -> FastAPI:
    """The routes alone; `openapi.json` is made from this without a database."""
    app = FastAPI(title="Tidegate hub", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None)
    problems.install(app)
    rooms = (
        devices, commands, tags, telemetry, query, twins, alarms, incident_routes, notifications, models, learnings,
        job_routes, configurations, tokens, audit,
    )  # fmt: skip
    for router in (*(room.router for room in rooms), configurations.owners_router, devices.restoring):
        app.include_router(router)
    app.include_router(est.router)
    app.include_router(prometheus.router)
    aws.install(app)

    @app.get("/healthz", tags=["health"])
    def healthz() -> dict[str, Any]:
        """Whether the hub lives and sees its broker; needs no token."""
        hub: Hub = app.state.hub
        return {"version": VERSION, "broker": hub.connected(), "hub_epoch": hub.db.hub_epoch}

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


def _experts(settings: Settings) -> dict[str, Expert]:
    experts: dict[str, Expert] = {}
    for model, folder in settings.experts.bundles.items():
        try:
            experts[model] = open_expert(folder)
        except ModelError as error:
            cure = "Give the folder of a model bundle"
            raise ConfigError(f"experts.bundles.{model}", str(error), cure) from error
    return experts


def _engine(settings: Settings) -> Engine | None:
    glm = settings.glm
    if not glm.url:
        return None
    options = glm.model_dump(exclude={"kind"}, exclude_defaults=True)
    engine: Engine = plugins.load(plugins.ENGINES, glm.kind, "glm.kind")(options)
    return engine


def _scaler(settings: Settings) -> Scaler | None:
    if not settings.autoscale.kind:
        return None
    scaler: Scaler = plugins.load(plugins.SCALERS, settings.autoscale.kind, "autoscale.kind")(
        settings.autoscale.options
    )
    return scaler
