"""Collector `host`: CPU, memory, disk, network and temperatures of the machine, read with psutil."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from edge_agent.config import CollectorTable, options
from shared.errors import NotReady
from shared.protocol.messages import Metric, Sample


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`disk` is a path on the monitored file system; `temperatures` reads the thermal sensors."""

    disk: str = "/"
    temperatures: bool = True


METRICS = [
    Metric(name="cpu.load", unit="%", low=0, high=100, description="CPU time in use, all cores"),
    Metric(name="cpu.load1", unit="1", low=0, description="load average over one minute"),
    Metric(name="memory.used", unit="%", low=0, high=100, description="memory that is not available"),
    Metric(name="memory.available", unit="By", low=0),
    Metric(name="swap.used", unit="%", low=0, high=100),
    Metric(name="disk.used", unit="%", low=0, high=100),
    Metric(name="disk.free", unit="By", low=0),
    Metric(name="disk.read", unit="By", kind="counter"),
    Metric(name="disk.written", unit="By", kind="counter"),
    Metric(name="net.received", unit="By", kind="counter"),
    Metric(name="net.sent", unit="By", kind="counter"),
]


def _sensor_name(chip: str, label: str, index: int) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", f"{chip} {label or index}".lower()).strip("-")
    return f"temp.{name[:100] or index}"


def _temperatures() -> dict[str, float]:
    """Degrees Celsius by metric name; empty if this machine has no sensors."""
    chips: dict[str, list[Any]] = psutil.sensors_temperatures()
    return {
        _sensor_name(chip, entry.label, index): entry.current
        for chip, entries in chips.items()
        for index, entry in enumerate(entries)
    }


class HostCollector:
    """Reads the metrics of the machine. The first `cpu.load` covers the time since the start."""

    def __init__(self, name: str, period_s: float | None, chosen: Options) -> None:
        self.name, self.period_s, self._options = name, period_s, chosen
        self._hot = bool(chosen.temperatures and hasattr(psutil, "sensors_temperatures") and _temperatures())
        sensors = [Metric(name=name, unit="Cel") for name in _temperatures()] if self._hot else []
        self.metrics = METRICS + sensors
        psutil.cpu_percent()

    def collect(self, now_us: int) -> Iterator[Sample]:
        """One sample of each metric; raises NotReady after those that could be read."""
        try:
            for metric, value in self._values():
                yield Sample(metric=metric, t_us=now_us, value=float(value))
        except OSError as error:
            raise NotReady(f"the machine cannot be read: {error}", 1.0) from error

    def _values(self) -> Iterator[tuple[str, float]]:
        yield "cpu.load", psutil.cpu_percent()
        yield "cpu.load1", psutil.getloadavg()[0]
        memory = psutil.virtual_memory()
        yield "memory.used", memory.percent
        yield "memory.available", memory.available
        yield "swap.used", psutil.swap_memory().percent
        disk = psutil.disk_usage(self._options.disk)
        yield "disk.used", disk.percent
        yield "disk.free", disk.free
        traffic = psutil.disk_io_counters()
        if traffic is not None:
            yield "disk.read", traffic.read_bytes
            yield "disk.written", traffic.write_bytes
        network = psutil.net_io_counters()
        if network is not None:
            yield "net.received", network.bytes_recv
            yield "net.sent", network.bytes_sent
        if self._hot:
            yield from _temperatures().items()

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        there = Path(self._options.disk).exists()
        return [] if there else [f"disk '{self._options.disk}' is not there. Set `disk` to a path of its file system"]

    def close(self) -> None:
        """Do nothing: it has no resources."""


def open_collector(table: CollectorTable) -> HostCollector:
    """Entry point `host`."""
    return HostCollector(table.name, table.period_s, options(Options, table))
