"""The composition root of the hub: connects ingest, background workers and REST."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from cloud_hub.access import lockout
from cloud_hub.access.lockout import Lockout
from cloud_hub.access.oidc import Oidc
from cloud_hub.actions import worker as actions
from cloud_hub.actions.catalogue import Mailer, Tools, load_catalogue
from cloud_hub.actions.policy_file import load_policy
from cloud_hub.actions.service import ActionService
from cloud_hub.api.dependencies import Hub
from cloud_hub.autoscale.system import AutoscaleSystem
from cloud_hub.broker.zeroconf_announcer import ZeroconfAnnouncer
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from cloud_hub.configurations.reconciler import ConfigurationReconciler
from cloud_hub.database.sessions import Database
from cloud_hub.incidents import service as incident_service
from cloud_hub.incidents import worker as incidents
from cloud_hub.inference.experts import worker as experts
from cloud_hub.inference.experts.metrics import ExpertMetrics
from cloud_hub.inference.gateway.build import open_gateway
from cloud_hub.inference.gateway.devices import DeviceDesk
from cloud_hub.inference.gateway.worker import workers as gateway_workers
from cloud_hub.ingest.listener import Listener
from cloud_hub.jobs import worker as jobs
from cloud_hub.notifications import delivery
from cloud_hub.notifications.mail import Mail
from cloud_hub.playbooks import worker as playbooks
from cloud_hub.runtime import tracing
from cloud_hub.runtime.context import HubContext, WorkerFactory
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.runtime.waiters import WaiterRegistry
from cloud_hub.runtime.worker import BURST_S, BackgroundWorker, WorkerSpec, WorkerStatus, WorkResult
from cloud_hub.scada.host import open_host
from cloud_hub.security import aws_key
from cloud_hub.settings import Settings, channels
from cloud_hub.telemetry import worker as telemetry
from cloud_hub.thresholds import worker as thresholds
from cloud_hub.thresholds.monitoring.forecasters import ForecasterStore
from cloud_hub.ui.web import create_web_app

log = logging.getLogger(__name__)

WORKERS: tuple[WorkerFactory, ...] = (
    jobs.workers,
    telemetry.workers,
    delivery.workers,
)
"""The packages with background workers. Those that share state with REST are in HubApp."""


class HubApp:
    """All components of a hub. The constructor raises ConfigError; the web server calls `start` and `stop`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        aws_key.read(settings.aws_key_path)
        tracing.configure(settings.tracing, settings.name)
        self._oidc = Oidc(settings.oidc) if settings.oidc else None
        self.db = Database(settings.database_url)
        sign = command_signer(settings)
        self._expert_metrics = ExpertMetrics()
        self._gateway = open_gateway(self.db, settings.inference)
        desk = DeviceDesk(self._gateway, self.publish, settings.inference)
        self._listener = Listener(
            settings.mqtt, self.db, settings.twins, self.notify, self.devices_changed, sign, desk.ask
        )
        self._sparkplug = open_host(self.db, settings, self.devices_changed, self.notify)
        self._announcer = ZeroconfAnnouncer(settings)
        self._waiters = WaiterRegistry()
        self._forecasters = ForecasterStore()
        context = HubContext(db=self.db, settings=settings, connected=lambda: self._listener.connected)
        self.actions = open_actions(settings)
        pools = dict(self._gateway.pools) if self._gateway is not None else {}
        self.autoscale = AutoscaleSystem(self.db, settings.autoscale.targets_file, pools)
        self._reconciler = ConfigurationReconciler(self.db, context.max_twin_bytes, settings.configurations.period_s)
        specs = [spec for workers in WORKERS for spec in workers(context)]
        specs += self.autoscale.workers()
        specs += experts.workers(context, self._gateway, self._expert_metrics)
        specs += incidents.workers(context, self.actions, self._gateway)
        specs += actions.workers(self.db, self.actions)
        specs += playbooks.workers(self.db, self.actions, incident_service.run_ended)
        specs += gateway_workers(self.db, self._gateway, settings.inference, self.notify)
        specs += thresholds.workers(context, self._forecasters)
        specs += self._sparkplug.workers() if self._sparkplug is not None else []
        specs.append(WorkerSpec(name="configurations", run_once=self._reconciler.run_once, linger_s=BURST_S))
        self._workers = {spec.name: BackgroundWorker(spec, self._finish) for spec in specs}

    def start(self) -> None:
        """Connect to the broker and start the workers."""
        self._listener.start()
        if self._sparkplug is not None:
            self._sparkplug.start()
        for worker in self._workers.values():
            worker.start()
        self._announcer.start()
        log.info("hub.started", extra={"fields": {"epoch": self.db.hub_epoch, "workers": sorted(self._workers)}})

    def stop(self) -> None:
        """Stop everything, ingest first."""
        self._announcer.stop()
        self._listener.stop()
        if self._sparkplug is not None:
            self._sparkplug.stop()
        for worker in self._workers.values():
            worker.stop()
        self.autoscale.close()
        self.db.close()
        tracing.shutdown()

    def notify(self, name: str) -> None:
        """Wake the worker `name`, or the requests that wait for the command with this id."""
        if name == "configurations":
            self._reconciler.all_changed()
        if name in self._workers:
            self._workers[name].notify()
        else:
            self._waiters.notify(name)

    def devices_changed(self, devices: Iterable[str]) -> None:
        """Reconcile the configurations of these devices, and look at what is desired of their Sparkplug metrics."""
        devices = set(devices)
        if self._sparkplug is not None:
            self._sparkplug.devices_changed(devices)
        self._reconciler.changed(devices)
        self._workers["configurations"].notify()

    def publish(self, messages: Iterable[OutgoingMessage]) -> None:
        """Publish messages whose transaction is committed."""
        self._listener.publish(messages)

    def _heard_us(self, device: str) -> int:
        scada = self._sparkplug.heard_us(device) if self._sparkplug is not None else 0
        return max(self._listener.heard_us(device), scada)

    def statuses(self) -> list[WorkerStatus]:
        """The status of each background worker."""
        return [worker.status() for worker in self._workers.values()]

    def _finish(self, result: WorkResult) -> None:
        self.publish(result.messages)
        if result.changed:
            self.devices_changed(result.changed)
        for name in result.wake:
            self.notify(name)

    def rest(self) -> FastAPI:
        """The web application; it starts and stops this hub."""

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            if self._gateway is not None:
                self._gateway.bind()
            self.start()
            yield
            if self._gateway is not None:
                await self._gateway.aclose()
            await asyncio.to_thread(self.stop)  # workers may wait for an answer from this loop

        app = create_web_app(lifespan)
        with self.db.read() as session:
            locked = Lockout(lockout.active_locks(session, now_us()))
        app.state.hub = Hub(
            settings=self.settings, db=self.db, publish=self.publish, notify=self.notify, actions=self.actions,
            connected=lambda: self._listener.connected, changed=self.devices_changed, waiters=self._waiters,
            heard_us=self._heard_us, sparkplug=self._sparkplug, lockout=locked, oidc=self._oidc,
            forecasters=self._forecasters, workers=self.statuses, gateway=self._gateway,
            expert_metrics=self._expert_metrics, autoscale=self.autoscale,
            ingest_rate=self._listener.rate,
        )  # fmt: skip
        return app


