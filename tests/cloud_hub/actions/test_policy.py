"""The policy's core: what a rule matches, which verdict comes out, and why."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.actions.core import policy as core
from cloud_hub.actions.core.approvals import Approval, admits
from cloud_hub.actions.core.policy import (
    STRICTNESS,
    Budget,
    Facts,
    HourlyHistory,
    Policy,
    PolicyRequest,
    RecentAction,
    Rule,
    SensitiveSequence,
    Storm,
    Verdict,
    judge,
)
from cloud_hub.actions.policy_file import default_policy
from cloud_hub.settings import Actions

NOW, SECOND = 1_800_000_000_000_000, 1_000_000


def request(**change: Any) -> PolicyRequest:
    values: dict[str, Any] = {"type": "twin", "details": ("set//a",), "device": "d", "risk": "medium"}
    return PolicyRequest(**(values | change))


def decide(*rules: Rule, facts: Facts | None = None, now_us: int = NOW, zone: str = "UTC", **change: Any) -> str:
    policy = Policy(rules=rules, time_zone=zone)
    return judge(policy, request(**change), facts or Facts(), now_us).decision


def rule(decision: Any = "allow", **conditions: Any) -> Rule:
    return Rule(name=f"r-{decision}", decision=decision, **conditions)


# -- the default is what [actions] has always said -----------------------------------------------------


def after(last_s: int | None, **change: Any) -> Facts:
    return Facts(last_us=None if last_s is None else NOW - last_s * SECOND, **change)


@pytest.mark.parametrize(("verb", "automatic", "facts", "decision"), [
    ("restart", ["restart"], Facts(), "allow"),
    ("restart", ["restart"], after(599), "approve"),
    ("restart", ["restart"], after(600), "allow"),
    ("restart", ["restart"], after(-5), "approve"),
    ("restart", [], Facts(), "approve"),
    ("restart", ["restart"], Facts(uncalled="no alarm"), "approve"),
    ("restart", ["restart"], Facts(used={"automatic": 5}), "allow"),
    ("restart", ["restart"], Facts(used={"automatic": 6}), "approve"),
    ("capture", ["restart", "diagnose"], Facts(), "approve"),
    ("capture", ["capture"], after(1), "approve"),
    ("capture", ["capture"], Facts(), "allow"),
    ("diagnose", ["diagnose"], after(1), "allow"),
    ("diagnose", ["diagnose"], Facts(used={"automatic": 99}), "allow"),
    ("diagnose", [], Facts(), "approve"),
    ("erase", ["restart"], Facts(), "forbid"),
])  # fmt: skip
def test_the_default_policy_of_a_diagnosis(verb: str, automatic: Any, facts: Facts, decision: str) -> None:
    policy = default_policy(Actions(automatic=automatic, cooldown_s=600, per_day=6))
    asked = request(type="command", details=(f"{verb}/digits",), origin="diagnosis")
    verdict = judge(policy, asked, facts, NOW)
    assert verdict.decision == decision
    assert verdict.reason


@pytest.mark.parametrize(("risk", "approvals"), [("low", 1), ("medium", 1), ("high", 2)])
def test_what_people_propose_needs_others_by_default(risk: Any, approvals: int) -> None:
    verdict = judge(default_policy(Actions()), request(risk=risk), Facts(), NOW)
    assert (verdict.decision, verdict.approvals, verdict.own) == ("approve", approvals, False)


def test_a_diagnosis_may_propose_nothing_but_commands_by_default() -> None:
    for kind in ("twin", "limits", "job", "webhook", "script", "scale", "email", "model_rollback"):
        verdict = judge(default_policy(Actions()), request(type=kind, origin="diagnosis"), Facts(), NOW)
        assert verdict.decision == "forbid"


# -- conditions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("conditions", "change", "matched"), [
    ({"actions": ("twin",)}, {}, True),
    ({"actions": ("limits",)}, {}, False),
    ({"actions": ("twin:set//a",)}, {}, True),
    ({"actions": ("twin:set//a",)}, {"details": ("set//a", "set//b")}, False),
    ({"actions": ("twin:set//a", "twin:set//b")}, {"details": ("set//a", "set//b")}, True),
    ({"actions": ("twin:*",)}, {"details": ()}, False),
    ({"sites": ("acme/a",)}, {"paths": ("acme/a/hall", "acme/a")}, True),
    ({"sites": ("acme/a",)}, {"paths": ("acme/a/hall", "acme/b")}, False),
    ({"sites": ("acme/a",)}, {"paths": ("acme/ab",)}, False),
    ({"sites": ("acme/a",)}, {"paths": ()}, False),
    ({"risks": ("low",)}, {}, False),
    ({"origins": ("playbook",)}, {}, False),
    ({"proposers": ("anna",)}, {"proposer": "anna"}, True),
    ({"most_devices": 10}, {"devices": 11}, False),
    ({"most_devices": 10}, {"devices": 10}, True),
], ids=str)  # fmt: skip
def test_an_allowing_rule_matches_only_if_all_of_it_holds(conditions: Any, change: Any, matched: bool) -> None:
    assert decide(rule(**conditions), **change) == ("allow" if matched else "forbid")


@pytest.mark.parametrize(("conditions", "change"), [
    ({"actions": ("twin:set//a",)}, {"details": ("set//a", "set//b")}),
    ({"sites": ("acme/a",)}, {"paths": ("acme/a/hall", "acme/b")}),
], ids=str)  # fmt: skip
def test_a_forbidding_rule_matches_if_any_part_is_concerned(conditions: Any, change: Any) -> None:
    assert decide(rule("forbid", **conditions), rule(), **change) == "forbid"


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(timezone.utc).timestamp() * 1e6)


@pytest.mark.parametrize(("local", "zone", "inside"), [
    ("2026-12-01T07:59", "Europe/Berlin", False),
    ("2026-12-01T08:00", "Europe/Berlin", True),
    ("2026-12-01T16:30", "Europe/Berlin", True),  # two windows overlap
    ("2026-12-01T17:59", "Europe/Berlin", True),
    ("2026-12-01T18:00", "Europe/Berlin", False),
    ("2026-03-29T03:30", "Europe/Berlin", True),  # the hour after the clocks went forward; the night window of Saturday
    ("2026-03-29T04:00", "Europe/Berlin", False),
    ("2026-10-25T03:30", "Europe/Berlin", True),
    ("2026-07-01T08:00", "Asia/Shanghai", True),
])  # fmt: skip
def test_hours_are_local_times(local: str, zone: str, inside: bool) -> None:
    hours = ("mon-fri 08:00-17:00", "mon-fri 16:00-18:00", "sat 22:00-04:00")
    now_us = at(local, zone)
    assert decide(rule(hours=hours), now_us=now_us, zone=zone) == ("allow" if inside else "forbid")


def test_an_hour_that_happens_twice_is_inside_twice() -> None:
    hours = rule(hours=("sun 02:00-03:00",))
    first_us = int(datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc).timestamp() * 1e6)
    for now_us in (first_us, first_us + 3600 * SECOND):
        assert decide(hours, now_us=now_us, zone="Europe/Berlin") == "allow"


@pytest.mark.parametrize("jump_s", [-86400 * 400, -3600, -1])
def test_a_clock_that_jumps_back_ends_no_cooldown(jump_s: int) -> None:
    assert decide(rule(cooldown_s=60), facts=after(jump_s)) == "forbid"


def test_an_exhausted_budget_hands_over_to_the_next_rule() -> None:
    rules = (rule(budget=Budget(per_day=2)), rule("approve", approvals=2))
    verdict = judge(Policy(rules=rules), request(), Facts(used={"r-allow": 2}), NOW)
    assert (verdict.decision, verdict.approvals) == ("approve", 2)
    assert "2 are allowed" in verdict.reason


# -- sequences and storms ------------------------------------------------------------------------------

DISABLE = SensitiveSequence(name="s", first=("limits:remove*",), then=("twin",), within_s=60)


@pytest.mark.parametrize(("recent", "decision"), [
    ({}, "forbid"),
    ({"t_us": NOW - 60 * SECOND}, "allow"),
    ({"t_us": NOW + 3600 * SECOND}, "forbid"),  # the clock was set back
    ({"device": "other"}, "allow"),
    ({"details": ("set/a",)}, "allow"),
    ({"details": ("set/a", "remove/b")}, "forbid"),
    ({"type": "twin"}, "allow"),
], ids=str)  # fmt: skip
def test_a_sensitive_sequence_is_blocked(recent: dict[str, Any], decision: str) -> None:
    values = {"type": "limits", "details": ("remove/a",), "t_us": NOW - SECOND, "device": "d"} | recent
    policy = Policy(rules=(rule(),), sequences=(DISABLE,))
    assert judge(policy, request(), Facts(recent=[RecentAction(**values)]), NOW).decision == decision


@pytest.mark.parametrize(("hourly", "decision"), [
    (HourlyHistory(count=30), "allow"),
    (HourlyHistory(count=31), "approve"),
    (HourlyHistory(count=70, mean=40, deviation=10), "allow"),
    (HourlyHistory(count=71, mean=40, deviation=10), "approve"),
    (HourlyHistory(count=1000, mean=990, deviation=100), "allow"),
    (HourlyHistory(count=1001, mean=990, deviation=100), "forbid"),
], ids=str)  # fmt: skip
def test_an_action_storm_is_throttled(hourly: HourlyHistory, decision: str) -> None:
    verdict = judge(Policy(rules=(rule(),), storm=Storm()), request(), Facts(hourly=hourly), NOW)
    assert (verdict.decision, bool(verdict.storm)) == (decision, decision != "allow")


def test_the_verdict_names_every_rule_that_was_looked_at() -> None:
    policy = Policy(rules=(rule("forbid", risks=("high",)), rule("approve")), sequences=(DISABLE,))
    verdict = judge(policy, request(), Facts(), NOW)
    assert [(row.rule, row.matched) for row in verdict.results] == [
        ("r-forbid", False), ("r-approve", True), ("s", False), ("storm", False),
    ]  # fmt: skip
    assert verdict.reason == "rule 'r-approve' requires 1 approval"


# -- properties ----------------------------------------------------------------------------------------

KINDS = st.sampled_from(["twin", "limits", "command"])
RULES = st.builds(
    Rule, name=st.sampled_from(["a", "b", "c"]), decision=st.sampled_from(["allow", "approve", "forbid"]),
    actions=st.lists(st.sampled_from(["twin", "limits:*", "command:restart*", "*"]), max_size=2).map(tuple),
    risks=st.lists(st.sampled_from(["low", "medium", "high"]), max_size=2).map(tuple),
    cooldown_s=st.sampled_from([0.0, 60.0]), approvals=st.integers(1, 2), called_for=st.booleans(),
)  # fmt: skip
FACTS = st.builds(
    Facts, uncalled=st.sampled_from(["", "no"]), last_us=st.sampled_from([None, NOW - SECOND, NOW + SECOND]),
    hourly=st.builds(HourlyHistory, count=st.integers(0, 1100)),
    recent=st.lists(st.builds(RecentAction, type=KINDS, details=st.just(("remove/a",)), t_us=st.just(NOW),
                              device=st.sampled_from(["d", "e"])), max_size=2),
)  # fmt: skip
REQUESTS = st.builds(request, type=KINDS, risk=st.sampled_from(["low", "medium", "high"]))


def strictness(verdict: Verdict) -> tuple[int, int]:
    return STRICTNESS[verdict.decision], verdict.approvals


def never_laxer(rules: list[Rule], facts: Facts, asked: PolicyRequest) -> None:
    quiet = Facts(uncalled=facts.uncalled, last_us=facts.last_us)
    plain = judge(Policy(rules=tuple(rules)), asked, quiet, NOW)
    guarded = judge(Policy(rules=tuple(rules), sequences=(DISABLE,)), asked, facts, NOW)
    assert strictness(guarded) >= strictness(plain)


@given(st.lists(RULES, max_size=4), FACTS, REQUESTS)
def test_sequences_and_storms_never_make_a_verdict_laxer(rules: list[Rule], facts: Facts, asked: PolicyRequest) -> None:
    never_laxer(rules, facts, asked)


def test_the_property_finds_a_storm_that_replaces_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_stricter", lambda one, other: other)
    with pytest.raises(AssertionError):
        never_laxer([rule("forbid")], Facts(hourly=HourlyHistory(count=40)), request())


PEOPLE = st.sampled_from(["anna", "bert", "carl"])
GIVEN = st.lists(
    st.builds(Approval, actor=PEOPLE, roles=st.sampled_from(["operator", "viewer", "admin operator", ""]),
              t_us=st.just(1)), max_size=4,
)  # fmt: skip


@given(GIVEN, PEOPLE, st.integers(1, 2), st.booleans())
def test_approvals_count_by_distinct_people_with_the_role(
    given_: list[Approval], proposer: str, needed: int, own: bool
) -> None:
    verdict = Verdict(
        decision="approve", rule="r", reason="", approvals=needed, roles=("operator",), own=own
    )  # fmt: skip
    good = {one.actor for one in given_ if "operator" in one.roles.split() and (own or one.actor != proposer)}
    assert admits(verdict, proposer, given_) == (len(good) >= needed)


@given(GIVEN, PEOPLE)
def test_no_approvals_admit_what_is_forbidden(given_: list[Approval], proposer: str) -> None:
    assert not admits(Verdict(decision="forbid", rule="r", reason=""), proposer, given_)
