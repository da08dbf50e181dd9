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
from typing import Any

import msgspec

from edge_agent import clock, health
from edge_agent.collectors import Collector, Frame
from edge_agent.commands import Commands, Output, Verb, top_processes
from edge_agent.config import Config, Settings
from edge_agent.intake import Intake
from edge_agent.keep import Keep
from edge_agent.link.uplink import Uplink
from edge_agent.loop import Loop, Timer
from edge_agent.models.slot import ModelSlot
from edge_agent.outbox import Outbox
from edge_agent.rules import Rules
from edge_agent.twinlink import TwinLink
from shared import PROTOCOL, VERSION, plugins
from shared.codec import decode, from_plain, plain
from shared.errors import ConfigError, NotReady
from shared.gate import Gate
from shared.messages import Birth, CommandRequest, EscalationAnswer, Event
from shared.mqtt import Inbound
from shared.profile import DeviceProfile
from shared.thresholds import JudgeState, Limits

log = logging.getLogger(__name__)


class Agent:
    """One device. Opens its stores and its collectors (ConfigError when it cannot), then `run`."""

    def __init__(self, config: Config, profile: DeviceProfile) -> None:
        self._config, self._profile = config, profile
        folder = _state_dir(config)
        self._settings = config.settings
        self._started_us = clock.now_us()
        self._missing = health.missing(profile)
        self.loop = Loop()
        self._keep = Keep(folder / "kept.sqlite")
        self._outbox = Outbox(folder / "outbox.sqlite", int(config.outbox.max_mb * 1e6), f"{secrets.randbits(64):016x}")
        self._boot: int = self._keep.get("boot", 0) + 1
        self._keep.put("boot", self._boot)
        rules = Rules(config.hard_limits, self._keep.get("alarms", {}, dict[str, JudgeState]))
        self._intake = Intake(rules, self._outbox, self._keep, pump=lambda: self._uplink.pump())  # noqa: PLW0108
        self._health = health.Health(self._outbox)
        self._collectors = [_open(table.kind, table) for table in config.collectors]
        self._models = {
            m.name: ModelSlot(m, self.loop.post, self._intake.take, self._report_device) for m in config.models
        }
        self._feeds = {m.frames: self._models[m.name] for m in config.models}
        self._commands = Commands(self._keep, self._verbs())
        self._uplink = Uplink(
            config, self._outbox, self._keep.get("hub_epoch", ""), self.loop.post,
            birth=self._birth, on_fetch=self._fetch, on_message=self._received,
        )  # fmt: skip
        self._twin = TwinLink(self._keep, self._uplink.publish)
        self._timers: list[tuple[Collector, Timer]] = []
        self._use_twin(rules)

    def run(self) -> None:
        """Work until the loop is stopped; then store what was collected and close everything."""
        for model in self._models.values():
            model.start()
        for collector in self._collectors:
            self._schedule(collector)
        self.loop.every(self._config.outbox.commit_s, self._intake.commit)
        self.loop.every(0.1, self._intake.commit_urgent)
        self.loop.every(1.0, self._tick)
        self.loop.every(5.0, lambda: self._intake.take(list(self._health.samples(clock.now_us()))))
        if (period := health.watchdog_period_s()) is not None:
            self.loop.every(period, lambda: health.notify("WATCHDOG=1"))
        self._uplink.start()
        self._intake.take([Event(t_us=clock.now_us(), source="agent", text="started", fields={"boot": self._boot})])
        self._report_device()
        health.notify("READY=1")
        log.info("agent.started", extra={"fields": {"boot": self._boot, "epoch": self._outbox.epoch}})
        self.loop.run()
        self._close()

    # -- the way up --------------------------------------------------------------------------------

    def _schedule(self, collector: Collector) -> None:
        period = collector.period_s or self._settings.period_s
        self._timers.append((collector, self.loop.every(period, lambda: self._collect(collector))))
        self.loop.post(lambda: self._collect(collector))

    def _collect(self, collector: Collector) -> None:
        try:
            for reading in collector.collect(clock.now_us()):
                if isinstance(reading, Frame):
                    self._feed(reading)
                else:
                    self._intake.take([reading])
        except NotReady as error:
            log.warning("collector.not_ready", extra={"fields": {"collector": collector.name, "reason": error.reason}})
        except ValueError as error:  # a value that is no Sample: the collector's fault, told by name
            log.error("collector.refused", extra={"fields": {"collector": collector.name, "reason": str(error)}})

    def _feed(self, frame: Frame) -> None:
        model = self._feeds.get(frame.source)
        if model is not None:
            model.frame(frame)

    def _tick(self) -> None:
        for model in self._models.values():
            model.tick(clock.now_us())
        self._uplink.tick()

    # -- the way down ------------------------------------------------------------------------------

    def _use_twin(self, rules: Rules) -> None:
        """Say who acts on which desired state; what was kept from before is put in force here, network or not."""
        reason = rules.use(self._config.limits)
        if reason:
            raise ConfigError("limits", reason, "Keep [[limits]] within [[hard_limits]]")
        self._twin.report("thresholds", {"limits": [plain(one) for one in rules.limits()]})
        self._twin.handle("", "settings", self._use_settings)
        self._twin.handle("thresholds", "limits", partial(_use_limits, rules))
        for name, model in self._models.items():
            self._twin.handle("gates", name, partial(_use_gate, model))

    def _use_settings(self, wanted: Any) -> Any:
        settings = from_plain(Settings, wanted)
        logging.getLogger().setLevel(settings.log_level.upper())
        for collector, timer in self._timers:
            timer.period_s = collector.period_s or settings.period_s
        self._settings = settings
        return msgspec.structs.asdict(settings)

    def _fetch(self, restart: bool) -> None:
        self._report_device()
        self._twin.fetch(restart)
        # Last: after a crash before this line, the hub's other life is noticed again.
        self._keep.put("hub_epoch", self._uplink.session.hub_epoch)

    def _received(self, rest: str, inbound: Inbound) -> None:
        if rest.startswith("commands/"):
            self._command(decode(CommandRequest, inbound.payload, inbound.topic), inbound.traceparent)
        elif rest.startswith("shadow"):
            self._twin.received(rest, inbound)
        elif rest == "escalations/answers":
            self._answered(decode(EscalationAnswer, inbound.payload, inbound.topic))
        else:
            log.warning("wire.unknown_topic", extra={"fields": {"topic": inbound.topic}})

    def _answered(self, answer: EscalationAnswer) -> None:
        for model in self._models.values():
            model.answered(answer)

    def _command(self, request: CommandRequest, trace: str) -> None:
        fields = {"id": request.id, "verb": request.verb, "target": request.target}
        log.info("command.received", extra={"fields": fields, "trace": trace})
        result = self._commands.run(request, clock.now_us(), health.clock_quality())
        self._uplink.publish(f"commands/{request.id}/response", result, trace=trace)
        log.info("command.done", extra={"fields": fields | {"state": result.state}, "trace": trace})

    def _verbs(self) -> dict[tuple[str, str], Verb]:
        verbs: dict[tuple[str, str], Verb] = {("diagnose", "processes"): top_processes}
        for name, model in self._models.items():
            verbs["capture", name] = partial(_capture, model)
            verbs["restart", name] = partial(_restart, model)
        return verbs

    # -- what the device says of itself ------------------------------------------------------------

    def _birth(self, session: str) -> Birth:
        metrics = [m for c in self._collectors for m in c.metrics]
        metrics += [m for model in self._models.values() for m in model.gatekeeper.metrics] + health.METRICS
        return Birth(
            device=self._config.device.id, session=session, t_us=clock.now_us(), protocol=PROTOCOL,
            epoch=self._outbox.epoch, profile=self._profile.name, version=VERSION,
            asset_path=self._config.device.asset_path, clock=health.clock_quality(), metrics=metrics,
            acked=dict(self._outbox.acked),
        )  # fmt: skip

    def _report_device(self) -> None:
        state = {
            "agent": {"version": VERSION, "boot": self._boot, "pid": os.getpid(), "started_us": self._started_us,
                      "python": platform.python_version()},
            "profile": {"name": self._profile.name, "missing": self._missing},
            "link": {"found_by": self._uplink.finder.found_by, "epoch": self._outbox.epoch},
            "settings": msgspec.structs.asdict(self._settings),
            "models": {name: model.state for name, model in self._models.items()},
        }  # fmt: skip
        self._twin.report("", state)

    def _close(self) -> None:
        health.notify("STOPPING=1")
        for model in self._models.values():
            model.stop()
        self._intake.commit()
        self._uplink.stop()
        for collector in self._collectors:
            collector.close()
        self._outbox.close()
        self._keep.close()


