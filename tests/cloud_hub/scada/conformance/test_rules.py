"""Each rule of the checker: it holds in a log that keeps it, and a seeded violation is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulators.sparkplug_logs import HOST, Log, edge_log, host_log
from simulators.sparkplug_seeds import EDGE_SEEDS, HOST_SEEDS

from cloud_hub.scada.conformance.core.checker import ALL_RULES, Checker, Scope
from cloud_hub.scada.conformance.core.report import Status, as_document, as_text
from cloud_hub.scada.conformance.core.rules import Level, Role

SEEDS = [("edge", name) for name in EDGE_SEEDS] + [("host", name) for name in HOST_SEEDS]


def checked(role: str, log: Log) -> Checker:
    scope = Scope(role=Role(role), host_id=HOST, servers=2)
    checker = Checker(scope)
    for event in log.events():
        checker.observe(event)
    return checker


@pytest.mark.parametrize(("role", "log", "count"), [("edge", edge_log, 200), ("host", host_log, 96)])
def test_every_statement_holds_where_all_rules_are_kept(role: str, log: type[Log], count: int) -> None:
    found = checked(role, log()).verdicts()
    assert [one.id for one in found if one.status is not Status.HOLDS] == []
    assert len(found) == count


@pytest.mark.parametrize(("role", "rule"), SEEDS)
def test_a_seeded_violation_is_reported_with_its_evidence(role: str, rule: str) -> None:
    log = edge_log() if role == "edge" else host_log()
    (EDGE_SEEDS if role == "edge" else HOST_SEEDS)[rule](log)
    checker = checked(role, log)
    tally = checker.ledger.tallies[rule]
    assert tally.violated > 0
    assert tally.evidence[0].where
    assert tally.evidence[0].what
    statements = {one.id: one.status for one in checker.verdicts()}
    level = checker.ledger.rules[rule].level
    expected = {Status.VIOLATED} if level is Level.MUST else {Status.VIOLATED, Status.ADVICE}
    assert {statements[one] for one in checker.ledger.rules[rule].ids} <= expected


def test_every_rule_that_can_be_violated_has_a_seeded_violation() -> None:
    for role, seeds in ((Role.EDGE, EDGE_SEEDS), (Role.HOST, HOST_SEEDS)):
        rules = {rule.name for rule in ALL_RULES if role in rule.roles and rule.level is not Level.MAY}
        assert rules - seeds.keys() == set()


def test_a_permission_cannot_be_violated() -> None:
    may = {rule.name for rule in ALL_RULES if rule.level is Level.MAY}
    assert may & (EDGE_SEEDS.keys() | HOST_SEEDS.keys()) == set()


def test_a_should_that_is_not_followed_is_advice_and_no_violation() -> None:
    log = edge_log()
    EDGE_SEEDS["datatype.data"](log)
    statements = {one.id: one.status for one in checked("edge", log).verdicts()}
    assert statements["payloads-metric-datatype-not-req"] is Status.ADVICE
    assert Status.VIOLATED not in statements.values()


def test_the_report_names_the_statement_the_time_and_the_topic() -> None:
    log = edge_log()
    EDGE_SEEDS["nbirth.qos"](log)
    found = checked("edge", log).verdicts()
    text = "\n".join(as_text(found, details=True))
    assert "violated: tck-id-payloads-nbirth-qos, 1 times" in text
    assert "spBv1.0/g/NBIRTH/n: QoS 1" in text
    document = json.loads(json.dumps(as_document(found)))
    assert document["counts"]["violated"] == 3
    assert len(document["statements"]) == 200


def test_what_was_not_watched_is_not_seen_and_what_cannot_apply_is_not_applicable() -> None:
    found = {one.id: one for one in Checker(Scope(role=Role.EDGE)).verdicts()}
    assert {one.status for one in found.values()} == {Status.NOT_SEEN, Status.NOT_APPLICABLE}
    single = "operational-behavior-primary-application-state-with-multiple-servers-single-server"
    assert found[single].why == "one broker is watched"
    assert found["payloads-nbirth-qos"].why == "no such message was seen"


def test_one_rule_or_more_is_about_every_statement_of_the_table() -> None:
    table = Path(__file__).parents[3] / "shared" / "sparkplug" / "statements.toml"
    text = table.read_text("utf-8")
    for statement in {one for rule in ALL_RULES for one in rule.ids}:
        assert f'["tck-id-{statement}"]' in text
