"""What becomes of incidents: the case, whether an action helped, the replay, retention, and the shift report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulators import databases
from simulators.actions import action_service
from simulators.births import born
from sqlmodel import select

from cloud_hub.__main__ import main
from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AlarmRow, Case, Device, Incident, IncidentEvidence, Notification
from cloud_hub.incidents import cases, evidence, groups, replay, reports
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents import worker as diagnosis
from cloud_hub.incidents.core import outcomes, shift_report
from cloud_hub.incidents.core.evidence import Diagnosis, Evidence, EvidenceItem, command_proposal
from cloud_hub.incidents.core.outcomes import ActionSpan
from cloud_hub.incidents.core.replay import not_raised
from cloud_hub.incidents.core.shift_report import GroupLine, ShiftReport
from cloud_hub.settings import Retention
from cloud_hub.telemetry.retention import RetentionWorker
from shared.protocol.messages import Alarm, Birth

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
LATER = NOW + 3 * 3600 * SECOND
DEVICE = "press-3"
FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def alarm(
    db: Database, number: str, t_us: int, state: str = "raised", metric: str = "temp.cpu", device: str = DEVICE
) -> None:  # fmt: skip
    one = Alarm(id=number, metric=metric, kind="high", state=state, priority="high", t_us=t_us, value=97, limit=90)  # type: ignore[arg-type]
    with db.write() as session:
        incidents.handle_alarm(session, device, one, t_us, "")


def resolved(db: Database, at_us: int = NOW) -> str:
    """A diagnosed incident that ended by itself after ten minutes."""
    with db.write() as session:
        born(session, Birth(device=DEVICE, session="s", epoch="e", profile="x86-64"), at_us)
    number = new_id()
    alarm(db, number, at_us)
    with db.write() as session:
        incident = session.exec(select(Incident).where(Incident.state == "open")).one()
        evidence.save(session, evidence.gather(session, incident), at_us)
        incidents.record_diagnosis(
            session, incident.id,
            {"cause": "overheating", "author": "rules", "engine": "rules, no language model", "confidence": 0.8}, at_us,
        )  # fmt: skip
        found = incident.id
    alarm(db, number, at_us + 10 * MINUTE, "cleared")
    return found


def close_all(db: Database, now_us: int = LATER) -> dict[str, Case]:
    cases.run_once(db, now_us)
    with db.read() as session:
        return {row.id: row for row in session.exec(select(Case))}


# -- the case ----------------------------------------------------------------------------------------


@pytest.mark.sql
def test_a_case_is_closed_once_its_alarms_had_time_to_return(db: Database) -> None:
    incident = resolved(db)
    assert close_all(db, NOW + 39 * MINUTE) == {}
    case = close_all(db)[incident]
    assert (case.cause, case.metrics, case.outcome, case.returned_us) == (
        "overheating",
        ["temp.cpu"],
        "by-itself",
        None,
    )
    assert case.evidence is not None
    assert not cases.run_once(db, LATER).again
    with db.read() as session:
        assert cases.newest(session, cause="overheating", device=DEVICE, since_us=NOW)[0].id == incident
        assert cases.newest(session, cause="other") == []


def test_an_alarm_that_comes_back_says_that_nothing_helped(db: Database) -> None:
    incident = resolved(db)
    alarm(db, "again", NOW + 30 * MINUTE)
    case = close_all(db)[incident]
    assert (case.outcome, case.returned_us) == ("returned", NOW + 30 * MINUTE)


def test_cases_are_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MAX_CASES", 2)
    ids = [resolved(db, NOW + n * 60 * MINUTE) for n in range(4)]
    assert sorted(close_all(db, NOW + 9 * 60 * MINUTE)) == sorted(ids)[-2:]


ACTION = ActionSpan(state="verified", started_us=NOW, ended_us=NOW + MINUTE)


@pytest.mark.parametrize(
    ("action", "cleared_us", "returned_us", "expected"),
    [
        (ACTION, NOW + 2 * MINUTE, None, True),
        (ACTION, NOW + 30 * SECOND, None, True),
        (ACTION, NOW - 1, None, False),
        (ACTION, NOW + 17 * MINUTE, None, False),
        (ACTION, NOW + 2 * MINUTE, NOW + 20 * MINUTE, False),
        (ACTION, None, None, False),
        (replace(ACTION, state="failed"), NOW + 2 * MINUTE, None, False),
        (replace(ACTION, changing=False), NOW + 2 * MINUTE, None, False),
    ],
    ids=["soon after", "meanwhile", "before it", "too late", "came back", "not cleared", "failed", "only looked"],
)
def test_an_action_helped_if_the_alarm_cleared_soon_after_and_stayed_away(
    action: ActionSpan, cleared_us: int | None, returned_us: int | None, expected: bool
) -> None:
    assert outcomes.helped(action, cleared_us, returned_us) is expected
    found = outcomes.outcome([action], cleared_us, returned_us, "")
    assert found == ("returned" if returned_us else "helped" if expected else "by-itself")
    assert outcomes.outcome([], cleared_us, None, "anna") == "by-person"


def test_retention_deletes_a_group_with_all_its_rows_and_keeps_the_case(db: Database) -> None:
    first, other = resolved(db), resolved(db, NOW + 90 * MINUTE)
    with db.write() as session:
        groups.merge(session, first, [other], LATER, actor="anna", reason="same fan")
        session.add(Notification(id="n", channel="ops", page=first, device=DEVICE, since_us=NOW))
    close_all(db, NOW + 121 * MINUTE)  # the case of the second is not closed yet
    worker = RetentionWorker(db, Retention(telemetry_days=0, minutes_days=0, hours_days=0, incidents_days=1))
    later = LATER + 10 * 86400 * SECOND

    def left() -> list[int]:
        for _ in range(5):
            worker.run_once(later)
        with db.read() as session:
            return [len(session.exec(select(kind)).all())
                    for kind in (Incident, AlarmRow, IncidentEvidence, Notification, Case)]  # type: ignore[call-overload]  # fmt: skip

    assert left() == [2, 2, 2, 1, 1]
    close_all(db)
    assert left() == [0, 0, 0, 0, 2]


# -- replay ------------------------------------------------------------------------------------------


def by(cause: str, *verbs: str) -> replay.Diagnose:
    """A diagnosis that always concludes the same."""
    proposals = [command_proposal(verb, DEVICE, "fan", "why") for verb in verbs]  # type: ignore[arg-type]

    def diagnose(_facts: Evidence) -> Diagnosis:
        return Diagnosis(
            cause=cause, confidence=1, explanation="", author="rules", engine="changed rules", proposals=proposals
        )  # fmt: skip

    return diagnose


def judge(_facts: Evidence, _proposal: Any) -> str:
    return "ask"


def test_a_replay_says_what_would_differ_and_one_bad_case_stops_no_other(db: Database) -> None:
    incident = resolved(db)
    close_all(db)
    with db.write() as session:
        for number, plain in (("a-without", None), ("b-old", {"items": 7})):
            session.add(Case(id=number, page=number, device=DEVICE, subject="temp", opened_us=1, resolved_us=2,
                             outcome="by-itself", evidence=plain))  # fmt: skip
    with db.read() as session:
        rows = cases.newest(session)
    found = {
        one.id: one for one in replay.replay(rows, replay.Setup(diagnose=by("fan-failed", "restart"), judge=judge))
    }
    assert isinstance(found["a-without"], replay.Skipped)
    assert isinstance(found["b-old"], replay.Skipped)
    one = found[incident]
    assert isinstance(one, replay.Replayed)
    assert one.lines() == [
        "cause: overheating (rules, no language model) -> fan-failed (changed rules)",
        "command target=fan verb=restart: not proposed -> ask",
    ]
    same = list(replay.replay(rows, replay.Setup(diagnose=by("x"), judge=judge, baseline=by("x"))))
    assert not any(isinstance(one, replay.Replayed) and one.differs for one in same)
    assert replay.summary(same) == "0 of 1 past incidents would differ, 2 skipped"


def test_changed_limits_show_which_alarms_would_not_have_been_raised() -> None:
    items = [
        EvidenceItem(id="E1", kind="alarm", device=DEVICE, t_us=1, summary="", data=data)
        for data in (
            {"metric": "a", "kind": "high", "value": 97.0, "about": ""},
            {"metric": "b", "kind": "low", "value": 3.0, "about": ""},
            {"metric": "c", "kind": "high", "value": 97.0, "about": "no-data"},
        )
    ]
    wide = {(DEVICE, name): (1.0, 99.0) for name in "abc"}
    assert not_raised(items, wide) == ["a", "b"]
    assert not_raised(items, {(DEVICE, name): (5.0, 90.0) for name in "abc"}) == []
    assert not_raised(items, {}) == []


def test_replay_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = databases.sqlite(tmp_path)
    db = Database(url)
    resolved(db)
    close_all(db)
    db.close()
    config, rules = tmp_path / "hub.toml", tmp_path / "rules.yaml"
    config.write_text(f'state_dir = "{tmp_path}"\ndatabase = "{url}"\n')
    rules.write_text(
        "rules:\n  - name: hot-hall\n    cause: hot-hall\n    confidence: 0.9\n    explanation: the hall is hot\n"
        "    when: [{metric: 'temp\\..+', kind: high}]\n    propose: []\n"
    )
    assert main(["incident", "replay", "--config", str(config), "--rules", str(rules)]) == 0
    said = capsys.readouterr().out
    assert "cause: overheating (rules, no language model) -> hot-hall" in said
    assert "1 of 1 past incidents would differ" in said


# -- the shift report --------------------------------------------------------------------------------


@pytest.fixture
def shift(db: Database) -> Database:
    resolved(db)
    alarm(db, "stands", NOW + 2 * 3600 * SECOND, metric="cpu.load")
    diagnosis.run_once(db, None, action_service())
    return db


@pytest.mark.sql
def test_a_shift_report_says_what_happened_what_was_done_and_what_stands(shift: Database) -> None:
    with shift.read() as session:
        report = reports.collect(session, NOW - 3600 * SECOND, NOW + 7 * 3600 * SECOND)
    text = shift_report.render_text(report)
    assert "2 groups of incidents opened (2 incidents, 2 alarms), 1 resolved." in text
    assert "press-3 temp: overheating; resolved 2027-01-15 08:10" in text
    assert text.rstrip().splitlines()[-1].endswith("press-3 cpu: cpu-saturated; open")
    assert report.counts["standing"] == 1
    assert sum(map(sum, report.alarms.values())) == 2
    assert b'"step_us":900000000' in shift_report.encode(report)
    with shift.read() as session:
        nothing = reports.collect(session, NOW - 7200 * SECOND, NOW - 3600 * SECOND)
    assert "Nothing: every incident is resolved." in shift_report.render_text(nothing)
    assert "Nothing that the hub knows of." in shift_report.render_text(nothing)
    with shift.read(scope=("acme/b",)) as session:
        assert reports.collect(session, NOW - 3600 * SECOND, NOW + 7 * 3600 * SECOND).counts["alarms"] == 0


@pytest.mark.sql
def test_a_shift_report_lists_a_group_that_a_device_of_another_site_leads(db: Database) -> None:
    with db.write() as session:
        for device, path in ((DEVICE, "acme/a"), ("switch-9", "acme/b")):
            born(session, Birth(device=device, session="s", epoch="e"), NOW)
            session.get_one(Device, device).assigned_path = path
    alarm(db, "mine", NOW, metric="cpu.load")
    alarm(db, "theirs", NOW, device="switch-9", metric="up")
    with db.write() as session:
        rows = {row.device: row.id for row in session.exec(select(Incident))}
        mine = next(number for device, number in rows.items() if device != "switch-9")
        groups.merge(session, rows["switch-9"], [mine], NOW, actor="anna", reason="the switch")
    for site, device in (("acme/a", "press-3"), ("acme/b", "switch-9")):
        with db.read(scope=(site,)) as session:
            report = reports.collect(session, NOW - SECOND, NOW + SECOND)
        assert [line.device for line in report.standing] == [device]
        assert report.counts["groups"] == len(report.opened) == 1


TEXTS = st.text(max_size=60) | st.sampled_from(["</title><script>alert(1)</script>", "a\nb", "\x1b[31m", "&\"'<"])


@FIXED
@given(device=TEXTS, subject=TEXTS, counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=64))
def test_hostile_names_break_neither_the_plot_nor_the_lines(device: str, subject: str, counts: list[int]) -> None:
    line = GroupLine(
        id="i", device=device, subject=subject, cause="x", members=1, devices=1, opened_us=NOW, state="open"
    )
    names = ("groups", "resolved", "standing", "incidents", "alarms", "actions", "helped", "returned", "changes")
    report = ShiftReport(
        from_us=NOW, to_us=NOW + 3600 * SECOND, step_us=MINUTE, counts=dict.fromkeys(names, 1), opened=[line],
        standing=[line], alarms={"low": counts, "high": counts[::-1]},
    )  # fmt: skip
    svg = ElementTree.fromstring(shift_report.plot(report))
    assert {part.tag.rpartition("}")[2] for part in svg.iter()} <= {"svg", "title", "path", "text", "rect"}
    assert all(text.isprintable() for text in shift_report.render_text(report).splitlines())
    assert len(shift_report.render_text(report).splitlines()) == 13


def test_an_action_without_a_verb_is_named_by_what_it_changes() -> None:
    twin = Action(type="twin", detail="set//settings.period_s", parameters={"patch": {"settings": {"period_s": 5}}})
    assert reports._name(twin) == "twin set//settings.period_s"
    command = Action(type="command", detail="restart/line-camera", parameters={"verb": "restart", "target": "cam"})
    assert reports._name(command) == "restart cam"