def open_actions(settings: Settings) -> ActionService:
    """The service of actions; raises ConfigError."""
    tools = Tools(
        settings=settings.actions, max_twin_bytes=settings.twins.max_bytes,
        mailers={
            name: _mailer(name, channel, settings.name)
            for name, channel in settings.notify.items()
            if isinstance(channel, channels.Mail)
        },
    )  # fmt: skip
    catalogue = load_catalogue(tools)
    service = ActionService(policy=load_policy(settings.actions, catalogue.types), catalogue=catalogue)
    service.on_end.append(incident_service.action_ended)
    service.on_storm.append(incident_service.action_storm)
    return service


def _mailer(name: str, channel: channels.Mail, hub: str) -> Mailer:
    mail = Mail(f"notify.{name}", channel, hub)
    return lambda subject, text, key: mail.send_text(subject, text, key, now_us())


def command_signer(settings: Settings) -> Callable[[bytes], bytes | None]:
    """A function that signs commands with the hub's CA key; it returns None while there is no CA."""
    folder = CaFolder(settings.state_dir)
    keys = [folder.open_signing()] if folder.exists else []

    def sign(message: bytes) -> bytes | None:
        if not keys and folder.exists:
            keys.append(folder.open_signing())
        return keys[0].sign(message) if keys else None

    return sign
