"""kill -9 anywhere in the middle of playbooks: real processes, on both databases, one hub or two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def kills(url: str, folder: Path, *options: str) -> dict[str, Any]:
    """The report of a process that forks hubs and kills them. It has no threads, as a test process has."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "simulators.playbook_kills", url, str(folder), *options]
    made = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert made.returncode == 0, made.stderr
    report: dict[str, Any] = json.loads(made.stdout)
    return report


def check(report: dict[str, Any], count: int) -> None:
    assert report["kills"] >= count
    assert report["effects"] > 0
    assert [report[name] for name in ("lost", "doubled", "unfinished", "diverged")] == [0, 0, 0, 0], report


@pytest.mark.sql
@pytest.mark.parametrize("hubs", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_no_effect_is_lost_or_doubled(url: str, tmp_path: Path, hubs: int) -> None:
    check(kills(url, tmp_path, "--kills", "6", "--hubs", str(hubs)), 6)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_no_effect_is_lost_or_doubled_by_many_kills(url: str, tmp_path: Path, seed: int) -> None:
    check(kills(url, tmp_path, "--kills", "100", "--hubs", str(1 + seed % 2), "--seed", str(seed)), 100)


@pytest.mark.one_database
def test_hubs_that_act_before_they_commit_are_found(url: str, tmp_path: Path) -> None:
    assert kills(url, tmp_path, "--kills", "15", "--hasty")["doubled"] > 0
