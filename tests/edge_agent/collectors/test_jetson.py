"""Collector `jetson` on trees of the three JetPack generations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examiners.collectors import NOW_US, Site, examine_collector
from simulators.jetsons import jetpack5, jetpack6, jetpack7, write

from edge_agent.collectors import jetson
from edge_agent.config import CollectorTable
from shared.protocol.messages import Sample

EXPECTED: dict[Callable[[Path], Path], dict[str, Any]] = {
    jetpack5: {
        "gpu.clock": 1300.5e6, "gpu.load": 45.5, "cpu.clock.policy0": 2201.6e6, "cpu.clock.policy4": 729.6e6,
        "emc.clock": 3199e6, "temp.cpu": 48.5, "temp.gpu": 45.0, "power.vdd-gpu-soc": 3.8, "power.vdd-cpu-cv": 0.95,
        "power.vin-sys-5v0": 3.0, "power.total": 7.75, "fan.duty": 20.0, "fan.speed": 1500.0, "power-mode": "25W",
    },
    jetpack6: {
        "gpu.clock": 918e6, "gpu.load": 100.0, "cpu.clock.policy0": 1728e6, "cpu.clock.policy4": 1728e6,
        "temp.cpu": 61.0, "temp.gpu": 60.5, "temp.tj": 61.5, "power.vdd-in": 15.0, "power.vdd-cpu-gpu-cv": 6.0,
        "power.total": 15.0, "fan.duty": 100.0, "fan.speed": 5200.0, "power-mode": "mode 7", "throttled": 1.0,
    },
    jetpack7: {
        "gpu.clock": 1575e6, "cpu.clock.policy0": 2601e6, "temp.cpu": 50.0, "temp.tj": 52.0, "power.vdd-gpu": 10.8,
        "power.vdd-cpu-soc-mss": 6.0, "power.vin": 41.0, "power.total": 41.0,
    },
}  # fmt: skip


def table(root: Path) -> CollectorTable:
    return CollectorTable(kind="jetson", name="jetson", period_s=None, options={"root": str(root)})


def values(root: Path) -> dict[str, Any]:
    samples = jetson.open_collector(table(root)).collect(NOW_US)
    return {one.metric.removeprefix("jetson/"): one.value for one in samples}


@pytest.mark.parametrize("layout", EXPECTED, ids=lambda layout: layout.__name__)
def test_each_layout_passes_the_examiner_and_is_read(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    root = layout(tmp_path)
    examine_collector(Site(open_collector=jetson.open_collector, table=table(root), kinds=(Sample,)))
    found = values(root)
    assert found.keys() == EXPECTED[layout].keys(), "a zone without a value is left out"
    assert all(found[name] == pytest.approx(value) for name, value in EXPECTED[layout].items())
    assert jetson.open_collector(table(root)).warnings() == []


@pytest.mark.parametrize("layout", EXPECTED, ids=lambda layout: layout.__name__)
def test_each_file_may_be_missing_empty_or_hold_nonsense(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    root = layout(tmp_path)
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for other in (b"", b"\xff\xfe nonsense", None):
            if other is None:
                file.unlink()
            else:
                file.write_bytes(other)
            values(root)
        file.write_bytes(content)


def test_a_file_that_goes_while_the_agent_runs_is_left_out_until_it_is_back(tmp_path: Path) -> None:
    root = jetpack6(tmp_path)
    collector = jetson.open_collector(table(root))
    load = root / "sys/class/devfreq/17000000.gpu/device/load"
    load.unlink()
    assert "jetson/gpu.load" not in {one.metric for one in collector.collect(NOW_US)}
    load.write_text("0\n")
    assert "jetson/gpu.load" in {one.metric for one in collector.collect(NOW_US)}


def test_a_machine_that_is_no_jetson_is_told_and_nothing_breaks(tmp_path: Path) -> None:
    collector = jetson.open_collector(table(tmp_path))
    assert list(collector.collect(NOW_US)) == []
    assert "nothing of a Jetson" in collector.warnings()[0]
    write(tmp_path, {"sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n"})
    assert "GPU was not found" in jetson.open_collector(table(tmp_path)).warnings()[0]
