"""The agent's side of Sparkplug: passes on what the agent knows, and lets nothing of it disturb the agent."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edge_agent import clock
from edge_agent.collectors import Value, Writer
from edge_agent.config import Config, Settings
from edge_agent.sparkplug.buffer import STREAM, Buffer
from edge_agent.sparkplug.core.image import SETTING, NodeImage
from edge_agent.sparkplug.core.tags import Change
from edge_agent.sparkplug.node import EdgeNode
from edge_agent.sparkplug.switches import SwitchFile
from edge_agent.sparkplug.writes import ScadaWrites
from edge_agent.store.disk import Disk
from edge_agent.store.outbox import Outbox, status
from edge_agent.store.statestore import StateStore
from shared import VERSION
from shared.errors import ConfigError
from shared.protocol.messages import Alarm, Applied, Event, Metric, Sample
from shared.sparkplug.effects import Write
from shared.thresholds import JudgeState

log = logging.getLogger(__name__)

FILE = "sparkplug.sqlite"
BD_SEQ = "sparkplug:bd_seq"
MAX_METRICS_A_COMMAND = 100
"""Metrics of one command that are looked at."""
REPORT_S = 5.0


class SettingsWriter:
    """A Writer for the agent's settings: as `tidegate-edge twin set`, so that the hub sees the change."""

    def __init__(self, set_desired: Callable[[str, dict[str, Any]], list[Applied]]) -> None:
        self._set_desired = set_desired
        self.writable = [SETTING + field for field in Settings.__struct_fields__]

    def write(self, metric: str, value: Value, on_done: Callable[[str], None]) -> None:
        """Set a setting; within the site's hard bounds, as for the hub."""
        try:
            results = self._set_desired("", {"settings": {metric.removeprefix(SETTING): value}})
        except ValueError as error:
            on_done(str(error))
            return
        on_done("; ".join(result.reason for result in results if result.state == "refused"))


