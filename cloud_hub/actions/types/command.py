"""`command`: a command to a device. Restart is verified by the twin; the output of diagnose is its own proof."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session, select

from cloud_hub.actions.catalogue import Effect, Parameters, Progress, Request, Tools
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.base import DeviceAction
from cloud_hub.database.tables import AlarmRow, Command
from cloud_hub.devices import commands
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.twins import service as twins
from cloud_hub.twins.core import reported_values
from cloud_hub.twins.core.reported_values import Model

VERB = r"^[a-z][a-z0-9_.-]{0,63}\Z"
RISKS: dict[str, Risk] = {"diagnose": "read-only", "capture": "low", "restart": "medium"}
"""Other verbs are of high risk: the hub does not know what they do."""


class CommandParameters(Parameters, frozen=True):
    """The command. A verb is a plain word, so that no verb looks like another one with a target."""

    verb: Annotated[str, msgspec.Meta(pattern=VERB)]
    target: Annotated[str, msgspec.Meta(max_length=256)] = ""
    args: dict[str, str | float] = msgspec.field(default_factory=dict)


class CommandAction(DeviceAction):
    """Sends one command; it is complete when the device has answered."""

    name = "command"
    schema: type[Parameters] = CommandParameters

    def __init__(self, tools: Tools) -> None:
        self._verify_s = tools.settings.verify_s

    def risk(self, parameters: CommandParameters) -> Risk:
        """By the verb."""
        return RISKS.get(parameters.verb, "high")

    def details(self, parameters: CommandParameters) -> tuple[str, ...]:
        """`verb/target`."""
        return (f"{parameters.verb}/{parameters.target}",)

    def uncalled(self, session: Session, request: Request) -> str:
        """A changing verb needs a model that the twin reports, and a restart its alarm, too."""
        verb, target = request.parameters.verb, request.parameters.target
        if verb == "diagnose":
            return ""
        if verb not in RISKS:
            return f"the hub has no evidence that calls for '{verb}'"
        if target not in reported_values.models(twins.reported(session, request.device)):
            return "the twin reports no such model"
        if verb == "restart" and not _stalled(session, request.device, target):
            return "no alarm is raised that this model gives no answers"
        return ""

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """The model as the twin reports it."""
        before: dict[str, Any] = msgspec.to_builtins(_model(session, request))
        return before

    def execute(self, session: Session, request: Request, now_us: int) -> Effect:
        """Create the command."""
        wanted = request.parameters
        row, messages = commands.create(
            session, request.device, wanted.verb, wanted.target, now_us, actor="hub", args=wanted.args,
            life_s=self._verify_s, trace=request.trace,
        )  # fmt: skip
        return Effect(effect={"command": row.id}, messages=messages, command=row.id)

    def progress(self, session: Session, request: Request, now_us: int) -> Progress:
        """Pending until the command has ended."""
        row = session.get(Command, request.effect.get("command", ""))
        if row is None:
            return Progress(state="failed", reason="its command is not kept any more")
        if row.done_us is None:
            return Progress(state="pending")
        if row.state != "succeeded":
            return Progress(state="failed", reason=f"the command was {row.state}: {row.text}")
        return Progress(state="done")

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """The twin shows that a model has started again and runs."""
        verb = request.parameters.verb
        if verb == "diagnose":
            return Progress(state="done", reason="the twin shows it")
        if verb != "restart":
            return Progress(state="done", reason="the twin does not show this verb; the device's result counts")
        before, now = reported_values.model(request.before), _model(session, request)
        if now.starts > before.starts and now.state == "running":
            return Progress(state="done", reason="the twin shows it")
        return self.within(self._verify_s, request, now_us)

    def cancel(self, session: Session, request: Request, now_us: int, actor: str) -> list[OutgoingMessage]:
        """Cancel the command."""
        row = session.get(Command, request.effect.get("command", ""))
        if row is None or row.done_us is not None:
            return []
        return commands.give_up(session, row, now_us, actor, "its action was cancelled")


def _model(session: Session, request: Request) -> Model:
    models = reported_values.models(twins.reported(session, request.device))
    return models.get(request.parameters.target, Model())


def _stalled(session: Session, device: str, model: str) -> bool:
    """Whether an unsuppressed alarm is raised that this model gives no answers."""
    alarm = select(AlarmRow.id).where(
        AlarmRow.device == device, AlarmRow.metric == f"{model}/age_s", AlarmRow.kind == "high",
        AlarmRow.about == "", AlarmRow.state == "raised", AlarmRow.suppressed == "",
    )  # fmt: skip
    return session.exec(alarm.limit(1)).first() is not None
