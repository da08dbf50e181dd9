"""Questions to a person at the terminal."""

from __future__ import annotations

import pytest

from cloud_hub.scada.conformance.core.checker import Scope
from cloud_hub.scada.conformance.core.rules import Role
from cloud_hub.scada.conformance.operators import Person
from cloud_hub.scada.conformance.stimulus import Nobody, Operator, Stage
from cloud_hub.scada.conformance.watch import Watch

RULES = ("action.node-offline", "action.node-stale")


def tallies(operator: Operator) -> list[tuple[int, bool]]:
    """(times judged, violated) of both rules after the operator was asked."""
    watch = Watch(Scope(role=Role.HOST))
    Stage(watch, operator, lambda _: None).ask(RULES, "g", "n", "", "Line/Speed")
    return [(watch.judged(rule), watch.violated(rule)) for rule in RULES]


@pytest.mark.parametrize(
    ("answer", "tally"), [("y", (1, False)), (" No ", (1, True)), ("", (0, False)), ("skip", (0, False))]
)
def test_an_answer_is_judged_and_an_empty_one_is_not(
    answer: str, tally: tuple[int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def reply(text: str) -> str:
        asked.append(text)
        return answer

    monkeypatch.setattr("builtins.input", reply)
    assert tallies(Person()) == [tally, tally]
    assert asked[0].startswith("g/n, metric 'Line/Speed': after NDEATH the node is offline")


def test_without_a_terminal_or_an_operator_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_text: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert tallies(Person()) == tallies(Nobody()) == [(0, False), (0, False)]
    assert not Person().act("stop", "g", "n", "", "")


def test_a_deed_names_the_node_and_the_metric_with_control_characters_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    assert Person().act("write", "g", "n\x1b", "press", "Temperature")
    assert asked == ["Write a new value to metric 'Temperature' of g/n\\x1b/press now. [y when done, skip] "]
