"""Rules that a site writes: what a file may hold, its faults, its precedence, and that no pattern stalls the hub."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cloud_hub.__main__ import main
from cloud_hub.incidents import desk
from cloud_hub.incidents.core import rules
from cloud_hub.incidents.core.evidence import AlarmFact, Evidence, EvidenceItem
from cloud_hub.incidents.trial import describe
from cloud_hub.settings import Desk
from shared.errors import EXIT_CONFIG, ConfigError

COOLANT = """
rules:
  - name: coolant-low
    cause: coolant-low
    confidence: 0.9
    when:
      - {metric: 'temp\\.(?P<place>spindle|bearing)', kind: high}
      - {item: event, text: 'coolant|冷却液', within_s: 600}
    explanation: {en: 'coolant of the {place} of {device}', zh: '{device} 的 {place} 冷却液不足'}
    propose:
      - {action: playbook, parameters: {name: refill, place: '{place}', tries: 2}}
tests:
  - name: coolant
    evidence:
      device: mill-2
      alarms: [{metric: temp.spindle, value: 81, limit: 70}]
      items: [{kind: event, summary: 'E44 冷却液'}]
    cause: coolant-low
    proposes: [playbook refill spindle 2]
  - evidence: {alarms: [{metric: temp.spindle}]}
    cause: overheating
