"""Learnings over REST: made, shown, tried on history; and what a rollout by hand must pass before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators import databases, histories
from simulators.sites import MINE, Sites
from sqlalchemy import delete
from sqlmodel import col

from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database.tables import LearnedSeries, LearnedState, LearningJob, Rollup, TelemetrySample
from cloud_hub.incidents import service as incidents
from cloud_hub.telemetry.rollups.worker import RollupWorker
from cloud_hub.thresholds.learning.core.policy import LimitPolicy
from cloud_hub.thresholds.monitoring.forecasts import ForecastMonitor
from cloud_hub.thresholds.monitoring.peers import PeerMonitor
from cloud_hub.twins import service as twins
from shared.codec import plain
from shared.durations import DAY_US
from shared.thresholds import Limits


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    one = Sites(tmp_path, databases.sqlite(tmp_path))
    histories.devices(one.db, ["server-1"], "cpu.load")
    histories.store(one.db, "server-1", "cpu.load", *histories.course(8, 300, 1, now_us()))
    yield one
    one.close()


def ask(sites: Sites, method: str, path: str, body: Any = None, **query: Any) -> Any:
    headers = {"Authorization": f"Bearer {sites.whole}"}
    return sites.client.request(method, f"/api/v1{path}", headers=headers, json=body, params=query)


PUSH = {"devices": ["server-1"], "limits": [{"metric": "cpu.load", "high": 45.0}]}


def test_limits_that_would_have_alarmed_too_much_are_not_pushed(sites: Sites) -> None:
    refused = ask(sites, "POST", "/thresholds/rollouts", PUSH)
    assert (refused.status_code, refused.json()["title"]) == (409, "The backtest speaks against it")
    assert "override" in refused.json()["detail"]
    assert ask(sites, "GET", "/devices/server-1/twin/name/thresholds").status_code == 404
    started = ask(sites, "POST", "/thresholds/rollouts", PUSH | {"override": "a drill, see ticket 7"})
    assert started.status_code == 201
    assert started.json()["backtest"]["per_device_week"] > 7
    with sites.db.read() as session:
        (row,) = [row for row in trail.rows(session, kind="rollout.started") if row.detail["override"]]
    assert (row.actor, row.detail["override"]) == ("anna", "a drill, see ticket 7")


def test_quiet_limits_go_and_their_backtest_is_kept(sites: Sites) -> None:
    body = PUSH | {"limits": [{"metric": "cpu.load", "high": 200.0}]}
    started = ask(sites, "POST", "/thresholds/rollouts", body).json()
    assert (started["backtest"]["per_device_week"], started["backtest"]["points"] > 1000) == (0, True)


def test_a_backtest_shows_episodes_of_present_and_learned_limits(sites: Sites) -> None:
    ask(sites, "POST", "/thresholds/rollouts", PUSH | {"override": "x"})
    body = {"series": [{"device": "server-1", "metric": "cpu.load"}], "from_us": now_us() - 2 * DAY_US}
    found = ask(sites, "POST", "/thresholds/backtest", body).json()
    (one,) = found["series"]
    assert (one["in_sample"], one["reason"]) == (False, "")
    assert one["present"]["alarms"] > one["proposed"]["alarms"]
    first = one["present"]["episodes"][0]
    assert (first["kind"], first["peak"] > 45) == ("high", True)
    assert found["total"]["present_per_device_week"] > 7
    given = ask(sites, "POST", "/thresholds/backtest", body | {"limits": PUSH["limits"]}).json()["series"][0]
    assert given["proposed"]["alarms"] == one["present"]["alarms"]


@pytest.mark.parametrize(("body", "place"), [
    ({}, "body.series"), ({"series": [], "from_us": 5, "to_us": 5}, "body.from_us"),
    ({"series": [], "from_us": 5, "to_us": 4}, "body.from_us"), ({"series": [{"device": "a"}]}, "body.series"),
])  # fmt: skip
def test_a_backtest_of_nothing_is_told(sites: Sites, body: Any, place: str) -> None:
    answer = ask(sites, "POST", "/thresholds/backtest", body)
    assert answer.status_code == 422
    assert place in answer.json()["detail"]


@pytest.mark.parametrize("policy", [
    {"metrics": []}, {"metrics": ["A B"]}, {"metrics": ["a"], "canary": 2}, {"metrics": ["a"], "coverage": 0.5},
    {"metrics": ["a"], "train_days": 3, "backtest_days": 3}, {"metrics": ["a"], "watch_s": -1},
    {"metrics": ["a"], "peers": "service"}, {"metrics": ["a"], "peers": "tags."},
    {"metrics": ["a"], "peers": "tags.a b"},
    {"metrics": ["a"], "peers_high": ["A"]},
])  # fmt: skip
def test_terms_that_make_no_sense_are_told(sites: Sites, policy: Any) -> None:
    answer = ask(sites, "PUT", "/learning-jobs/x", {"target": "*", "policy": policy})
    assert answer.status_code == 422, answer.text
    assert "policy" in answer.json()["detail"]


def test_how_far_the_watch_was_raised_above_its_budget_is_shown(sites: Sites) -> None:
    policy = {"metrics": ["cpu.load"], "monitor": True}
    assert ask(sites, "PUT", "/learning-jobs/x", {"target": "*", "policy": policy}).json()["id"] == "x"
    assert ask(sites, "GET", "/learning-jobs/x").json()["raised"] == 0
    with sites.db.write() as session:
        session.add_all(LearnedState(learning="x", number=n, state=b"", live_us=0, raised=n / 10) for n in (0, 3, 1))
    assert ask(sites, "GET", "/learning-jobs/x").json()["raised"] == 0.3


def test_who_is_judged_beside_peers_and_who_is_left_out_is_shown(sites: Sites) -> None:
    policy = {"metrics": ["cpu.load"], "peers": "tags.service", "peers_high": ["cpu.*"]}
    assert ask(sites, "PUT", "/learning-jobs/x", {"target": "*", "policy": policy}).status_code == 201
    assert ask(sites, "GET", "/learning-jobs/x").json()["peers"] == []
    with sites.db.write() as session:
        session.add(LearnedSeries(learning="x", device="server-1", metric="cpu.load"))
    watcher = PeerMonitor(sites.db, incidents.handle_alarm)
    while watcher.run_once(now_us()).again:
        pass
    (one,) = ask(sites, "GET", "/learning-jobs/x").json()["peers"]
    assert (one["metric"], one["servers"], one["left_out"]) == ("cpu.load", 0, 1)
    assert one["reasons"] == {"server-1": "has no tags.service"}


def test_a_target_that_cannot_be_read_points_at_the_place(sites: Sites) -> None:
    answer = ask(sites, "PUT", "/learning-jobs/x", {"target": "tags.a = = 1", "policy": {"metrics": ["a"]}})
    assert answer.status_code == 400


def test_a_trouble_is_told_and_counts_as_missed(sites: Sites) -> None:
    body = {"device": MINE, "metric": "m", "start_us": now_us(), "end_us": now_us() + 1, "note": "bearing"}
    assert ask(sites, "POST", "/missed-faults", body).status_code == 201
    assert ask(sites, "POST", "/missed-faults", body | {"end_us": 1}).status_code == 422
    rows = ask(sites, "GET", "/missed-faults", device=MINE, metric="m").json()
    assert "bearing" in {row["note"] for row in rows}


def test_a_large_set_becomes_a_file_which_only_tls_gives(sites: Sites) -> None:
    slots = {"metric": "cpu.load", "highs": [100.0 + n for n in range(168)]}
    body = {"devices": {"server-1": [slots | {"metric": f"m{n}"} for n in range(5)]}}
    assert ask(sites, "POST", "/limits", body, dry_run=True).json() == {"devices": 1, "limits": 5, "dry_run": True}
    assert ask(sites, "GET", "/devices/server-1/twin/name/thresholds").status_code == 404
    assert ask(sites, "POST", "/limits", body).status_code == 200
    wish = ask(sites, "GET", "/devices/server-1/twin/name/thresholds").json()["state"]["desired"]["limits"]
    assert wish["size"] > 4096
    assert sites.client.get(wish["path"]).status_code == 403


def test_a_fit_by_hand_learns_from_rollups_where_samples_are_kept_no_more(sites: Sites) -> None:
    body = {"device": "server-1", "metric": "cpu.load", "days": 8}
    whole = ask(sites, "POST", "/thresholds/fit", body).json()
    now, roller = now_us(), RollupWorker(sites.db)
    while roller.run_once(now).again:
        pass
    keep(sites, now - DAY_US // 2)
    half = ask(sites, "POST", "/thresholds/fit", body).json()
    assert (len(half["highs"]), len(half["lows"])) == (24, 24)
    assert all(50 < max(one["highs"]) < 200 for one in (whole, half))
    with sites.db.write() as session:  # the control: without rollups half a day is too little
        session.connection().execute(delete(Rollup))
    refused = ask(sites, "POST", "/thresholds/fit", body)
    assert (refused.status_code, refused.json()["title"]) == (422, "Not enough to learn from")


def keep(sites: Sites, since_us: int) -> None:
    """As retention does it."""
    with sites.db.write() as session:
        session.connection().execute(delete(TelemetrySample).where(col(TelemetrySample.t_us) < since_us))


# -- minutes ahead ---------------------------------------------------------------------------------


def forecast(sites: Sites, **more: Any) -> Any:
    return ask(sites, "GET", "/thresholds/forecast", **({"device": "server-1", "metric": "cpu.load"} | more))


def test_a_forecast_tells_its_limit_and_what_it_was_learned_from_or_a_reason(sites: Sites) -> None:
    assert forecast(sites).json()["reason"] == "no learning job with a warn_probability has this series"
    assert forecast(sites, device="nobody").status_code == 404
    assert forecast(sites, limit="nan").status_code == 422
    assert forecast(sites, limit=1.0, metric="no metric").status_code == 422
    with sites.db.write() as session:
        policy = plain(LimitPolicy(metrics=("cpu.load",), warn_probability=0.9))
        session.add(LearningJob(id="f", target="*", policy=policy, actor="anna", created_us=1, due_us=1 << 61))
        session.add(LearnedSeries(learning="f", device="server-1", metric="cpu.load"))
        told = [plain(Limits(metric="cpu.load", high=70.0))]  # crossed often enough, whatever hour it is now
        twins.update_desired(session, "server-1", "thresholds", {"limits": told}, 1, actor="anna", max_bytes=32768)
    assert forecast(sites).json()["reason"] == "the forecaster is not trained yet"
    loop = ForecastMonitor(sites.db, sites.app.state.hub.forecasters, incidents.handle_alarm)
    while loop.run_once(now_us()).again:
        pass
    far = forecast(sites, limit=500.0).json()
    assert (far["limit"], far["side"], far["within_s"], far["reason"]) == (500.0, "high", 900, "")
    assert 0 <= far["probability"] < 0.5
    assert 0 < far["base_rate"] < 1
    assert (far["model"], far["average_precision"] > far["base_rate"]) == ("shared-trees", True)
    assert far["trained_us"] > far["at_us"]
    below = forecast(sites, limit=-500.0).json()
    assert (below["probability"], below["reason"]) == (None, "already beyond the limit")
    assert forecast(sites).json()["limit"] == 70.0
