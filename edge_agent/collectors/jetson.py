"""Collector `jetson`: GPU load, clocks, temperatures, power rails, power mode and fan of an NVIDIA Jetson, from sysfs.

It needs neither jetson-stats nor root, and starts no program. JetPack 5, 6 and 7 differ in names and in what they show;
what is not there is not a metric, and what cannot be read at the moment (a GPU that sleeps) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError
from shared.ids import metric_name
from shared.protocol.messages import Metric, MetricKind, Sample

GPU_NAMES = re.compile(r"(gpu|ga10b|gv11b|gp10b|gpu-gpc-0)\Z|\.(gpu|ga10b|gv11b|gp10b)\Z")
NO_TEMPERATURE_C = (-40.0, 200.0)
"""A zone without a valid value reports far less or more."""
INPUT_RAILS = ("vdd-in", "pom-5v-in", "vin")
"""Rails that carry the power of the whole module."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`root` of the file system that holds /sys: another one where a container has the host's."""

    root: str = "/"


@dataclass(frozen=True, slots=True)
class Sensor:
    """A metric and how it is read; `read` returns None while there is no value."""

    name: str
    unit: str
    read: Callable[[], float | str | None]
    kind: MetricKind = "gauge"
    high: float | None = None


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii", "replace").strip("\0\n ")
    except OSError:
        return None


def _number(path: Path, scale: float = 1.0) -> float | None:
    try:
        return float(_text(path) or "") * scale
    except ValueError:
        return None


def _label(text: str) -> str:
    """A word that a metric's name may hold."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]


def _reader(path: Path, scale: float) -> Callable[[], float | None]:
    return lambda: _number(path, scale)


# -- what there is -------------------------------------------------------------------------------------


def _gpu(root: Path) -> Iterator[Sensor]:
    """Load (in tenths of a percent) and clock of the integrated GPU, a devfreq device."""
    for device in sorted(root.glob("sys/class/devfreq/*")):
        if not GPU_NAMES.search(_text(device / "device/of_node/name") or device.name):
            continue
        yield Sensor("gpu.clock", "Hz", _reader(device / "cur_freq", 1.0))
        for load in (device / "device/load", device / "load"):
            if load.exists():
                yield Sensor("gpu.load", "%", _reader(load, 0.1), high=100)
                break
        return


def _clocks(root: Path) -> Iterator[Sensor]:
    """Clocks of the CPU clusters, and of the memory where it may be read (debugfs: only as root)."""
    for policy in sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*")):
        yield Sensor(f"cpu.clock.{policy.name}", "Hz", _reader(policy / "scaling_cur_freq", 1000.0))
    for place in ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/class/devfreq/emc/cur_freq"):
        if _number(root / place) is not None:
            yield Sensor("emc.clock", "Hz", _reader(root / place, 1.0))
            return


def _temperatures(root: Path) -> Iterator[Sensor]:
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        if name := _label(re.sub(r"[-_]?therm(al)?$", "", _text(zone / "type") or "", flags=re.IGNORECASE)):
            yield Sensor(f"temp.{name}", "Cel", lambda zone=zone: _temperature(zone / "temp"))  # type: ignore[misc]


def _temperature(path: Path) -> float | None:
    value = _number(path, 0.001)
    return value if value is not None and NO_TEMPERATURE_C[0] < value < NO_TEMPERATURE_C[1] else None


def _power(root: Path) -> Iterator[Sensor]:
    """Power of each rail of the monitors (INA3221 and relatives), and of the module."""
    rails: dict[str, Callable[[], float | None]] = {}
    for monitor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not (_text(monitor / "name") or "").startswith("ina"):
            continue
        for label in sorted(monitor.glob("in*_label")):
            name, index = _label(_text(label) or ""), label.name[2:-6]
            if name and name != "nc" and "sum-of-shunt" not in name:
                rails[name] = _rail(monitor, index)
        if not list(monitor.glob("in*_label")) and (monitor / "power1_input").exists():
            rails["vin"] = _reader(monitor / "power1_input", 1e-6)
    for name, read in rails.items():
        yield Sensor(f"power.{name}", "W", read)
    if rails:
        whole = [rails[name] for name in INPUT_RAILS if name in rails][:1] or list(rails.values())
        yield Sensor("power.total", "W", lambda: _sum(whole))


def _rail(monitor: Path, index: str) -> Callable[[], float | None]:
    """Millivolts times milliamperes, or the monitor's own microwatts."""
    if (monitor / f"power{index}_input").exists():
        return _reader(monitor / f"power{index}_input", 1e-6)

    def read() -> float | None:
        volts, amperes = _number(monitor / f"in{index}_input", 1e-3), _number(monitor / f"curr{index}_input", 1e-3)
        return None if volts is None or amperes is None else volts * amperes

    return read


