"""What every action type must keep, a third party's too: run yours through `examine_action`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import pytest
from sqlmodel import Session

from cloud_hub.actions import worker
from cloud_hub.actions.catalogue import External, Transactional
from cloud_hub.actions.core.policy import Policy, Risk, Rule
from cloud_hub.actions.service import ActionService, Proposal
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Action
from cloud_hub.errors import HubError

SECOND = 1_000_000


@dataclass(kw_only=True)
class Stage:
    """A type with what it acts on. `parameters` must have an effect on `device`.

    `state` reads what the type changes, `effects` counts effects, `respond` is the device or system that answers.
    `impossible` are valid parameters that cannot be executed here, None if everything can.
    """

    db: Database
    service: ActionService
    type: str
    parameters: dict[str, Any]
    device: str = ""
    state: Callable[[], Any]
    effects: Callable[[], int]
    respond: Callable[[], None] = lambda: None
    impossible: dict[str, Any] | None = None
    now: int = 1_800_000_000_000_000


def examine_action(stage: Stage) -> None:
    """Schema, details and risk; one effect a key; verification; undo that restores, or says why not."""
    stage.service.policy = Policy(rules=(Rule(name="all", decision="allow"),))
    kind = stage.service.catalogue.get(stage.type)
    assert kind.name == stage.type
    assert isinstance(kind, External) != isinstance(kind, Transactional)
    _parameters(stage)
    _forbidden(stage)
    before = stage.state()
    action = _run(stage, stage.parameters, "first")
    assert action.state == "verified", action.outcome
    assert stage.effects() == 1
    _once(stage)
    if stage.impossible is not None:
        failed = _run(stage, stage.impossible, "impossible")
        assert failed.state == "failed"
        assert failed.outcome
    _undo(stage, action, before, undoable=kind.undoable)


def _parameters(stage: Stage) -> None:
    kind = stage.service.catalogue.get(stage.type)
    parameters = stage.service.catalogue.decode(stage.type, stage.parameters)
    assert kind.risk(parameters) in get_args(Risk)
    details = kind.details(parameters)
    assert details
    assert all(isinstance(detail, str) and detail for detail in details)
    assert msgspec.json.schema(kind.schema)
    for wrong in ({}, stage.parameters | {"surplus": 1}, dict.fromkeys(stage.parameters, object)):
        with pytest.raises(HubError) as caught:
            stage.service.catalogue.decode(stage.type, wrong)
        assert caught.value.status == 422


def _forbidden(stage: Stage) -> None:
    allowed, stage.service.policy = stage.service.policy, Policy(rules=())
    action = _run(stage, stage.parameters, "forbidden")
    assert (action.state, stage.effects()) == ("refused", 0)
    stage.service.policy = allowed


def _once(stage: Stage) -> None:
    count = stage.effects()
    assert _run(stage, stage.parameters, "first").state == "verified"
    assert stage.effects() == count, "a repeated key acted twice"


def _undo(stage: Stage, action: Action, before: Any, *, undoable: bool) -> None:
    by = Proposal(type="", parameters={}, proposer="anna")
    if not undoable:
        with pytest.raises(HubError) as caught, stage.db.write() as session:
            stage.service.undo(session, action.id, by, stage.now)
        assert caught.value.status == 409
        return
    assert stage.state() != before
    with stage.db.write() as session:
        undone = stage.service.undo(session, action.id, by, stage.now)
        assert stage.service.undo(session, action.id, by, stage.now).id == undone.id, "undone twice"
    _advance(stage)
    assert (stored(stage, undone.id).state, stage.state()) == ("verified", before)


def _run(stage: Stage, parameters: dict[str, Any], key: str) -> Action:
    wanted = Proposal(type=stage.type, parameters=parameters, device=stage.device, proposer="anna", key=key)
    with stage.db.write() as session:
        action = stage.service.propose(session, wanted, stage.now)
    _advance(stage)
    return stored(stage, action.id)


def stored(stage: Stage, number: str) -> Action:
    """The action as it is stored."""
    with stage.db.read() as session:
        return _get(session, number)


def _get(session: Session, number: str) -> Action:
    row = session.get(Action, number)
    assert row is not None
    return row


def _advance(stage: Stage) -> None:
    for _ in range(4):
        stage.now += SECOND
        worker.run_once(stage.db, stage.service, stage.now)
        worker.make_calls(stage.db, stage.service, lambda: stage.now)
        stage.respond()
