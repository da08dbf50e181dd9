"""Verdicts and missed faults: counted, and the next fit is wider or narrower by them."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from simulators.refits import NOW, SECOND, alarm, confirm, fitted, series
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, MissedFault
from cloud_hub.thresholds.learning import history as stored
from cloud_hub.thresholds.learning import registry as learning_registry
from shared.durations import DAY_US
from shared.protocol.messages import About

pytestmark = pytest.mark.one_database


@pytest.mark.sql
def test_verdicts_are_counted_and_widen_the_next_fit(fitted_plant: Database) -> None:
    confirm(fitted_plant)
    narrow = series(fitted_plant).limits
    for n, verdict in enumerate(["false-alarm", "false-alarm", "real", ""]):
        alarm(fitted_plant, f"a{n}", "press-1", 200 + n, verdict)
    alarm(fitted_plant, "old", "press-1", -5, "false-alarm")
    with fitted_plant.write() as session:
        for n, at in enumerate((NOW + 300 * SECOND, NOW + 10**10)):
            session.add(
                MissedFault(
                    id=str(n), device="press-2", metric="cpu.load", start_us=at, end_us=at, actor="anna", t_us=at
                )
            )
    with fitted_plant.read() as session:
        found = learning_registry.counts(session, "all")
    assert (found.alarms, found.hits, found.false, found.faults, found.missed) == (4, 1, 2, 2, 2)
    with fitted_plant.write() as session:
        for row in session.exec(select(AlarmRow)):
            row.state, row.cleared_us = "cleared", row.raised_us + SECOND
        learning_registry.refit_now(session, "all", NOW, "anna", "")
    fitted(fitted_plant, NOW)
    wide = series(fitted_plant)
    assert wide.factor == pytest.approx(1.25**2)
    assert narrow is not None
    assert wide.limits is not None
    assert wide.limits["high"] - wide.limits["low"] == pytest.approx(
        (narrow["high"] - narrow["low"]) * wide.factor, rel=0.2
    )
    assert series(fitted_plant, "press-2").factor == pytest.approx(0.9**2)
    with fitted_plant.read() as session:
        told = {row.device: row.detail["factor"] for row in trail.rows(session, kind="learning.corrected")}
    assert told == {"press-1": wide.factor, "press-2": series(fitted_plant, "press-2").factor}


def judged_by(db: Database, *abouts: About) -> tuple[learning_registry.Counts, float, Any]:
    """What verdicts on alarms about these, one of which stands over a trouble that was told, make of the limits."""
    confirm(db)
    for about in abouts:
        for n, verdict in enumerate(["false-alarm", "false-alarm", "real", ""]):
            alarm(db, f"{about}{n}", "press-1", 200 + n, verdict, about)
    at = NOW + 300 * SECOND
    with db.write() as session:
        session.add(
            MissedFault(id="t", device="press-1", metric="cpu.load", start_us=at, end_us=at, actor="anna", t_us=at)
        )
    with db.read() as session:
        counts = learning_registry.counts(session, "all")
        said = stored.load_feedback(session, [("press-1", "cpu.load")], NOW, NOW + DAY_US)["press-1", "cpu.load"]
    with db.write() as session:
        learning_registry.refit_now(session, "all", NOW, "anna", "")
    fitted(db, NOW)
    return counts, series(db).factor, said


def test_verdicts_on_alarms_about_anything_else_move_no_limits(fitted_plant: Database) -> None:
    counts, factor, said = judged_by(fitted_plant, *(one for one in get_args(About) if one))
    assert (counts.alarms, counts.hits, counts.false, counts.faults, counts.missed) == (0, 0, 0, 1, 1)
    assert factor == pytest.approx(0.9)
    assert (len(said.faults), said.normal) == (1, ())


def test_control_the_same_verdicts_on_the_limits_own_alarms_move_them(fitted_plant: Database) -> None:
    counts, factor, said = judged_by(fitted_plant, "")
    assert (counts.alarms, counts.hits, counts.false, counts.faults, counts.missed) == (4, 1, 2, 1, 0)
    assert factor == pytest.approx(1.25**2)
    assert (len(said.faults), len(said.normal)) == (2, 2)
