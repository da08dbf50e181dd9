"""Desired limits inline and by reference: whole or not at all, checked before use, and the last good set kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.pipeline.limit_set import LimitSet
from edge_agent.twin.core.document import Deferred
from shared.protocol.codec import encode
from shared.protocol.content_reference import FILES, Reference, digest
from shared.thresholds import Limits

SITE = [Limits(metric="cpu.load", high=90.0)]


def entries(*highs: float) -> list[dict[str, Any]]:
    return [{"metric": f"m{n}", "high": high} for n, high in enumerate(highs)]


def reference(content: bytes) -> dict[str, Any]:
    return {"digest": digest(content), "size": len(content), "path": f"{FILES}abc"}


@dataclass
class Agent:
    """A device with a disk; `hub` answers what is fetched, when `answer` is called."""

    file: Path
    kind: type[LimitSet] = LimitSet
    rules: LimitRules = field(default_factory=lambda: LimitRules(SITE))
    asked: list[tuple[Reference, Callable[[bytes, str], None]]] = field(default_factory=list)
    again: int = 0

    def __post_init__(self) -> None:
        self.set = self.kind(self.rules, self.file, lambda *ask: self.asked.append(ask), self._again)

    def _again(self) -> None:
        self.again += 1

    def answer(self, content: bytes = b"", reason: str = "") -> None:
        _, came = self.asked.pop()
        came(content, reason)

    def highs(self) -> list[float | None]:
        return [one.high for one in self.rules.limits()]


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "limits.json")


def test_an_inline_set_is_in_force_at_once(agent: Agent) -> None:
    assert agent.set.desired(entries(1.0, 2.0)) == entries(1.0, 2.0)
    assert agent.highs() == [1.0, 2.0]


def test_a_file_is_fetched_once_and_then_in_force(agent: Agent) -> None:
    content = encode(entries(5.0))
    agent.set.desired(entries(1.0))
    for _ in range(3):
        with pytest.raises(Deferred, match="bytes are fetched"):
            agent.set.desired(reference(content))
    assert len(agent.asked) == 1
    assert agent.highs() == [1.0]
    agent.answer(content)
    assert agent.again == 1
    assert agent.set.desired(reference(content)) == reference(content)
    assert agent.highs() == [5.0]


@pytest.mark.parametrize("content", [b"", b"[]", encode(entries(6.0)), b"\xff" * 30])
def test_other_bytes_are_refused_and_the_last_good_set_stays(agent: Agent, content: bytes) -> None:
    agent.set.desired(entries(1.0))
    wish = reference(encode(entries(5.0)))
    with pytest.raises(Deferred):
        agent.set.desired(wish)
    agent.answer(content)
    with pytest.raises(ValueError, match="not the one that the hub named"):
        agent.set.desired(wish)
    assert agent.highs() == [1.0]
    with pytest.raises(Deferred):  # asked for once more, it is fetched once more
        agent.set.desired(wish)


def test_what_is_not_to_be_had_is_refused_with_the_reason(agent: Agent) -> None:
    wish = reference(encode(entries(5.0)))
    with pytest.raises(Deferred):
        agent.set.desired(wish)
    agent.answer(reason="the hub answered 404")
    with pytest.raises(ValueError, match="404"):
        agent.set.desired(wish)


@pytest.mark.parametrize("rows", [
    [{"metric": "m", "high": 1.0, "low": 2.0}], [{"metric": "cpu.load", "high": 99.0}], [{"high": 1.0}], "nonsense",
])  # fmt: skip
def test_a_file_beyond_the_rules_is_refused_whole(agent: Agent, rows: Any) -> None:
    agent.set.desired(entries(1.0))
    content = encode([*entries(5.0), *rows] if isinstance(rows, list) else rows)
    with pytest.raises(Deferred):
        agent.set.desired(reference(content))
    agent.answer(content)
    with pytest.raises(ValueError, match=r"."):
        agent.set.desired(reference(content))
    assert agent.highs() == [1.0]


@pytest.mark.parametrize("wish", [
    {"digest": "sha256:" + "0" * 64, "size": 5, "path": "https://elsewhere/x"},
    {"digest": "sha256:" + "0" * 64, "size": 5, "path": f"{FILES}../../etc/passwd"},
    {"digest": "md5:0", "size": 5, "path": f"{FILES}x"}, {"digest": "sha256:" + "0" * 64, "path": f"{FILES}x"},
    {"digest": "sha256:" + "0" * 64, "size": 1 << 40, "path": f"{FILES}x"}, {},
])  # fmt: skip
def test_a_reference_to_elsewhere_is_refused_before_anything_is_fetched(agent: Agent, wish: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        agent.set.desired(wish)
    assert agent.asked == []


def test_a_restart_without_the_hub_has_the_same_file_in_force(agent: Agent) -> None:
    content = encode(entries(5.0, 6.0))
    with pytest.raises(Deferred):
        agent.set.desired(reference(content))
    agent.answer(content)
    agent.set.desired(reference(content))
    again = Agent(agent.file)
    assert again.set.desired(reference(content)) == reference(content)
    assert again.highs() == [5.0, 6.0]
    assert again.asked == []


def test_a_restart_before_the_file_has_come_keeps_the_last_good_set(agent: Agent) -> None:
    agent.set.desired(entries(1.0))
    with pytest.raises(Deferred):
        agent.set.desired(reference(encode(entries(5.0))))
    again = Agent(agent.file)
    with pytest.raises(Deferred):
        again.set.desired(reference(encode(entries(5.0))))
    assert again.highs() == [1.0]


def test_a_damaged_file_is_fetched_anew(agent: Agent) -> None:
    content = encode(entries(5.0))
    agent.file.write_bytes(content[:-3])
    with pytest.raises(Deferred):
        agent.set.desired(reference(content))
    assert agent.highs() == []
    assert len(agent.asked) == 1


def test_a_later_wish_makes_an_earlier_answer_worthless(agent: Agent) -> None:
    first, second = encode(entries(5.0)), encode(entries(6.0))
    with pytest.raises(Deferred):
        agent.set.desired(reference(first))
    with pytest.raises(Deferred):
        agent.set.desired(reference(second))
    early = agent.asked.pop(0)
    early[1](first, "")
    with pytest.raises(Deferred):
        agent.set.desired(reference(second))
    assert agent.highs() == []
    agent.answer(second)
    agent.set.desired(reference(second))
    assert agent.highs() == [6.0]


class Careless(LimitSet):
    """Seeded bug: uses what came without comparing it with the digest."""

    def _received(self, reference: Reference, content: bytes, reason: str) -> None:
        self._rules.desired_limits([{"metric": "m0", "high": 77.0}] if content else [])
        super()._received(reference, content, reason)


def world(kind: type[LimitSet], folder: Path, happenings: list[tuple[str, int]]) -> str:
    """Wishes, answers right and wrong, and restarts; what is wrong, or ''."""
    sets = [entries(float(n + 1), float(n + 11)) for n in range(3)]
    contents = [encode(one) for one in sets]
    legal: list[list[float | None]] = [[], *([float(n + 1), float(n + 11)] for n in range(3))]
    agent = Agent(folder / "limits.json", kind)
    last, verified = [], False
    for what, n in happenings:
        if what == "wish":
            try:
                agent.set.desired(reference(contents[n]) if n else sets[n])
                last, verified = agent.highs(), True
                if last != legal[n + 1]:
                    return f"wish {n} is said to be in force, but {last} is"
            except (Deferred, ValueError):
                pass
        elif what == "restart":
            agent = Agent(agent.file, kind)
        elif agent.asked:
            agent.answer(contents[n] if what == "come" else b"garbage")
        if agent.highs() not in legal:
            return f"{agent.highs()} is no whole set"
        if verified and what == "wish" and not agent.highs():
            return "the last good set is gone"
    return ""


steps = st.lists(st.tuples(st.sampled_from(["wish", "come", "wrong", "restart"]), st.integers(0, 2)), max_size=25)


@given(happenings=steps)
@settings(max_examples=150)
def test_no_world_has_half_a_set_or_one_that_was_not_checked(tmp_path_factory: Any, happenings: Any) -> None:
    assert world(LimitSet, tmp_path_factory.mktemp("d"), happenings) == ""


def test_the_worlds_would_find_unchecked_bytes(tmp_path_factory: Any) -> None:
    wrong = [("wish", 1), ("wrong", 0)]
    assert world(LimitSet, tmp_path_factory.mktemp("d"), wrong) == ""
    assert "no whole set" in world(Careless, tmp_path_factory.mktemp("d"), wrong)
