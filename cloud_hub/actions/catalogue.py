"""What an action type is, and the catalogue of those that are installed (entry points `tidegate.actions`).

A type either changes the database (and returns MQTT messages), in one transaction with the action's own state, so that
its effect happens once; or it calls another system, which may be repeated after a crash with the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
from sqlmodel import Session

from cloud_hub.actions.core.policy import Risk
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.settings.actions import Actions
from shared import plugins
from shared.errors import ConfigError
from shared.suggestions import explained

Mailer = Callable[[str, str, str], None]
"""Sends (subject, text, key) to the recipients of one channel; raises NotReady or ConfigError."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of the parameters of a type; their JSON is what a proposal carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What types need from outside: settings, a mailer for each channel, and the largest twin in bytes."""

    settings: Actions = field(default_factory=Actions)
    max_twin_bytes: int = 32768
    mailers: Mapping[str, Mailer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An action as its type sees it. `parameters` is of the type's schema.

    `before` is what `snapshot` returned and `effect` what `execute` returned, both JSON objects. `executed_us` is when
    its effect was complete.
    """

    id: str
    device: str
    parameters: Any
    actor: str = "hub"
    scope: tuple[str, ...] | None = None
    before: dict[str, Any] = field(default_factory=dict)
    effect: dict[str, Any] = field(default_factory=dict)
    executed_us: int = 0
    trace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """How many devices an action changes, and their distinct asset paths ('' for devices without one)."""

    count: int = 0
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an execution left: JSON for later steps, messages to publish after the commit, and the id of a command."""

    effect: dict[str, Any] = field(default_factory=dict)
    messages: list[OutgoingMessage] = field(default_factory=list)
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Whether an execution or verification is still pending, is done, or has failed, and why."""

    state: Literal["pending", "done", "failed"]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverse:
    """The action that undoes another one."""

    type: str
    parameters: dict[str, Any]


class ActionType(Protocol):
    """One type of the catalogue. `undoable` types can be undone unless `undo` says why not now."""

    name: str
    schema: type[Parameters]
    undoable: bool

    def risk(self, parameters: Any) -> Risk:
        """The risk class."""

    def details(self, parameters: Any) -> tuple[str, ...]:
        """What it does, for the patterns of policy rules; the first one counts for cooldowns."""

    def touched(self, session: Session, request: Request) -> Touched:
        """The devices it changes."""

    def precondition(self, session: Session, request: Request) -> str:
        """Why it cannot be executed at all now, or ''."""

    def uncalled(self, session: Session, request: Request) -> str:
        """Why the hub's own evidence does not call for it, or ''."""

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """The state before the execution, for verification and undo."""

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """Whether twin or telemetry shows the effect."""

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """The action that undoes this one, or why there is none."""


@runtime_checkable
class Transactional(Protocol):
    """A type whose effect is in the database of the hub."""

    def execute(self, session: Session, request: Request, now_us: int) -> Effect:
        """Cause the effect within the session's transaction. HubError if it is impossible."""

    def progress(self, session: Session, request: Request, now_us: int) -> Progress:
        """Whether the effect is complete (a device has answered)."""

    def cancel(self, session: Session, request: Request, now_us: int, actor: str) -> list[OutgoingMessage]:
        """Stop what is not complete yet."""


@runtime_checkable
class External(Protocol):
    """A type that calls another system."""

    timeout_s: float

    def prepare(self, request: Request) -> dict[str, Any]:
        """The state before, read before the first call: `before` of the request. Raises NotReady or HubError."""

    def call(self, request: Request, key: str, now_us: int) -> dict[str, Any]:
        """Cause the effect; the same `key` causes it once. Raises NotReady to be called again, HubError to give up."""


class Catalogue:
    """The action types by name."""

    def __init__(self, types: Mapping[str, ActionType]) -> None:
        self.types = dict(types)
        for name, kind in self.types.items():
            if isinstance(kind, External) == isinstance(kind, Transactional):
                cure = "It needs either execute, progress and cancel, or timeout_s, prepare and call"
                raise ConfigError(f"action type '{name}'", "is neither transactional nor external", cure)

    def get(self, name: str) -> ActionType:
        """The type, or HubError 422."""
        kind = self.types.get(name)
        if kind is None:
            known = ", ".join(sorted(self.types))
            raise HubError(422, "No such action type", f"'{name[:80]}' is not installed; there are {known}")
        return kind

    def decode(self, name: str, parameters: Mapping[str, Any]) -> Any:
        """The parameters as the type's schema; HubError 422 names the fault."""
        kind = self.get(name)
        try:
            return msgspec.convert(dict(parameters), kind.schema, strict=True)
        except msgspec.ValidationError as error:
            raise HubError(422, "Invalid parameters", f"{name}: {explained(error, kind.schema)}") from error


def load_catalogue(tools: Tools) -> Catalogue:
    """The installed types; raises ConfigError for one that cannot be imported."""
    names = sorted(point.name for point in entry_points(group=plugins.ACTIONS))
    return Catalogue({name: plugins.load(plugins.ACTIONS, name, "tidegate.actions")(tools) for name in names})
