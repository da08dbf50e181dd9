"""The policy file: a fault names line and cure, and no hub starts with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_hub.__main__ import main
from cloud_hub.actions.policy_file import load_policy, read_policy, warnings
from cloud_hub.settings import Actions
from shared.errors import ConfigError

TYPES = ["command", "twin", "limits"]
GOOD = """time_zone: Europe/Berlin
rules:
  - name: night
    decision: forbid
    actions: [twin]
    hours: [mon-sun 22:00-06:00]
  - name: small
    decision: allow
    actions: ["command:restart/*", twin]
    sites: [acme/a]
    most_devices: 5
    budget: {per_day: 3, of: site}
  - name: others
    decision: approve
    approvals: 2
    roles: [operator, admin]
sequences:
  - name: disable-then-write
    first: ["limits:remove*", "alarm:shelved*"]
    then: [twin]
storm: {sigmas: 3, floor: 10, ceiling: 100}
"""


def test_a_right_file_is_read() -> None:
    policy = read_policy(GOOD, "p.yaml", TYPES)
    assert [rule.name for rule in policy.rules] == ["night", "small", "others"]
    assert warnings(policy) == []


@pytest.mark.parametrize(("before", "now", "line", "reason"), [
    ("hours: [mon-sun 22:00-06:00]", "hours: [every night]", 3, "are no hours"),
    ("decision: forbid", "decision: forbidden", 4, "Invalid enum value"),
    ("    most_devices: 5", "    most_device: 5", 11, "did you mean 'most_devices'?"),
    ("actions: [twin]", "actions: [twins]", 5, "did you mean 'twin'?"),
    ("approvals: 2", "approvals: 3", 15, "<= 2"),
    ("roles: [operator, admin]", "roles: [boss]", 13, "'boss' is no role"),
    ("roles: [operator, admin]", "roles: []", 13, "nobody could approve"),
    ("Europe/Berlin", "Europe/Berlon", 1, "is no time zone"),
    ("name: others", "name: night", 13, "two rules have the name 'night'"),
    ("per_day: 3", "per_day: -1", 12, ">= 0"),
    ("per_day: 3", "per_day: 99999999999999999999", 12, "<= 1000000"),
    ("    then: [twin]", "    then: [twin]\n    within_s: .inf", 21, "<= 31622400"),
    ("sigmas: 3", "sigmas: 0", 21, "> 0"),
    ("ceiling: 100", "ceiling: 99999999999999999999", 21, "<= 1000000"),
    ("rules:\n", "rules:\n" + "  - {name: a, decision: allow}\n" * 500, 3, "length <= 500"),
    ("rules:", "rule:", 2, "unknown field"),
])  # fmt: skip
def test_a_fault_names_its_line_and_the_cure(before: str, now: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_policy(GOOD.replace(before, now), "p.yaml", TYPES)
    assert caught.value.place == f"p.yaml, line {line}"
    assert reason in caught.value.reason
    assert "policy check" in caught.value.cure


@pytest.mark.parametrize("text", ["", "rules:\n  - name: x", "rules: {", None])
def test_no_policy_is_in_force_when_the_file_has_a_fault(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "policy.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError):
        load_policy(Actions(policy=str(file)), TYPES)


def test_what_is_probably_not_meant_is_warned_about() -> None:
    policy = read_policy("rules:\n- {name: all, decision: allow}\n- {name: late, decision: forbid}", "p", TYPES)
    assert len(warnings(policy)) == 2
    assert "'late' is never reached" in warnings(policy)[0]


def test_the_policy_in_the_documentation_is_in_order() -> None:
    page = (Path(__file__).parents[3] / "docs/incidents/actions.md").read_text("utf-8")
    text = page.partition("```yaml policy\n")[2].partition("```")[0]
    policy = read_policy(text, "actions.md", [*TYPES, "script", "job"])
    assert len(policy.rules) == 5
    assert warnings(policy) == []


def test_the_command_line_checks_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD)
    assert main(["policy", "check", str(file)]) == 0
    assert "rules: 3, sensitive sequences: 1" in capsys.readouterr().out
    file.write_text(GOOD.replace("allow", "maybe"))
    assert main(["policy", "check", str(file)]) == 78
    assert "line 8" in capsys.readouterr().err
