"""Answers questions: by the language model if there is one, else by the question forms; and keeps the sessions."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.ask import model as models
from cloud_hub.ask import tools
from cloud_hub.ask.core import citations, forms, prompt, wording
from cloud_hub.ask.core.facts import Answer, Fact, Language, Sentence, ToolCall
from cloud_hub.ask.model import ChatModel
from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AskTurn
from cloud_hub.incidents.core.messages import sanitize
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.security.core.roles import Scope
from shared.errors import TidegateError

log = logging.getLogger(__name__)

FORMS_ENGINE = "question forms, no language model"
REMEMBERED = 6
"""Earlier turns of a session that a model is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of `actor`, who sees `scope` and has `powers`. `engine`: `rules` asks no language model."""

    text: str
    actor: str
    scope: Scope = None
    powers: frozenset[str] = frozenset({"read"})
    session: str = ""
    language: Language | None = None
    engine: Literal["auto", "rules"] = "auto"
    now_us: int
    playbooks: PlaybookCatalogue = field(default_factory=PlaybookCatalogue)

    @property
    def spoken(self) -> Language:
        """The language of the answer: the one asked for, else that of the question."""
        return self.language or ("zh" if any("一" <= letter <= "鿿" for letter in self.text) else "en")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A tool call under way, or the answer at the end with the session to go on with."""

    call: ToolCall | None = None
    answer: Answer | None = None
    session: str = ""


def ask(db: Database, question: Question, model: ChatModel | None) -> Generator[Progress, None, None]:
    """Answer a question; yields each tool call, and at last the answer. Raises no error of a model."""
    with db.read() as session:
        turns = load_turns(session, question.session, question.actor)
    answer: Answer | None = None
    note = ""
    if model is not None and question.engine == "auto":
        try:
            answer = yield from _by_model(db, question, turns, model)
        except TidegateError as error:
            note = f"by forms, because {model.name} gave no usable answer: {sanitize(str(error), 240)}"
        except Exception as error:  # noqa: BLE001 - a third party's engine may raise anything; its text may hold secrets
            note = f"by forms, because {model.name} failed: {type(error).__name__}"
        if note:
            log.warning("ask.fallback", extra={"fields": {"engine": model.name, "reason": note}})
    if answer is None:
        by_forms = yield from _by_forms(db, question, turns)
        answer = replace(by_forms, note=note)
    yield Progress(answer=answer, session=_keep(db, question, answer))


# -- without a model ---------------------------------------------------------------------------------


def _by_forms(db: Database, question: Question, turns: list[AskTurn]) -> Generator[Progress, None, Answer]:
    last_device = next((turn.device for turn in reversed(turns) if turn.device), "")
    match = forms.match(question.text, last_device)
    language = question.spoken
    if match is None:
        at = 1 if language == "zh" else 0
        examples = "; ".join(form.examples[-1 if at else 0] for form in forms.FORMS)
        unread = Sentence(text=wording.CATALOGUE[language]["unread"].format(examples=examples))
        return Answer(sentences=(unread,), facts=(), author="rules", engine=FORMS_ENGINE)
    facts: list[Fact] = []
    for call in match.calls:
        yield Progress(call=call)
        facts += _run(db, question, call, len(facts) + 1)
    return Answer(
        sentences=wording.sentences(facts, language), facts=tuple(facts), author="rules", engine=FORMS_ENGINE,
        plan=_plan(facts),
    )  # fmt: skip


def _run(db: Database, question: Question, call: ToolCall, first: int) -> list[Fact]:
    with db.read(scope=question.scope) as session:
        usable = tools.all_tools(question.playbooks)
        found = tools.run(session, call, question.now_us, question.powers, usable)
    return wording.to_facts(call.tool, found, question.spoken, first)


# -- with a model ------------------------------------------------------------------------------------


def _by_model(
    db: Database, question: Question, turns: list[AskTurn], model: ChatModel
) -> Generator[Progress, None, Answer | None]:
    """The model's answer; None if nothing of it is supported by its citations."""
    usable = tools.available(question.powers, tools.all_tools(question.playbooks))
    offered = prompt.offered({name: (tool.about, tool.arguments) for name, tool in usable.items()})
    earlier = [(turn.question, turn.text) for turn in turns]
    talk = models.open_conversation(question.text, earlier, offered, question.spoken)
    for call in models.converse(talk, model, lambda call, first: _run(db, question, call, first)):
        yield Progress(call=call)
    return checked(talk, model.name)


def checked(talk: models.Conversation, engine: str) -> Answer | None:
    """The answer without the sentences that its citations do not support; None if none is left."""
    clean = tuple(Sentence(text=sanitize(one.text, 1000), cites=one.cites) for one in talk.sentences)
    kept = citations.kept(clean, talk.facts)
    if not kept:
        return None
    cut = len(clean) - len(kept)
    note = f"{cut} of {len(clean)} sentences were cut: their citations do not support them" if cut else ""
    return Answer(sentences=kept, facts=tuple(talk.facts), author="glm", engine=engine, note=note,
                  plan=_plan(talk.facts))  # fmt: skip


def _plan(facts: Sequence[Fact]) -> str:
    """The last draft of a plan that was valid."""
    return next((str(fact.data["yaml"]) for fact in reversed(facts) if fact.kind == "plan"), "")


# -- sessions ----------------------------------------------------------------------------------------


def load_turns(session: Session, number: str, actor: str) -> list[AskTurn]:
    """The last turns of an actor's own session, the oldest first; none of an unknown one."""
    if not number:
        return []
    rows = select(AskTurn).where(AskTurn.session == number, AskTurn.actor == actor)
    return list(reversed(session.exec(rows.order_by(col(AskTurn.id).desc()).limit(REMEMBERED)).all()))


def _keep(db: Database, question: Question, answer: Answer) -> str:
    match = forms.match(question.text)
    named = [str(fact.data["device"]) for fact in answer.facts if "device" in fact.data]
    device = match.device if match is not None and match.device else (named[0] if len(set(named)) == 1 else "")
    number = question.session or new_id()
    text = " ".join(sentence.text for sentence in answer.sentences)
    row = AskTurn(
        id=new_id(), session=number, actor=question.actor, t_us=question.now_us, question=question.text[:1000],
        text=text[:4000], device=device[:64], author=answer.author, engine=answer.engine[:200],
        answer=msgspec.to_builtins(asdict(answer)),
    )  # fmt: skip
    with db.write() as session:
        session.add(row)
    return number
