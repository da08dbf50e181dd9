"""Composition root of the agent: collectors -> models -> gate and rules -> outbox -> link, and desired state back.

All parts run in the thread of the event loop; the MQTT client and the readers of inference processes post to it.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent import clock
from edge_agent.commands import processes
from edge_agent.commands.scripts import script_verbs
from edge_agent.commands.service import Commands
from edge_agent.commands.sync import RUN_PERIOD_S, CommandSync
from edge_agent.config import Config, Device, Settings
from edge_agent.link.downloads import Downloader
from edge_agent.link.unenrolled import Unenrolled
from edge_agent.link.uplink import Uplink
from edge_agent.models.streams import ModelStreams
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.limit_set import register_rules
from edge_agent.pipeline.pipeline import Pipeline
from edge_agent.pipeline.sampler import Sampler
from edge_agent.questions.service import Questions
from edge_agent.runtime import health, machine
from edge_agent.runtime.core.clock_monitor import ClockMonitor
from edge_agent.runtime.event_loop import EventLoop
from edge_agent.store.disk import Disk
from edge_agent.store.monitor import StoreMonitor
from edge_agent.store.outbox import Outbox
from edge_agent.store.statestore import StateStore, state_dir
from edge_agent.twin.settings import SettingsHandler
from edge_agent.twin.sync import TwinSync
from shared import PROTOCOL, VERSION
from shared.device_profile import DeviceProfile
from shared.protocol.codec import decode
from shared.protocol.messages import AlarmStateMessage, Birth, EscalationAnswer, Event, InferenceResponse, Metric
from shared.thresholds import JudgeState
from shared.transport.mqtt import Inbound

if TYPE_CHECKING:
    from edge_agent.link.trust import TrustManager
    from edge_agent.sparkplug.service import SparkplugService

log = logging.getLogger(__name__)


class Agent:
    """The agent of one device. The constructor opens stores and collectors (raises ConfigError); then call `run`."""

    def __init__(self, config: Config, profile: DeviceProfile) -> None:
        self._config, self._profile = config, profile
        self._started_us, self._missing = clock.now_us(), machine.missing(profile)
        self._unsupported = machine.unsupported(profile)
        folder = state_dir(config.device.state_dir)
        self.loop = EventLoop()
        self._disk = Disk(folder)
        self._clock = ClockMonitor(health.clock_quality())
        self._state_store = StateStore(folder / "kept.sqlite", self._disk)
        self._boot: int = self._state_store.get("boot", 0) + 1
        self._state_store.put("boot", self._boot)
        self._outbox = Outbox(
            folder / "outbox.sqlite", int(config.outbox.max_mb * 1e6), f"{secrets.randbits(64):016x}", self._disk,
            keep_s={"telemetry": config.outbox.telemetry_keep_s, "event": config.outbox.event_keep_s},
        )  # fmt: skip
        self._stores = StoreMonitor(self._disk, self._outbox)
        active = self._state_store.get("alarms", {}, dict[str, JudgeState])
        rules = LimitRules(config.hard_limits, active, config.hard_alarm_rules)
        self._sparkplug: SparkplugService | None = None
        self._pipeline = Pipeline(
            rules,
            self._outbox,
            self._state_store,
            pump=lambda: self._uplink.pump(),  # noqa: PLW0108
            observe=self._observe,
        )
        self._health = health.Health(self._outbox)
        self._models = ModelStreams(
            config, profile, self.loop.post, self._pipeline.add, self._model_changed,
            output=lambda message: self._uplink.publish(f"results/{message.model}", message, qos=0),
        )  # fmt: skip
        self._values: dict[str, list[str]] = self._state_store.get("model_values", {}, dict[str, list[str]])
        self._sampler = Sampler(
            self.loop, config.collectors, self._pipeline.add, self._models.feeds, self._outbox.checkpoint
        )
        self._trust = _trust(config.device)
        self._uplink = Uplink(
            config, self._outbox, self._state_store.get("hub_epoch", ""), self.loop.post,
            birth=self._birth, on_fetch=self._fetch, on_message=self._received, enrolled=self._trust.tls(),
        )  # fmt: skip
        self._twin = TwinSync(self._state_store, self._uplink.publish)
        self._questions = Questions(self._state_store, self._uplink.publish)
        self._sampler.use_questions(self._questions.ask)
        self._settings = SettingsHandler(config, self._use_settings)
        verbs = (
            processes.verbs
            | script_verbs(config.scripts)
            | {key: verb for model in self._models.streams for key, verb in model.verbs.items()}
        )
        commands = Commands(self._state_store, verbs)
        self._commands = CommandSync(commands, self._uplink.publish, self._trust.refusal, self._trust.clock)
        self._rules, self._declared = rules, {metric.name for metric in self._metrics()}
        self._flags: dict[str, list[str]] = {"stale": [], "without_source": []}
        self._fetcher = Downloader(self._rest, self._trust.signing_key(), self.loop.post)
        self._settings.register(self._twin)
        register_rules(self._twin, rules, config, folder / "limits.json", self._fetcher.fetch)
        for model in self._models.streams:
            model.register(self._twin)
        self._sparkplug = self._open_sparkplug() if config.sparkplug else None
        self._twin.begin()

    def run(self) -> None:
        """Run until the loop is stopped; then commit pending items and close everything."""
        self._models.start()
        self._sampler.start(self._settings.current.period_s)
        self.loop.every(self._config.outbox.commit_s, self._pipeline.commit)
        self.loop.every(0.1, self._flush_urgent)
        self.loop.every(RUN_PERIOD_S, self._commands.run_once)
        self.loop.every(1.0, self._tick)
        self.loop.every(5.0, lambda: self._pipeline.add(list(self._health.samples(clock.now_us()))))
        if self._sparkplug is not None:
            self.loop.every(0.1, self._sparkplug.tick)
        if (period := health.watchdog_period_s()) is not None:
            self.loop.every(period, lambda: health.notify("WATCHDOG=1"))
        self._uplink.start()
        self._trust.start(on_renewed=self._uplink.renew)
        self._pipeline.add([Event(t_us=clock.now_us(), source="agent", text="started", fields={"boot": self._boot})])
        self._report_device()
        health.notify("READY=1")
        log.info("agent.started", extra={"fields": {"boot": self._boot, "epoch": self._outbox.epoch}})
        self.loop.run()
        self._close()

    def _flush_urgent(self) -> None:
        """Called every 0.1 s: commit events and escalations, and send rows that the rate limit had delayed."""
        self._pipeline.commit_urgent()
        self._uplink.pump()

    def _tick(self) -> None:
        self._models.tick()
        self._pipeline.tick()
        self._pipeline.expire()
        self._uplink.tick()
        self._twin.tick()
        self._questions.tick()
        self._check_clock()
        self._check_stores()
        self._check_rules()
        if self._sparkplug is not None:
            self._sparkplug.tick_writes()
            if (state := self._sparkplug.report()) is not None:
                self._twin.report("", {"sparkplug": state})

    def _open_sparkplug(self) -> SparkplugService:
        """The edge node of `[sparkplug]`; raises ConfigError. Imported only where it is configured."""
        from edge_agent.sparkplug.service import SettingsWriter, SparkplugService  # noqa: PLC0415

        settings = SettingsWriter(self._twin.set_desired)
        writers = self._sampler.writers | dict.fromkeys(settings.writable, settings)
        sources = self._sampler.sources | {model.name: model.name for model in self._models.streams}
        service = SparkplugService(
            self._config, self._state_store, self._disk, sources, writers, emit=self._pipeline.add
        )
        service.declare(self._metrics())
        service.settings(self._settings.current)
        service.restore_alarms(self._rules.standing())
        return service

    def _observe(self, items: Sequence[object]) -> None:
        if self._sparkplug is not None:
            self._sparkplug.observe(items)

    def _check_clock(self) -> None:
        """Report a clock jump as an event, and the clock quality in the twin."""
        change = self._clock.check(clock.now_us(), clock.boottime_s(), health.clock_quality())
        if change is None:
            return
        if change.jump_s:
            event = change.event(clock.now_us())
            log.warning("clock.jumped", extra={"fields": event.fields})
            self._pipeline.add([event])
        self._report_device()

    def _check_stores(self) -> None:
        if events := self._stores.check(clock.now_us()):
            self._pipeline.add(events)
            self._report_device()

    def _check_rules(self) -> None:
        flags = self._rules.flags(self._declared, clock.now_us())
        if changed := {key: metrics for key, metrics in flags.items() if metrics != self._flags[key]}:
            self._flags = flags
            self._twin.report("thresholds", changed)

    def _close(self) -> None:
        health.notify("STOPPING=1")
        self._models.stop()
        if self._sparkplug is not None:
            self._sparkplug.close()
        self._pipeline.commit()
        self._commands.close()
        self._trust.stop()
        self._fetcher.stop()
        self._uplink.stop()
        self._sampler.close()
        self._outbox.close()
        self._state_store.close()

    # -- messages from the hub ---------------------------------------------------------------------

    def _rest(self) -> tuple[str, str]:
        """URL of the hub's REST API and file of its CA."""
        tls = self._config.link.tls
        if self._config.link.rest or not self._trust.enrolled:
            return self._config.link.rest, tls.ca if tls else self._trust.ca
        return self._trust.url, self._trust.ca

    def _use_settings(self, settings: Settings) -> None:
        logging.getLogger().setLevel(settings.log_level.upper())
        self._sampler.follow(settings.period_s)
        if self._sparkplug is not None:
            self._sparkplug.settings(settings)

    def _fetch(self, restart: bool) -> None:
        self._twin.fetch(restart)
        self._report_device()
        # Last: after a crash before this line, the changed hub epoch is detected again.
        self._state_store.put("hub_epoch", self._uplink.session.hub_epoch)

    def _received(self, rest: str, inbound: Inbound) -> None:
        handlers = {"commands": self._commands.received, "shadow": self._twin.received,
                    "escalations/answers": self._answered, "alarms/life": _log_alarm,
                    "inference/response": self._question_answered}  # fmt: skip
        if (handler := handlers.get(rest) or handlers.get(rest.partition("/")[0])) is not None:
            handler(rest, inbound)
        else:
            log.warning("wire.unknown_topic", extra={"fields": {"topic": inbound.topic}})

    def _answered(self, _rest: str, inbound: Inbound) -> None:
        answer = decode(EscalationAnswer, inbound.payload, inbound.topic)
        for model in self._models.streams:
            model.expert_answered(answer)

    def _question_answered(self, _rest: str, inbound: Inbound) -> None:
        self._questions.answered(decode(InferenceResponse, inbound.payload, inbound.topic))

    # -- what the device reports -------------------------------------------------------------------

    def _metrics(self) -> list[Metric]:
        models = [
            metric for model in self._models.streams for metric in model.metrics(self._values.get(model.name, []))
        ]
        return self._sampler.metrics + models + health.METRICS

    def _model_changed(self) -> None:
        """Report the models. When one gives values that no birth has declared yet, connect again with a new birth."""
        found = {model.name: model.model.values for model in self._models.streams if model.model.values}
        self._values = self._values | found
        declared = {metric.name for metric in self._metrics()}
        if declared - self._declared:
            self._declared = declared
            self._state_store.put("model_values", self._values)
            self._uplink.renew()
            if self._sparkplug is not None:
                self._sparkplug.declare(self._metrics())
        self._report_device()

    def _birth(self, session: str) -> Birth:
        metrics = self._metrics()
        return Birth(
            device=self._config.device.id, session=session, t_us=clock.now_us(), protocol=PROTOCOL,
            epoch=self._outbox.epoch, profile=self._profile.name, version=VERSION,
            asset_path=self._config.device.asset_path, clock=health.clock_quality(),
            metrics=metrics, acked=dict(self._outbox.acked.items()),
            limits_without_source=self._rules.without_source(self._declared),
        )  # fmt: skip

    def _report_device(self) -> None:
        state = {
            "agent": {"version": VERSION, "boot": self._boot, "pid": os.getpid(), "started_us": self._started_us,
                      "python": platform.python_version()},
            "profile": {"name": self._profile.name, "missing": self._missing, "unsupported": self._unsupported},
            "link": {"found_by": self._uplink.locator.found_by, "epoch": self._outbox.epoch},
            "stores": self._stores.state,
            "clock": {"quality": self._clock.quality},
            "commands": self._commands.commands.names,
            "models": {model.name: model.state for model in self._models.streams},
        }  # fmt: skip
        self._twin.report("", state)


def _log_alarm(_rest: str, inbound: Inbound) -> None:
    """Log the state of an alarm on the hub, for operators on site."""
    message = decode(AlarmStateMessage, inbound.payload, inbound.topic)
    fields = {"alarm": message.id, "metric": message.metric, "actor": message.actor}
    log.info(f"alarm.{message.life}", extra={"fields": fields})


def _trust(device: Device) -> TrustManager | Unenrolled:
    """The device's identity; `cryptography` is imported only on an enrolled device."""
    if not any((Path(device.state_dir) / "pki" / name).exists() for name in ("device.pem", "signing.pem")):
        return Unenrolled(health.clock_quality)
    from edge_agent.link.trust import TrustManager  # noqa: PLC0415 - 10 MB

    return TrustManager(device.id, device.state_dir, health.clock_quality)
