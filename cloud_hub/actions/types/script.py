"""`script`: runs a script that the device holds under a name. No code and no argument travels.

A device opts in by its own configuration (`[scripts]`), and advertises each script as the command `script <name>`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Effect, Inverse, Parameters, Progress, Request, Tools
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.command import CommandAction, CommandParameters
from cloud_hub.twins import service as twins

ScriptName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]


class ScriptParameters(Parameters, frozen=True):
    """The script's name, and that of the script that undoes it ('' if none does)."""

    script: ScriptName
    undo: Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9_-]{0,63})?\Z")] = ""


class ScriptAction(CommandAction):
    """The command `script <name>`; its exit code counts."""

    name = "script"
    schema: type[Parameters] = ScriptParameters
    undoable = True

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        self._verify_s = tools.settings.script_s

    def risk(self, parameters: Any) -> Risk:
        """High: the hub does not know what a script does."""
        return "high"

    def details(self, parameters: Any) -> tuple[str, ...]:
        """`run/<name>`."""
        return (f"run/{parameters.script}",)

    def precondition(self, session: Session, request: Request) -> str:
        """The device advertises the script."""
        offered = twins.reported(session, request.device).get("commands")
        if isinstance(offered, list) and f"script {request.parameters.script}" in offered:
            return ""
        return f"the device offers no script '{request.parameters.script}': it opts in by its own configuration"

    def uncalled(self, session: Session, request: Request) -> str:
        """The hub has no evidence about scripts."""
        return "the hub has no evidence that calls for a script"

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """Nothing."""
        return {}

    def execute(self, session: Session, request: Request, now_us: int) -> Effect:
        """Create the command."""
        command = CommandParameters(verb="script", target=request.parameters.script)
        return super().execute(session, replace(request, parameters=command), now_us)

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """The exit code counts: another than 0 fails the command."""
        return Progress(state="done", reason="the script ended with code 0")

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """The script that the proposal named."""
        if not request.parameters.undo:
            return "the proposal named no script that undoes it"
        return Inverse(type="script", parameters={"script": request.parameters.undo})