"""


def rule(changes: str = "", when: str = "[{metric: x}]") -> str:
    return f"rules:\n  - name: own\n    cause: own\n    confidence: 0.5\n    when: {when}\n{changes}"


def opened(folder: Path, text: str, **settings: object) -> desk.Desk:
    (folder / "site.yaml").write_text(text, "utf-8")
    return desk.open_desk(Desk.model_validate({"rules_file": str(folder / "site.yaml"), **settings}))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (rule("    cuase: x"), 6, "did you mean 'cause'?"),
        (rule("", "[{metric: '(a'}]"), 5, "the pattern '(a' is not valid"),
        (rule("", "[{metric: '(?=a)'}]"), 5, "is not valid"),
        (rule("", "[]"), 5, "length >= 1"),
        (rule("", "[{kind: hihg}]"), 5, "allowed: high, low, no-data"),
        (rule("    explanation: 'it is {valu}'"), 2, "no value {valu}"),
        (rule("    explanation: 'it is {value.__class__}'"), 2, "a placeholder is {name}"),
        (rule("    explanation: '{value:9999999}'"), 2, "a placeholder is {name}"),
        (rule("    explanation: {fr: x}"), 2, "no language 'fr'"),
        (rule("    propose: [{action: command, parameters: {target: '{name}'}}]"), 2, "no value {name}"),
        (rule("    confidence: 2"), 6, "'confidence' stands twice"),
        ("rules: []\ntests:\n  - {cause: x}", 3, "either `evidence` or `incident`"),
    ],
)
def test_a_fault_names_its_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, text)
    assert caught.value.place.endswith(f"site.yaml, line {line}")
    assert reason in caught.value.reason
    assert "desk try" in caught.value.cure


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rule 'own': stands twice"):
        opened(tmp_path, rule() + rule().removeprefix("rules:\n"))


def test_a_file_that_is_not_there_is_the_operators_matter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"desk\.rules_file"):
        desk.open_desk(Desk(rules_file=str(tmp_path / "none.yaml")))


def test_a_sites_rule_comes_first_and_replaces_a_built_in_one_of_its_name(tmp_path: Path) -> None:
    own = "rules:\n  - {name: overheating, cause: hot-day, confidence: 0.3, when: [{metric: 'temp.*'}], propose: []}"
    book = opened(tmp_path, own).book
    names = [one.spec.name for one in book.rules]
    assert names[0] == "overheating"
    assert names.count("overheating") == 1
    assert len(names) == len(desk.builtin_rules())


def test_its_texts_and_proposals_are_filled_in_either_language(tmp_path: Path) -> None:
    alarm = AlarmFact(
        metric="temp.spindle", kind="high", priority="high", value=81.0, limit=70.0, state="raised", t_us=0
    )
    items = [EvidenceItem(id="E7", kind="event", device="mill-2", t_us=0, summary="E44 Coolant level")]
    given = Evidence(incident="i", device="mill-2", alarms=[alarm])
    given.items.extend([*rules.numbered_items(given), *items])
    said = rules.diagnose(given, (english := opened(tmp_path, COOLANT)).book, english.catalogue)
    assert said.claims[0].text == "coolant of the spindle of mill-2"
    assert said.claims[0].cites == ("E1", "E7")
    assert [describe(p) for p in said.proposals] == ["playbook refill spindle 2"]
    assert said.proposals[0].parameters["tries"] == 2
    chinese = rules.rendered(said, desk.catalogue("zh"))
    assert (chinese.claims[0].text, chinese.language) == ("mill-2 的 spindle 冷却液不足", "zh")
    assert "未使用语言模型" in chinese.explanation
    allowed = [rules.identity(proposal) for proposal in rules.allowed_actions(given, english.book)]
    assert rules.identity(said.proposals[0]) in allowed


def test_conditions_have_a_window_and_count_devices(tmp_path: Path) -> None:
    text = rule("", "[{metric: x, devices: 3}, {item: event, text: boom, within_s: 10}]")
    book, catalogue = opened(tmp_path, text, tree=False).book, desk.catalogue()

    def cause(devices: int, event_s: int) -> str:
        alarms = [
            EvidenceItem(
                id=f"E{n}", kind="alarm", device=f"d-{n}", t_us=0, summary="", data={"metric": "x", "state": "raised"}
            )
            for n in range(devices)
        ]
        event = EvidenceItem(id="E9", kind="event", device="d-0", t_us=event_s * 1_000_000, summary="BOOM")
        return rules.diagnose(Evidence(incident="i", device="d-0", items=[*alarms, event]), book, catalogue).cause

    assert [cause(3, 10), cause(2, 10), cause(3, 11)] == ["own", "unknown", "unknown"]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){20}", "((a{0,9}){0,9}){0,9}b"])
def test_no_pattern_of_a_site_stalls_the_hub(tmp_path: Path, pattern: str) -> None:
    """Python's `re` needs longer than the age of the universe for the first two."""
    text = rule("", f"[{{metric: '.+'}}, {{item: event, text: '{pattern}'}}]")
    try:
        book = opened(tmp_path, text).book
    except ConfigError as error:  # too large a pattern is refused
        pytest.skip(error.reason)
    events = ["a" * 5000 + "!"] * 24
    alarm = AlarmFact(metric="x", kind="high", priority="low", value=1.0, limit=0.0, state="raised", t_us=0)
    given = Evidence(incident="i", device="d", alarms=[alarm], events=events)
    began = time.process_time()
    rules.diagnose(given, book, desk.catalogue())
    assert time.process_time() - began < 20, "of this process alone, so that a busy machine does not matter"


def test_try_runs_the_tests_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.yaml").write_text(COOLANT, "utf-8")
    assert main(["desk", "try", str(tmp_path / "site.yaml")]) == 0
    assert "2 of 2 as expected" in capsys.readouterr().out
    (tmp_path / "site.yaml").write_text(COOLANT.replace("cause: overheating", "cause: cold"), "utf-8")
    assert main(["desk", "try", str(tmp_path / "site.yaml"), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["state"] for row in rows] == ["passed", "failed"]
    assert rows[1]["remarks"] == ["cause overheating, expected cold"]


def test_try_judges_given_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.yaml").write_text(COOLANT, "utf-8")
    (tmp_path / "e.json").write_text(json.dumps({"device": "d-1", "alarms": [{"metric": "disk.used"}]}))
    command = ["desk", "try", str(tmp_path / "site.yaml"), "--evidence", str(tmp_path / "e.json"), "--language", "zh"]
    assert main(command) == 0
    assert "磁盘" in capsys.readouterr().out
    (tmp_path / "e.json").write_text("{")
    assert main(command) == EXIT_CONFIG
    (tmp_path / "site.yaml").write_text("rules: 7", "utf-8")
    assert main(command) == EXIT_CONFIG
    assert "line 1" in capsys.readouterr().err
