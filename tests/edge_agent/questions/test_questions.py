"""Questions of a device: each is answered once, or refused: by the hub, offline, or after its deadline."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent import clock
from edge_agent.cli.main import main
from edge_agent.collectors import Ask, Inquirer
from edge_agent.questions import local
from edge_agent.questions.service import MAX_OPEN, Questions
from edge_agent.store.statestore import QUESTION, StateStore
from edge_agent.twin.local_cli import EXIT_WAITS, submit_request
from shared.protocol.codec import plain
from shared.protocol.messages import InferenceRequest, InferenceResponse


class Agent:
    """What the agent does with questions, without the rest of it; `tick` is once a second."""

    def __init__(self, store: StateStore) -> None:
        self.connected = True
        self.sent: list[InferenceRequest] = []
        self.questions = Questions(store, self._publish)

    def _publish(self, rest: str, message: Any, *, trace: str) -> bool:
        assert rest == "inference/request"
        assert trace
        if self.connected:
            self.sent.append(message)
        return self.connected

    def answer_all(self) -> None:
        """What a hub does."""
        for request in self.sent:
            self.questions.answered(InferenceResponse(id=request.id, state="answered", text=f"re: {request.prompt}"))
        self.sent.clear()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    opened = StateStore(tmp_path / "kept.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def agent(store: StateStore) -> Agent:
    return Agent(store)


def question(**more: Any) -> InferenceRequest:
    return InferenceRequest(**{"id": clock.new_id(), "prompt": "why?"} | more)


def test_an_answer_reaches_its_callback_once(agent: Agent) -> None:
    heard: list[InferenceResponse] = []
    asked = question()
    agent.questions.ask(asked, heard.append)
    for number in ("another", asked.id, asked.id):
        agent.questions.answered(InferenceResponse(id=number, state="answered", text="worn"))
    assert [(response.id, response.text) for response in heard] == [(asked.id, "worn")]


def test_offline_a_question_is_refused_at_once(agent: Agent) -> None:
    heard: list[InferenceResponse] = []
    agent.connected = False
    agent.questions.ask(question(), heard.append)
    assert [(response.state, response.code) for response in heard] == [("refused", "offline")]


def test_without_an_answer_the_deadline_refuses_it_and_a_late_answer_is_dropped(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[InferenceResponse] = []
    now_s = [100.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])
    agent.questions.ask(question(deadline_s=5), heard.append)
    now_s[0] = 104.9
    agent.questions.tick()
    assert heard == []
    now_s[0] = 105.0
    agent.questions.tick()
    agent.answer_all()
    assert [(response.state, response.code) for response in heard] == [("refused", "deadline")]


def test_open_questions_are_bounded_and_an_answer_makes_room(agent: Agent) -> None:
    heard: list[InferenceResponse] = []
    for _ in range(MAX_OPEN + 1):
        agent.questions.ask(question(), heard.append)
    assert [response.code for response in heard] == ["queue_full"]
    agent.answer_all()
    agent.questions.ask(question(), heard.append)
    assert len(agent.sent) == 1


def test_a_callback_that_fails_ends_nothing(agent: Agent) -> None:
    def fail(response: InferenceResponse) -> None:
        raise ZeroDivisionError(response.id)

    heard: list[InferenceResponse] = []
    agent.questions.ask(question(), fail)
    agent.questions.ask(question(), heard.append)
    agent.answer_all()
    assert [response.state for response in heard] == ["answered"]


def test_a_collector_that_asks_is_an_inquirer() -> None:
    class Curious:
        def use_questions(self, ask: Ask) -> None:
            self.ask = ask

    assert isinstance(Curious(), Inquirer)
    assert not isinstance(object(), Inquirer)


# -- other programs on the device ------------------------------------------------------------------


def beside(agent: Agent, ask: Callable[[], Any]) -> Any:
    """What `ask` returns, while the agent works."""
    found: list[Any] = []
    asker = threading.Thread(target=lambda: found.append(ask()))
    asker.start()
    while asker.is_alive():
        agent.questions.tick()
        agent.answer_all()
        asker.join(0.01)
    return found[0]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "edge.toml"
    file.write_text(f'[device]\nid = "d"\nprofile = "x86-64"\nstate_dir = "{tmp_path}"\n', "utf-8")
    return file


def test_another_program_asks_through_the_agent(agent: Agent, tmp_path: Path) -> None:
    response = beside(agent, lambda: local.ask(tmp_path, question(prompt="is it worn?")))
    assert response == InferenceResponse(id=response.id, state="answered", text="re: is it worn?")


def test_the_command_prints_the_answer_or_why_there_is_none(
    agent: Agent, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ask", "is it\x1b[2J worn?", "--config", str(config)]
    assert beside(agent, lambda: main(command)) == 0
    assert capsys.readouterr().out == "re: is it\\x1b[2J worn?\n", "control characters never reach the terminal"
    assert beside(agent, lambda: main([*command, "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "answered"
    agent.connected = False
    assert beside(agent, lambda: main(command)) == 1
    assert "refused (offline): the device is not connected" in capsys.readouterr().err
    assert main([*command, "--deadline", "0"]) == 2


def test_without_an_agent_the_command_says_so_and_the_agent_never_asks_it_later(
    store: StateStore, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.0)
    assert main(["ask", "why?", "--deadline", "0.01", "--config", str(config)]) == EXIT_WAITS == 75
    assert "is it running?" in capsys.readouterr().err
    started = Agent(store)
    started.questions.tick()
    assert started.sent == []
    assert store.questions() == []


def test_a_question_that_cannot_be_read_stops_no_other_and_no_change_of_a_twin(
    agent: Agent, store: StateStore, tmp_path: Path
) -> None:
    file = tmp_path / "kept.sqlite"
    good: Any = {"asked_us": clock.now_us(), "request": plain(question())}
    for stored in ({"nonsense": 1}, good | {"request": {"id": "x"}}, good):
        submit_request(file, QUESTION, stored)
    submit_request(file, "", {"settings": {"period_s": 1}})
    agent.questions.tick()
    assert len(agent.sent) == 1
    assert [document for _, document, _ in store.requests()] == [""]
    agent.answer_all()
    assert store.questions() == []
