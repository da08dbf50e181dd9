"""`tidegate-hub backtest --prometheus` against a real Prometheus with three weeks of past and alerting rules."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from simulators.prometheus import Past, Point, prometheus

from cloud_hub import __main__

STEP = 300
DAYS = 21
END = int(datetime(2026, 6, 1, tzinfo=timezone.utc).timestamp())
RANGE = ("--days", str(DAYS), "--end", "2026-06-01")
HOSTS = ("web-1:9100", "web-2:9100", "db-1:9100")
RULES = """
groups:
- name: load
  interval: 5m
  rules:
  - {alert: HighLoad, expr: 'node_load1{job="node"} > 80', for: 10m, labels: {severity: page}, annotations: {x: y}}
  - {alert: LowDisk, expr: 'disk_free_bytes < 1e9'}
  - {alert: Compared, expr: 'node_load1 > on(instance) other_metric'}
  - {record: some:rule, expr: 'sum(node_load1)'}
"""


class World:
    """Three hosts with a daily course that goes past 80 once a day, and one real fault far from that time.

    It ends at a fixed time: whether noise raises an alarm depends on the samples of each hour.
    """

    def __init__(self) -> None:
        self.end = END
        self.start = self.end - DAYS * 86400
        self.fault = self.start + 18 * 86400 // STEP * STEP
        self.random = random.Random(5)

    def load(self, host: str) -> list[Point]:
        points = []
        for t in range(self.start, self.end + 1, STEP):
            value = 50 - 34 * math.sin(2 * math.pi * (t - self.start) / 86400) + self.random.gauss(0, 1.5)
            if host == "db-1:9100" and self.fault <= t < self.fault + 7200:
                value = 140.0
            points.append((float(t), value))
        return points

    def series(self) -> Iterator[Past]:
        for host in HOSTS:
            points = self.load(host)
            yield Past("node_load1", {"instance": host, "job": "node"}, points)
            labels = {
                "alertname": "HighLoad",
                "alertstate": "firing",
                "instance": host,
                "job": "node",
                "severity": "page",
            }
            fired = self._fired(points)
            yield Past("ALERTS", labels, fired)
            served, counted = 0.0, []
            for t, value in points:
                served = (0.0 if t == self.start + 86400 * 10 else served) + max(value, 0) * STEP
                counted.append((t, served))
            yield Past("served_total", {"instance": host, "job": "node"}, counted, "counter")

    def _fired(self, points: list[Point]) -> list[Point]:
        """What a server with the rule would have recorded."""
        held, fired = 0, []
        for t, value in points:
            held = held + 1 if value > 80 else 0
            if held > 2:
                fired.append((t, 1.0))
        return fired


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def url(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = "rule_files: [rules.yml]\nglobal: {evaluation_interval: 1h}\n"
    with prometheus(tmp_path_factory.mktemp("prom"), world.series(), config, rules=RULES) as address:
        yield address


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert __main__.main(["backtest", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rules_history_and_ours_are_compared(url: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--prometheus", url, *RANGE, "--step", "5m")
    assert (found["series"], found["devices"], found["queries"]) == (
        3,
        3,
        ['node_load1{job="node"}', "disk_free_bytes"],
    )
    assert (found["from_us"], found["to_us"]) == ((END - 14 * 86400) * 1_000_000, END * 1_000_000)
    assert found["alarms"]["fixed"] >= 3 * 13, "each host each noon of the two weeks that are compared"
    assert 1 <= found["alarms"]["ours"] <= 2 * 2 * 14, "two a shift, as asked for"
    assert found["alarms"]["ours"] < found["alarms"]["fixed"] / 3
    assert found["episodes"]["both"] >= 1
    both = [one for one in found["list"] if one["fixed"] and one["ours"]]
    assert any(
        one["device"] == "db-1:9100" and one["start_us"] <= (world.fault + 1800) * 1e6 <= one["end_us"] + 7.2e9
        for one in both
    )
    assert "left out, it compares no series with a number: rule Compared" in found["notes"]
    assert "no series: disk_free_bytes" in found["notes"]
    assert not any("HighLoad" in note for note in found["notes"]), "its alerts were recorded"


def test_an_expression_worked_out_anew_gives_what_was_recorded(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = told(capsys, "--prometheus", url, *RANGE, "--step", "5m")
    replayed = told(capsys, "--prometheus", url, *RANGE, "--step", "5m", "--replay")
    assert abs(recorded["alarms"]["fixed"] - replayed["alarms"]["fixed"]) <= 3
    assert recorded["pages"]["ours"] == replayed["pages"]["ours"]


def test_a_limit_of_the_command_line_is_as_the_rule(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    rules = told(capsys, "--prometheus", url, *RANGE, "--step", "5m", "--replay")
    limit = told(capsys, "--prometheus", url, *RANGE, "--step", "5m", "--limit", "node_load1 > 80 for 10m")
    assert limit["alarms"] == rules["alarms"]
    assert (rules["step_s"], rules["fixed_step_s"]) == (300, 60)
    assert {what for one in limit["list"] for what in one["fixed"]} == {"node_load1 > 80"}


def test_a_counter_is_judged_by_its_rate_through_a_reset(
    url: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "--prometheus", url, *RANGE, "--step", "5m", "--query", "served_total")
    assert "a counter, judged by its rate: served_total" in found["notes"]
    assert any(one["device"] == "db-1:9100" and "served_total" in str(one["ours"]) for one in found["list"])
    assert found["alarms"]["ours"] <= 2 * 2 * 14, "two a shift, as asked for"
    reset = (world.start + 86400 * 10) * 1e6
    assert not [one for one in found["list"] if abs(one["start_us"] - reset) < 3.6e9], "a counter's reset is no alarm"


def test_a_long_range_comes_in_pieces_without_a_point_twice(url: str, world: World) -> None:
    from cloud_hub.prometheus.client import Client
    from cloud_hub.prometheus.connection import PrometheusConnection

    start, end = world.start, world.start + 30_000 * 60
    with Client(PrometheusConnection(url=url)) as client:
        (one,) = client.query_range('node_load1{instance="web-1:9100"}', start * 1_000_000, end * 1_000_000, 60)
    steps = set((one.t_us[1:] - one.t_us[:-1]).tolist())
    assert steps == {60_000_000}
    assert (one.t_us[0], one.t_us[-1], len(one.t_us)) == (start * 1_000_000, end * 1_000_000, 30_001)


def test_the_table_is_for_a_person(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["backtest", "--prometheus", url, *RANGE, "--step", "5m", "--rows", "5"]) == 0
    text = capsys.readouterr().out
    assert "pages a day" in text
    assert "start (UTC)" in text
    assert "HighLoad" in text
    assert "earlier ones; --rows shows more" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--query", "node_load1{"], 1, "parse error"),
        (["--query", "no_such_metric"], 1, "gives a series"),
        (["--max-series", "1"], 1, "--max-series"),
        (["--days", "3", "--train-days", "3"], 2, "--train-days"),
    ],
)
def test_what_is_refused_is_told_with_its_cure(
    url: str, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["backtest", "--prometheus", url, "--step", "5m", "--end", "2026-06-01", *arguments]) == code
    assert said in capsys.readouterr().err


def test_nobody_there_is_exit_5(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["backtest", "--prometheus", "http://127.0.0.1:9", "--days", "2"]) == 5
    assert "Check that it is running" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["localhost:9090", "ftp://a", "http://u:p@h:1"])
def test_an_address_that_is_none_is_configuration(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["backtest", "--prometheus", address]) == 78
    assert "--prometheus" in capsys.readouterr().err


def test_a_secret_never_travels_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "token"
    secret.write_text("hunter2")
    assert __main__.main(["backtest", "--prometheus", "http://10.1.1.1:9090", "--token-file", str(secret)]) == 78
    assert "hunter2" not in capsys.readouterr().err
