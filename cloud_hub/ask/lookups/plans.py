"""Look-ups of playbooks, and drafts of one. A draft is a text for a person: checked, and never run."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.ask.core.facts import Finding
from cloud_hub.ask.lookups.arguments import Name
from cloud_hub.errors import HubError
from cloud_hub.playbooks.catalogue import PlaybookCatalogue, placeholder_plan
from cloud_hub.playbooks.core import spec
from cloud_hub.playbooks.core.problems import PlaybookError

DRAFT = "draft"
MAX_DRAFT = 20_000


class NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing."""


class Filled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A playbook of the catalogue and its parameters."""

    name: Name
    parameters: dict[Name, Annotated[str, msgspec.Meta(max_length=200)]] = {}


class Draft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The YAML of a playbook: description, and steps with action, device, parameters, needs, when, wait."""

    yaml: Annotated[str, msgspec.Meta(max_length=MAX_DRAFT)]


class PlanLookups:
    """The look-ups over one catalogue of playbooks."""

    def __init__(self, catalogue: PlaybookCatalogue) -> None:
        self._catalogue = catalogue

    def playbooks(self, _: Session, __: NoArguments, ___: int) -> list[Finding]:
        """The playbooks that can be run."""
        return [
            Finding(kind="playbook", data={
                "name": listed.name, "description": listed.playbook.description,
                "parameters": ", ".join(listed.playbook.parameters) or "-",
            }) for listed in self._catalogue.list_all() if listed.playbook is not None
        ]  # fmt: skip

    def fill_playbook(self, session: Session, asked: Filled, now_us: int) -> list[Finding]:
        """A draft that runs a playbook of the catalogue with these parameters; HubError 404 or 422."""
        self._catalogue.plan(asked.name, dict(asked.parameters))
        step = {"playbook": asked.name, "parameters": dict(asked.parameters)}
        draft: dict[str, Any] = {"description": f"Run {asked.name}", "steps": {"run": step}}
        return self.draft_playbook(session, Draft(yaml=msgspec.yaml.encode(draft).decode()), now_us)

    def draft_playbook(self, _: Session, asked: Draft, __: int) -> list[Finding]:
        """Check a draft; HubError 422 with its problems, each with line and cure."""
        try:
            playbook = spec.read(asked.yaml, DRAFT)
            placeholder_plan(playbook, self._catalogue.load)
        except PlaybookError as error:
            raise HubError(422, "Invalid playbook", str(error)) from None
        return [Finding(kind="plan", data={"steps": len(playbook.steps), "yaml": asked.yaml})]
