"""Questions over a real database: by forms, and by scripted language models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from simulators import databases
from simulators.births import born
from simulators.chat_models import ScriptedModel, answering, calling
from sqlmodel import select

from cloud_hub.ask import model as models
from cloud_hub.ask import service, tools
from cloud_hub.ask.core.facts import Answer, ToolCall
from cloud_hub.ask.lookups.arguments import MOST
from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action, AskTurn, Incident, PlaybookRun
from cloud_hub.devices import registry
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core.evidence import AlarmFact, Evidence
from cloud_hub.incidents.diagnosis import diagnose
from cloud_hub.inference.engines.core.completion import Message
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.playbooks.core import spec
from cloud_hub.telemetry import samples
from cloud_hub.twins import service as twins
from shared.errors import NotReady
from shared.protocol.codec import encode
from shared.protocol.messages import Alarm, Birth, Event, Sample

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
ALL = frozenset({"read", "operate", "infer", "audit"})
HOT = "temp.board"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """press-3 at site a is too hot; press-4 at site b is offline."""
    opened = Database(databases.sqlite(tmp_path_factory.mktemp("ask")))
    with opened.write() as session:
        for device, site in (("press-3", "acme/a"), ("press-4", "acme/b")):
            born(session, Birth(device=device, session="s", epoch="e", profile="x86-64"), NOW)
            registry.assign_asset_path(session, device, site, NOW, actor="anna", within=None)
        born(session, Birth(device="press-4", session="s", epoch="e", state="offline"), NOW)
        marks = StreamOffsets(session)
        series = [(n, Sample(metric=HOT, t_us=NOW - (100 - n) * SECOND, value=float(n))) for n in range(1, 82)]
        rows = samples.sample_rows("press-3", marks.get(("press-3", "e", "telemetry")).source, series)
        samples.store_samples(session, rows)
        event = Event(t_us=NOW, source="fan", level="error", text="fan stopped <script>")
        samples.store_events(session, "press-3", marks.get(("press-3", "e", "event")).source, [(1, event)], "")
        body = encode({"state": {"desired": {"fan": "on"}, "reported": {"fan": "off"}}})
        twins.handle_request(session, "press-3", "", "update", body, NOW, actor="anna", max_bytes=32_768)
        alarm = Alarm(
            id="a1", metric=HOT, kind="high", state="raised", priority="high", t_us=NOW, value=81.0, limit=80.0
        )
        incidents.handle_alarm(session, "press-3", alarm, NOW, "")
        trail.add(session, NOW, "anna", "limits.pushed", "temp.board", device="press-3")
    yield opened
    opened.close()


def ask(db: Database, text: str, model: Any = None, **more: Any) -> Answer:
    given: dict[str, Any] = {"text": text, "actor": "anna", "powers": ALL, "now_us": NOW + SECOND}
    asked = service.Question(**given | more)
    *_, last = service.ask(db, asked, model)
    assert last.answer is not None
    assert last.session
    return last.answer


def texts(answer: Answer) -> str:
    return "\n".join(sentence.text for sentence in answer.sentences)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("what is wrong?", "alarm 'temp.board' of press-3: 81 against the limit 80 (high, raised since 2027-01-15"),
        ("what is wrong with press-4?", "nothing was found for incidents (device press-4, state unresolved)"),
        ("which devices are offline?", "press-4 is offline"),
        ("how many devices are there?", "2 devices match"),
        ("what is temp.board of press-3?", "temp.board of press-3 was 81 at 2027-01-15"),
        ("show temp.board of press-3 in the last hour", "mean 41, lowest 1, highest 81, last 81, 81 samples"),
        ("is press-3 in sync?", 'differs at fan: desired “"on"”'.replace("“", "").replace("”", "")),
        ("is press-4 in sync?", "twin '-' of press-4 is in sync"),
        ("what changed on press-3 today?", "anna did limits.pushed on press-3 ('temp.board')"),
        ("what happened to press-3 today?", 'press-3 reported (error): "fan stopped ‹script›"'),
        ("which devices have the highest temp.board in the last hour?", "press-3: 77"),
        ("which alarms are frequent?", "alarm 'temp.board' of press-3 was raised 1 times"),
        ("what was done about press-3?", "nothing was found for actions"),
        ("how is press-9?", "device found no answer: 'press-9' is not known"),
        ("list devices where tags.site ==", "find_devices found no answer:"),
        ("sing a song", "fits none of the forms"),
        ("press-3有什么问题?", "press-3 的告警“temp.board”：值 81，限值 80"),
        ("唱首歌", "不符合任何"),
    ],
)
def test_forms_answer_from_the_database(db: Database, question: str, said: str) -> None:
    answer = ask(db, question)
    assert said in texts(answer)
    assert (answer.author, answer.engine) == ("rules", "question forms, no language model")
    ids = {fact.id for fact in answer.facts}
    assert all(set(sentence.cites) <= ids for sentence in answer.sentences)


def test_only_what_was_found_is_counted(db: Database) -> None:
    assert "Found" not in texts(ask(db, "what is wrong with press-4?")), "two absences are no findings"
    assert "Found " in texts(ask(db, "what is wrong with press-3?"))


def test_a_question_without_a_form_gets_all_forms(db: Database) -> None:
    assert texts(ask(db, "sing a song")).endswith("how is press-3?")


def test_a_diagnosis_is_told_in_the_language_of_the_question(db: Database) -> None:
    alarm = AlarmFact(metric=HOT, kind="high", priority="high", value=81, limit=80, state="raised", t_us=NOW)
    hot = Evidence(incident="i-1", device="press-3", alarms=[alarm])
    with db.write() as session:
        incident = session.exec(select(Incident).where(Incident.device == "press-3")).one()
        incident.diagnosis = msgspec.to_builtins(diagnose(hot))
        session.add(incident)
    assert "temp.board is 81, above 80" in texts(ask(db, "what is wrong with press-3?"))
    chinese = texts(ask(db, "press-3有什么问题?"))
    assert "temp.board 为 81,高于 80" in chinese
    assert "above" not in chinese


def test_a_plan_is_drafted_and_checked_and_nothing_more(db: Database) -> None:
    answer = ask(db, "draft a plan to restart line-camera on press-3")
    assert "nobody has approved it" in texts(answer)
    playbook = spec.read(answer.plan, "draft")
    assert playbook.steps["run"].playbook == "restart-model"
    assert playbook.steps["run"].parameters == {"device": "press-3", "model": "line-camera"}
    assert "restart-model" in texts(ask(db, "which playbooks are there?"))
    with db.read() as session:
        assert session.exec(select(Action)).all() == []
        assert session.exec(select(PlaybookRun)).all() == []


def test_a_model_drafts_until_the_check_finds_nothing(db: Database) -> None:
    step = "steps: {look: {action: command, device: press-3, parameters: {verb: diagnose, target: processes}}}"
    model = ScriptedModel(
        calling(("draft_playbook", {"yaml": "steps: {look: {action: command, needs: [look]}}"})),
        calling(("draft_playbook", {"yaml": f"description: look\n{step}"})),
        answering(("The plan looks first.", ["E2"])),
    )
    answer = ask(db, "make me a plan", model)
    assert "steps.look" in answer.facts[0].text, "the model was told what is wrong, and where"
    assert (answer.facts[0].kind, answer.facts[1].kind) == ("refused", "plan")
    assert answer.plan.endswith(step)


def test_a_caller_sees_the_scope_and_the_rights_of_the_token_only(db: Database) -> None:
    inside = ask(db, "how many devices are there?", scope=("acme/b",))
    assert "1 devices match" in texts(inside)
    assert "not known" in texts(ask(db, "how is press-3?", scope=("acme/b",)))
    assert "81" not in texts(ask(db, "what is wrong?", scope=("acme/b",)))
    refused = texts(ask(db, "what changed today?", powers=frozenset({"read"})))
    assert "your role may not audit; ask with a token of the role 'auditor'" in refused


def test_every_tool_answers_for_any_session_or_says_why_not(db: Database) -> None:
    for name in tools.TOOLS:
        for arguments in (
            {},
            {"device": "press-3"},
            {"device": 7},
            {"nonsense": 1},
            {"device": "press-3", "metric": HOT},
        ):
            with db.read(scope=("acme/a",)) as session:
                found = tools.run(session, ToolCall(tool=name, arguments=arguments), NOW, ALL)
            assert found
            assert len(found) <= MOST + 1
    with db.read() as session:
        (refused,) = tools.run(session, ToolCall(tool="format_disk", arguments={}), NOW, ALL)
    assert refused.kind == "refused"


def test_a_model_looks_up_and_answers_with_citations(db: Database) -> None:
    model = ScriptedModel(
        calling(("alarms", {"device": "press-3"}), ("last_values", {"device": "press-3", "metric": HOT})),
        answering(("press-3 is at 81, over its limit of 80.", ["E1"]), ("It will explode at 900.", ["E1"])),
    )
    answer = ask(db, "why is press-3 hot?", model)
    assert (answer.author, answer.engine) == ("glm", "scripted")
    assert texts(answer) == "press-3 is at 81, over its limit of 80."
    assert answer.note == "1 of 2 sentences were cut: their citations do not support them"
    assert {tool["function"]["name"] for tool in model.tools} == {*tools.all_tools(PlaybookCatalogue()), "answer"}
    results = [message for message in model.messages if message["role"] == "tool"]
    assert len(results) == 2
    assert '"id":"E1"' in results[0]["content"]


def test_an_answer_in_plain_words_is_read_too(db: Database) -> None:
    model = ScriptedModel(calling(("alarms", {})), Message(content="press-3 is hot [E1]. Trust me."))
    assert texts(ask(db, "so?", model)) == "press-3 is hot."


@pytest.mark.parametrize(
    ("turns", "note"),
    [
        ([NotReady("the pool is full", 1.0)], "gave no usable answer: the pool is full"),
        ([RuntimeError("secret")], "failed: RuntimeError"),
        ([calling(("alarms", {}))] * 20, "no answer after 6 rounds"),
        ([calling(("answer", {"sentences": "no list"}))] * 20, "no answer after 6 rounds"),
    ],
)
def test_a_model_that_fails_leaves_the_answer_to_the_forms(db: Database, turns: list[Any], note: str) -> None:
    answer = ask(db, "what is wrong?", ScriptedModel(*turns))
    assert answer.author == "rules"
    assert "81 against the limit 80" in texts(answer)
    assert note in answer.note
    assert "secret" not in answer.note


def test_an_answer_without_any_support_is_replaced_by_the_forms(db: Database) -> None:
    answer = ask(db, "what is wrong?", ScriptedModel(answering(("All is well.", []))))
    assert answer.author == "rules"
    assert "81 against the limit 80" in texts(answer)


def test_rounds_calls_and_facts_are_bounded(db: Database) -> None:
    many = calling(*[("alarms", {"device": "press-3"})] * 40)
    model = ScriptedModel(*[many] * 5, answering(("press-3 is hot.", ["E1"])))
    answer = ask(db, "why?", model)
    assert len(answer.facts) <= models.MAX_CALLS * (MOST + 1)
    assert sum(len(message.get("tool_calls", [])) for message in model.messages) <= models.MAX_CALLS * models.MAX_ROUNDS
    assert model.choices[1:] == [{"type": "function", "function": {"name": "answer"}}] * (len(model.choices) - 1)


def test_malformed_calls_are_answered_with_a_refusal(db: Database) -> None:
    broken = Message(tool_calls=[{"function": {"name": "alarms", "arguments": "{nope"}}, "no object", {"function": 7}])
    model = ScriptedModel(broken, answering(("alarms found no answer", ["E1"])))
    assert texts(ask(db, "why?", model)) == "alarms found no answer"


def test_a_session_remembers_and_belongs_to_its_actor(db: Database) -> None:
    first = service.Question(text="how is press-3?", actor="anna", powers=ALL, now_us=NOW)
    *_, last = service.ask(db, first, None)
    assert "81" in texts(ask(db, "what is wrong with it?", session=last.session))
    assert "fits none" in texts(ask(db, "what is wrong with it?", session=last.session, actor="ben"))
    model = ScriptedModel(calling(("alarms", {})), answering(("press-3 is hot.", ["E1"])))
    ask(db, "and now?", model, session=last.session)
    assert next(message["content"] for message in model.messages if message["role"] == "user") == "how is press-3?"
    with db.read() as session:
        kept = session.exec(select(AskTurn).where(AskTurn.session == last.session, AskTurn.actor == "anna")).all()
    assert [(turn.device, turn.author) for turn in kept] == [
        ("press-3", "rules"),
        ("press-3", "rules"),
        ("press-3", "glm"),
    ]