class SparkplugService:
    """Runs in the agent's thread. `writers` by metric; `sources` maps metrics to collectors; `emit` adds events."""

    def __init__(
        self,
        config: Config,
        store: StateStore,
        disk: Disk,
        sources: Mapping[str, str],
        writers: Mapping[str, Writer],
        emit: Callable[[list[Event]], None],
    ) -> None:
        table = config.sparkplug
        if table is None:
            raise ConfigError("sparkplug", "is not configured", "Add a table [sparkplug]")
        self._emit, self._store, folder = emit, store, Path(config.device.state_dir)
        self._image = NodeImage(table, config.device.id, VERSION, sources, clock.now_us() // 1000)
        outbox = Outbox(folder / FILE, int(table.buffer_mb * 1e6), f"{secrets.randbits(64):016x}", disk)
        self._buffer = Buffer(outbox, table.resend_s)
        self._node = EdgeNode(
            table, config.device.id, self._image.tags, self._buffer, store.get(BD_SEQ, -1, int),
            save_bd_seq=lambda bd_seq: store.put(BD_SEQ, bd_seq), on_write=self._commanded,
        )  # fmt: skip
        self._writes = ScadaWrites(table.writable, SwitchFile(folder), store, writers, self._outcome)
        self._settings: dict[str, Any] = {}
        self._reported: dict[str, Any] = {}
        self._reported_s = -REPORT_S
        self._failed: set[str] = set()

    # -- what the agent knows --------------------------------------------------------------------------

    def declare(self, metrics: Sequence[Metric]) -> None:
        """The metrics of the device; call it again when there are new ones."""
        self._guard("declare", lambda: self._image.declare(metrics, _now_ms()))

    def restore_alarms(self, standing: Mapping[str, JudgeState]) -> None:
        """Alarms that were active before a restart, by the key of their rule."""
        self._guard("alarms", lambda: self._node.add(self._standing(standing)))

    def observe(self, items: Sequence[object]) -> None:
        """Samples and alarms of the agent, in order."""
        for item in items:
            self._guard("observe", partial(self._observe, item))

    def settings(self, settings: Settings) -> None:
        """The settings in force."""
        self._guard("settings", lambda: self._use_settings(settings))

    # -- time ------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Called every 0.1 s."""
        self._guard("node", lambda: self._node.tick(clock.monotonic_s()))
        self._guard("store", lambda: self._node.tick_store(clock.monotonic_s()))
        if self._writes.events:
            events, self._writes.events = self._writes.events, []
            self._emit(events)

    def tick_writes(self) -> None:
        """Called once a second."""
        self._guard("writes", self._tick_writes)

    def report(self) -> dict[str, Any] | None:
        """The part `sparkplug` of the reported twin if it has changed, at most every 5 s."""
        now_s = clock.monotonic_s()
        if now_s - self._reported_s < REPORT_S:
            return None
        state = self.state
        if state == self._reported:
            return None
        self._reported, self._reported_s = state, now_s
        return state

    @property
    def state(self) -> dict[str, Any]:
        """What the twin reports: the server, the primary host, births, and what may be written until when."""
        tags = self._image.tags
        enabled = {metric.replace(".", "/"): _iso(until_us) for metric, until_us in self._writes.enabled.items()}
        return self._node.state | {
            "metrics": len(tags), "left_out": tags.left_out, "writable_until": enabled, "problem": self._writes.problem,
        }  # fmt: skip

    @property
    def waiting(self) -> int:
        """Changes in the store that are not sent yet."""
        return self._buffer.waiting

    def close(self) -> None:
        """Publish the death, and close."""
        self._guard("writes", self._writes.tick)
        self._guard("close", lambda: self._node.close(clock.monotonic_s()))

    # -- inside ----------------------------------------------------------------------------------------

    def _guard(self, name: str, task: Callable[[], object]) -> None:
        """An error here must not stop what the agent does for the hub. It is logged once until it is over."""
        try:
            task()
        except Exception:
            if name not in self._failed:
                log.exception("sparkplug.failed", extra={"fields": {"task": name}})
            self._failed.add(name)
        else:
            self._failed.discard(name)

    def _observe(self, item: object) -> None:
        if isinstance(item, Sample):
            self._node.add(self._image.sample(item))
            self._writes.observe(item.metric, item.value, item.quality == "good", item.t_us)
        elif isinstance(item, Alarm):
            self._node.add(self._image.alarm(item))

    def _use_settings(self, settings: Settings) -> None:
        self._settings = msgspec.structs.asdict(settings)
        self._node.add(self._image.settings(self._settings, _now_ms()))
        self._observe_settings()

    def _observe_settings(self) -> None:
        for name, value in self._settings.items():
            self._writes.observe(SETTING + name, value, True, clock.now_us())

    def _tick_writes(self) -> None:
        self._observe_settings()  # settings are never stale
        self._writes.tick()

    def _standing(self, standing: Mapping[str, JudgeState]) -> list[Change]:
        changes: list[Change] = []
        for key, state in standing.items():
            if state.active is not None and state.id:
                *_, metric = key.split(":")
                about = key.removeprefix("site:").partition(":")[0] if ":" in key.removeprefix("site:") else ""
                condition = f"{about}-{state.active}" if about == "rate" else about or state.active
                changes += self._image.alarm_state(metric, condition, state.id, True, _now_ms())
        return changes

    def _outcome(self, metric: str, text: str) -> None:
        self._node.add(self._image.outcome(metric, text, _now_ms()))

    def _commanded(self, write: Write, topic: str) -> None:
        for metric in write.metrics[:MAX_METRICS_A_COMMAND]:
            name = metric.name or ""
            key = self._image.metric_at(write.device, name) or ""
            self._guard("command", partial(self._writes.command, key, name, metric.value, topic))


def file_status(folder: Path) -> dict[str, int] | None:
    """Changes in the store of outages, and how many were lost; None if there is no store. Works beside the agent."""
    if not (folder / FILE).exists():
        return None
    found = status(folder / FILE)
    stream = found["streams"][STREAM]
    lost = sum(last - first + 1 for _, first, last, _ in found["lost"])
    return {"waiting": stream["accepted"] - stream["at_hub"], "lost": lost}


def _iso(t_us: int) -> str:
    return datetime.fromtimestamp(t_us / 1e6, timezone.utc).isoformat(timespec="seconds")


def _now_ms() -> int:
    return clock.now_us() // 1000
