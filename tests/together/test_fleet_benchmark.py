"""The benchmark of a fleet at a small size: over a real hub and a real broker nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path

import pytest
from simulators.brokers import _mosquitto

from benchmarks import fleet

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(400)]


def test_a_small_fleet_converges_and_loses_nothing(tmp_path: Path) -> None:
    _mosquitto()  # skips where it is not installed
    options = Namespace(
        devices=50, samples=10, period=30.0, outage=120.0, hostile=0, rate=100.0, seconds=5.0, seed=7, patience=120.0
    )
    rows = {(row.method, row.metric): row.value for row in asyncio.run(fleet.run(options, tmp_path))}
    assert rows["loss", "accepted and not at the hub"] == 0
    assert rows["loss", "at the hub twice"] == 0
    assert rows["loss", "accepted in all"] >= 50 * 10 * (3 + 3)
    assert rows["one-hour outage", "items that waited"] >= 50 * 10 * 3