def _open(kind: str, table: Any) -> Collector:
    collector: Collector = plugins.load(plugins.COLLECTORS, kind, f"collector '{table.name}'")(table)
    return collector


def _state_dir(config: Config) -> Path:
    folder = Path(config.device.state_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "writable").write_bytes(b"")
    except OSError as error:
        raise ConfigError("device.state_dir", f"cannot be written ({error})", "Give a folder of this user") from error
    return folder


def _use_limits(rules: Rules, wanted: Any) -> Any:
    """A whole set of limits or none of it (invariant P2)."""
    limits = from_plain(list[Limits], wanted)
    reason = rules.use(limits)
    if reason:
        raise ValueError(reason)
    return wanted  # as asked: a twin compares arrays whole, so defaults filled in would never settle


def _use_gate(model: ModelSlot, wanted: Any) -> Any:
    gate = from_plain(Gate, wanted)
    digest = model.state.get("digest", gate.digest)
    if gate.digest != digest:
        raise ValueError(f"the gate is for model {gate.digest[:19]}, this device runs {digest[:19]}")
    model.gatekeeper.use(gate)
    return plain(gate)


def _capture(model: ModelSlot, _request: CommandRequest) -> Output:
    model.gatekeeper.capture()
    return {"captured": f"the next frame of {model.name} goes up"}


def _restart(model: ModelSlot, _request: CommandRequest) -> Output:
    model.restart()
    return {"restarted": model.name}