def _sum(parts: list[Callable[[], float | None]]) -> float | None:
    values = [read() for read in parts]
    return None if None in values else sum(value for value in values if value is not None)


def _fan(root: Path) -> Iterator[Sensor]:
    for device in sorted(root.glob("sys/class/hwmon/hwmon*")):
        name = _text(device / "name") or ""
        if name == "pwmfan" and (device / "pwm1").exists():
            yield Sensor("fan.duty", "%", _reader(device / "pwm1", 100 / 255), high=100)
        for speed in (device / "rpm", device / "fan1_input"):
            if name in {"pwm_tach", "tach", "pwmfan", "generic_pwm_tachometer"} and speed.exists():
                yield Sensor("fan.speed", "1/min", _reader(speed, 1.0))


def _states(root: Path) -> Iterator[Sensor]:
    """Mode of nvpmodel, and whether heat reduces the clocks."""
    if (root / "var/lib/nvpmodel/status").exists():
        yield Sensor("power-mode", "1", lambda: _power_mode(root), kind="state")
    alerts = [
        device / "cur_state"
        for device in sorted(root.glob("sys/class/thermal/cooling_device*"))
        if (_text(device / "type") or "").endswith("throttle-alert")
    ]
    if alerts:
        yield Sensor("throttled", "1", lambda: float(any((_number(path) or 0) > 0 for path in alerts)), high=1)


def _power_mode(root: Path) -> str | None:
    """`pmode:0002` of the status file, with its name from the configuration."""
    found = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    if found is None:
        return None
    names = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _text(root / "etc/nvpmodel.conf") or "")
    known: dict[str, str] = dict(names)
    return known.get(found[1], f"mode {found[1]}")


# -- the collector -------------------------------------------------------------------------------------


class JetsonCollector:
    """One sample of each sensor that has a value; names begin with the collector's."""

    def __init__(self, name: str, period_s: float | None, chosen: Options) -> None:
        self.name, self.period_s = name, period_s
        root = Path(chosen.root)
        found: dict[str, Sensor] = {}
        for part in (_gpu, _clocks, _temperatures, _power, _fan, _states):
            for sensor in part(root):
                found.setdefault(sensor.name, sensor)
        self._sensors = list(found.values())
        self.metrics = [
            Metric(name=metric_name(f"{name}/{one.name}"), unit=one.unit, kind=one.kind, high=one.high)
            for one in self._sensors
        ]

    def collect(self, now_us: int) -> Iterator[Sample]:
        """Yield what can be read now."""
        for sensor in self._sensors:
            if (value := sensor.read()) is not None:
                yield Sample(metric=f"{self.name}/{sensor.name}", t_us=now_us, value=value)

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        names = {sensor.name for sensor in self._sensors}
        if not names:
            return ["nothing of a Jetson was found. Take the collector out, or set `root`"]
        return [] if "gpu.clock" in names else ["the GPU was not found: its driver may not be loaded"]

    def close(self) -> None:
        """Do nothing: it has no resources."""


def open_collector(table: CollectorTable) -> JetsonCollector:
    """Entry point `jetson`."""
    chosen = options(Options, table)
    try:
        return JetsonCollector(table.name, table.period_s, chosen)
    except ValueError as error:
        raise ConfigError(f"collector '{table.name}'.name", str(error), "It begins the names of its metrics") from error
