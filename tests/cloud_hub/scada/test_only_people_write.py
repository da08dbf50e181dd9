"""Nothing but a person writes to a plant: no action type, playbook, job, configuration or tool of `ask` offers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulators.actions import action_service

from cloud_hub.actions.catalogue import Tools, load_catalogue
from cloud_hub.actions.service import Proposal
from cloud_hub.ask.tools import all_tools
from cloud_hub.configurations.core import rules as configuration_rules
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, Job
from cloud_hub.errors import HubError
from cloud_hub.jobs import handlers as jobs
from cloud_hub.playbooks.actions import judge_plan
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.twins.core import plant

pytestmark = pytest.mark.one_database
PATCH = {"metrics": {"setpoint": 1}}
AS_TWIN: dict[str, Any] = {"document": plant.DOCUMENT, "patch": PATCH}
AS_JOB: dict[str, Any] = {"kind": "twin", "query": "*", "document": plant.DOCUMENT, "content": PATCH}
TYPES = load_catalogue(Tools()).types


def schema_text(kind: Any) -> str:
    """All that a type lets a proposal say."""
    return str(msgspec.json.schema(kind.schema)).lower()


def test_no_action_type_has_a_word_for_it() -> None:
    assert len(TYPES) >= 8
    for name, kind in TYPES.items():
        assert "sparkplug" not in name
        for word in ("sparkplug", "plc", "ncmd", "dcmd"):
            assert word not in schema_text(kind), (name, word)


@pytest.mark.parametrize(("name", "parameters"), [("twin", AS_TWIN), ("job", AS_JOB)])
def test_an_action_on_the_document_of_writes_is_refused_when_it_is_proposed(
    db: Database, name: str, parameters: dict[str, Any]
) -> None:
    service = action_service()
    with db.write() as session:
        session.add(Device(id="press", profile="sparkplug"))
        wanted = Proposal(type=name, parameters=parameters, device="press" if name == "twin" else "", proposer="glm")
        with pytest.raises(HubError, match="only a person"):
            service.propose(session, wanted, 1)


def test_every_type_that_can_name_a_document_refuses_this_one() -> None:
    """A new type with a document must refuse it too, or this finds it."""
    naming = {name for name, kind in TYPES.items() if "'document'" in str(msgspec.json.schema(kind.schema))}
    assert naming == {"twin", "job"}
    for name in naming:
        with pytest.raises(msgspec.ValidationError, match="only a person"):
            msgspec.convert(AS_TWIN if name == "twin" else AS_JOB, TYPES[name].schema)


PLAYBOOK = """
description: Set a setpoint
parameters:
  device: {type: string, description: the device}
  document: {type: string, description: a document}
deadline: 10m
steps:
  set:
    title: Set it
    action: twin
    device: ${device}
    parameters: {document: "${document}", patch: {metrics: {setpoint: 1}}}
"""


@pytest.mark.parametrize("document", [plant.DOCUMENT, "gates"])
def test_a_playbook_that_writes_cannot_run_whatever_its_parameters(db: Database, tmp_path: Path, document: str) -> None:
    (tmp_path / "set.yaml").write_text(PLAYBOOK, "utf-8")
    plan = PlaybookCatalogue(str(tmp_path)).plan("set", {"device": "press", "document": document})
    with db.write() as session:
        session.add(Device(id="press", profile="sparkplug"))
        session.flush()
        if document == plant.DOCUMENT:
            with pytest.raises(HubError, match="only a person"):
                judge_plan(session, action_service(), plan, 1, actor="glm")
        else:
            assert len(judge_plan(session, action_service(), plan, 1, actor="glm")) == 1


def test_no_playbook_of_the_library_touches_it() -> None:
    for listed in PlaybookCatalogue().list_all():
        assert "sparkplug" not in PlaybookCatalogue().text(listed.name).lower()


def test_no_tool_of_ask_writes() -> None:
    for name, tool in all_tools(PlaybookCatalogue()).items():
        text = f"{name} {tool.about} {msgspec.json.schema(tool.arguments)}".lower()
        assert tool.power in {"read", "audit"}, (name, tool.power)
        for word in ("sparkplug", "setpoint", "plc", "write a"):
            assert word not in text, (name, word)


def test_a_job_on_it_is_refused() -> None:
    job = Job(id="j", kind="twin", query="*", document=plant.DOCUMENT, content=PATCH, actor="anna", created_us=1,
              start_us=1, deadline_us=2)  # fmt: skip
    with pytest.raises(HubError, match="only a person"):
        jobs.check(job, 32768)


def test_a_configuration_with_it_is_refused() -> None:
    with pytest.raises(ValueError, match="only a person"):
        configuration_rules.check({plant.DOCUMENT: PATCH}, 32768)
