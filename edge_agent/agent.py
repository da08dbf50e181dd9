"""The agent, put together: collectors -> models -> gate and rules -> outbox -> link, and the twin back down.

This is the map of the device. Every part runs in the loop's one thread; the MQTT client and the inference
children post to it.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_agent import clock
from edge_agent.commands import processes
from edge_agent.commands.service import Commands, Verb
from edge_agent.commands.sync import STEP_S, CommandSync
from edge_agent.config import Config, Device, Settings
from edge_agent.link.downloads import Downloader
from edge_agent.link.unenrolled import Unenrolled
from edge_agent.link.uplink import Uplink
from edge_agent.models.slot import ModelSlot
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.limit_set import LimitSet
from edge_agent.pipeline.pipeline import Pipeline
from edge_agent.pipeline.sampler import Sampler
from edge_agent.runtime import health
from edge_agent.runtime.core.clock_monitor import ClockMonitor
from edge_agent.runtime.event_loop import EventLoop
from edge_agent.store.disk import Disk
from edge_agent.store.outbox import Outbox
from edge_agent.store.statestore import StateStore, state_dir
from edge_agent.twin.sync import TwinSync
from shared import PROTOCOL, VERSION
from shared.codec import decode, from_plain, plain
from shared.errors import ConfigError
from shared.messages import AlarmStateMessage, Birth, EscalationAnswer, Event, Level, Metric
from shared.mqtt import Inbound
from shared.profile import DeviceProfile
from shared.thresholds import JudgeState

if TYPE_CHECKING:
    from edge_agent.link.trust import TrustManager

log = logging.getLogger(__name__)


class Agent:
    """One device. Opens its stores and its collectors (ConfigError when it cannot), then `run`."""

    def __init__(self, config: Config, profile: DeviceProfile) -> None:
        self._config, self._profile, self._settings = config, profile, config.settings
        self._started_us, self._missing = clock.now_us(), health.missing(profile)
        folder = state_dir(config.device.state_dir)
        self.loop = EventLoop()
        self._disk = Disk(folder)
        self._told: dict[str, str] = {}
        self._clock = ClockMonitor(health.clock_quality())
        self._keep = StateStore(folder / "kept.sqlite", self._disk)
        self._boot: int = self._keep.get("boot", 0) + 1
        self._keep.put("boot", self._boot)
        self._outbox = Outbox(
            folder / "outbox.sqlite", int(config.outbox.max_mb * 1e6), f"{secrets.randbits(64):016x}", self._disk,
            keep_s={"telemetry": config.outbox.telemetry_keep_s, "event": config.outbox.event_keep_s},
        )  # fmt: skip
        standing = self._keep.get("alarms", {}, dict[str, JudgeState])
        rules = LimitRules(config.hard_limits, standing, config.hard_watches)
        self._intake = Pipeline(rules, self._outbox, self._keep, pump=lambda: self._uplink.pump())  # noqa: PLW0108
        self._health = health.Health(self._outbox)
        self._models = [ModelSlot(m, self.loop.post, self._intake.add, self._report_device) for m in config.models]
        feeds = {m.frames: [s.frame for s in self._models if s.frames == m.frames] for m in config.models}
        self._sampling = Sampler(self.loop, config.collectors, self._intake.add, feeds, self._outbox.checkpoint)
        self._trust = _trust(config.device)
        self._uplink = Uplink(
            config, self._outbox, self._keep.get("hub_epoch", ""), self.loop.post,
            birth=self._birth, on_fetch=self._fetch, on_message=self._received, enrolled=self._trust.tls(),
        )  # fmt: skip
        self._twin = TwinSync(self._keep, self._uplink.publish)
        commands = Commands(self._keep, self._verbs())
        self._commands = CommandSync(commands, self._uplink.publish, self._trust.refusal, self._trust.clock)
        self._rules, self._declared = rules, {metric.name for metric in self._metrics()}
        self._limit_flags: dict[str, list[str]] = {"stale": [], "without_source": []}
        self._fetcher = Downloader(self._rest, self._trust.signing_key(), self.loop.post)
        self._use_twin(rules, folder)

    def run(self) -> None:
        """Work until the loop is stopped; then store what was collected and close everything."""
        for model in self._models:
            model.start()
        self._sampling.start(self._settings.period_s)
        self.loop.every(self._config.outbox.commit_s, self._intake.commit)
        self.loop.every(0.1, self._hurry)
        self.loop.every(STEP_S, self._commands.step)
        self.loop.every(1.0, self._tick)
        self.loop.every(5.0, lambda: self._intake.add(list(self._health.samples(clock.now_us()))))
        if (period := health.watchdog_period_s()) is not None:
            self.loop.every(period, lambda: health.notify("WATCHDOG=1"))
        self._uplink.start()
        self._trust.start(on_renewed=self._uplink.renew)
        self._intake.add([Event(t_us=clock.now_us(), source="agent", text="started", fields={"boot": self._boot})])
        self._report_device()
        health.notify("READY=1")
        log.info("agent.started", extra={"fields": {"boot": self._boot, "epoch": self._outbox.epoch}})
        self.loop.run()
        self._close()

    def _hurry(self) -> None:
        """What waits a tenth of a second at most: an event's commit, and what the rate of replay held back."""
        self._intake.commit_urgent()
        self._uplink.pump()

    def _tick(self) -> None:
        for model in self._models:
            model.tick(clock.now_us())
        self._intake.tick()
        self._intake.expire()
        self._uplink.tick()
        self._twin.tick()
        self._look_at_clock()
        self._look_after_disk()
        self._look_after_limits()

    def _look_after_limits(self) -> None:
        """Report which limits nobody has refreshed for long (they stay in force, P6), and which wait for no metric."""
        now = clock.now_us()
        stale = sorted(limits.metric for limits in self._rules.limits() if limits.stale(now))
        found = {"stale": stale, "without_source": self._rules.without_source(self._declared)}
        changed = {key: metrics for key, metrics in found.items() if metrics != self._limit_flags[key]}
        if changed:
            self._limit_flags |= changed
            self._twin.report("thresholds", changed)

    def _look_at_clock(self) -> None:
        """A clock that was moved is an event; its quality is in the twin."""
        told = self._clock.check(clock.now_us(), clock.boottime_s(), health.clock_quality())
        if told is None:
            return
        if told.jump_s:
            fields: dict[str, str | float] = {"jump_s": round(told.jump_s, 3), "quality": told.quality}
            log.warning("clock.jumped", extra={"fields": fields})
            text = f"the clock was moved by {told.jump_s:+.0f} s"
            event = Event(t_us=clock.now_us(), source="clock", text=text, level="warning", fields=fields)
            self._intake.add([event])
        self._report_device()

    def _look_after_disk(self) -> None:
        """Take the reserve back when there is room, and tell what became of the stores: log, event and twin."""
        if self._disk.recovered():
            self._outbox.relax()
        state = {"disk": "full" if self._disk.full else "", **self._disk.damaged}
        changed = {name: reason for name, reason in state.items() if self._told.get(name, "") != reason}
        if not changed:
            return
        self._told = state
        for name, reason in changed.items():
            level: Level = "error" if reason else "info"
            text = f"{name}: {reason or 'well again'}"
            self._intake.add([Event(t_us=clock.now_us(), source="stores", text=text, level=level)])
        self._report_device()

    def _close(self) -> None:
        health.notify("STOPPING=1")
        for model in self._models:
            model.stop()
        self._intake.commit()
        self._commands.close()
        self._trust.stop()
        self._fetcher.stop()
        self._uplink.stop()
        self._sampling.close()
        self._outbox.close()
        self._keep.close()

    # -- the way down ------------------------------------------------------------------------------

    def _use_twin(self, rules: LimitRules, folder: Path) -> None:
        """Say who acts on which desired state; what was kept from before is put in force here, network or not."""
        own = self._config
        if reason := rules.use_limits(own.limits):
            raise ConfigError("limits", reason, "Keep [[limits]] within [[hard_limits]]")
        if reason := own.hard_settings.refusal(own.settings):
            raise ConfigError("settings", reason, "Keep [settings] within [hard_settings]")
        for key, value in msgspec.structs.asdict(own.settings).items():
            self._twin.handle("", ("settings", key), partial(self._use_setting, key), own=value)
        limits = LimitSet(
            rules, folder / "limits.json", self._fetcher.fetch, lambda: self._twin.again("thresholds", "limits")
        )
        self._twin.handle("thresholds", "limits", limits.desired, own=[plain(one) for one in own.limits])
        self._twin.handle("thresholds", "watches", rules.desired_rules, own=plain(own.watches))
        for model in self._models:
            self._twin.handle("gates", model.name, model.use_gate)
        self._twin.begin()

    def _rest(self) -> tuple[str, str]:
        """Where the hub's REST is, and the CA that proves it."""
        tls = self._config.link.tls
        if self._config.link.rest or not self._trust.enrolled:
            return self._config.link.rest, tls.ca if tls else self._trust.ca
        return self._trust.url, self._trust.ca

    def _use_setting(self, key: str, wanted: Any) -> Any:
        """One setting as it is desired: a wrong one beside it is refused on its own and holds up no other."""
        chosen = from_plain(Settings, msgspec.structs.asdict(self._settings) | {key: wanted})
        if reason := self._config.hard_settings.refusal(chosen):
            raise ValueError(reason)
        self._settings = chosen
        logging.getLogger().setLevel(self._settings.log_level.upper())
        self._sampling.follow(self._settings.period_s)
        return getattr(chosen, key)

    def _fetch(self, restart: bool) -> None:
        self._twin.fetch(restart)
        self._report_device()
        # Last: after a crash before this line, the hub's other life is noticed again.
        self._keep.put("hub_epoch", self._uplink.session.hub_epoch)

    def _received(self, rest: str, inbound: Inbound) -> None:
        if rest.startswith("commands/"):
            self._commands.received(rest, inbound)
        elif rest.startswith("shadow"):
            self._twin.received(rest, inbound)
        elif rest == "escalations/answers":
            answer = decode(EscalationAnswer, inbound.payload, inbound.topic)
            for model in self._models:
                model.answered(answer)
        elif rest == "alarms/life":  # for who reads the log on site
            word = decode(AlarmStateMessage, inbound.payload, inbound.topic)
            log.info(
                f"alarm.{word.life}", extra={"fields": {"alarm": word.id, "metric": word.metric, "actor": word.actor}}
            )
        else:
            log.warning("wire.unknown_topic", extra={"fields": {"topic": inbound.topic}})

    def _verbs(self) -> dict[tuple[str, str], Verb]:
        verbs: dict[tuple[str, str], Verb] = {("diagnose", "processes"): processes.diagnose}
        for model in self._models:
            verbs |= {("capture", model.name): model.capture, ("restart", model.name): model.restarted}
        return verbs

    # -- what the device says of itself ------------------------------------------------------------

    def _metrics(self) -> list[Metric]:
        models = [metric for model in self._models for metric in model.gatekeeper.metrics]
        return self._sampling.metrics + models + health.METRICS

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
            "profile": {"name": self._profile.name, "missing": self._missing},
            "link": {"found_by": self._uplink.finder.found_by, "epoch": self._outbox.epoch},
            "stores": {"disk": "", "outbox.sqlite": "", "kept.sqlite": ""} | self._told,
            "clock": {"quality": self._clock.quality},
            "commands": self._commands.commands.names,
            "models": {model.name: model.state for model in self._models},
        }  # fmt: skip
        self._twin.report("", state)


def _trust(device: Device) -> TrustManager | Unenrolled:
    """The device's identity; what reads it is loaded where there is one."""
    if not any((Path(device.state_dir) / "pki" / name).exists() for name in ("device.pem", "signing.pem")):
        return Unenrolled(health.clock_quality)
    from edge_agent.link.trust import TrustManager  # noqa: PLC0415 - 10 MB

    return TrustManager(device.id, device.state_dir, health.clock_quality)
