"""`email`: a mail to the recipients of a channel of the settings; a proposal cannot name others."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Parameters, Request, Tools
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.base import BaseAction
from cloud_hub.errors import HubError


class EmailParameters(Parameters, frozen=True):
    """The channel (`notify.<name>` of kind email), subject and text."""

    channel: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    text: Annotated[str, msgspec.Meta(max_length=10_000)] = ""


class EmailAction(BaseAction):
    """Sends one mail. The Message-ID is made of the key, so that servers can drop a mail that was sent twice."""

    name = "email"
    schema = EmailParameters
    timeout_s = 60.0

    def __init__(self, tools: Tools) -> None:
        self._mailers = tools.mailers

    def risk(self, parameters: EmailParameters) -> Risk:
        """Low: people read it."""
        return "low"

    def details(self, parameters: EmailParameters) -> tuple[str, ...]:
        """`send/<channel>`."""
        return (f"send/{parameters.channel}",)

    def precondition(self, session: Session, request: Request) -> str:
        """The channel is configured."""
        name = request.parameters.channel
        return "" if name in self._mailers else f"there is no e-mail channel '{name}' in the settings"

    def prepare(self, request: Request) -> dict[str, Any]:
        """Nothing."""
        return {}

    def call(self, request: Request, key: str, now_us: int) -> dict[str, Any]:
        """Send it."""
        wanted = request.parameters
        send = self._mailers.get(wanted.channel)
        if send is None:
            raise HubError(409, "No such channel", f"there is no e-mail channel '{wanted.channel}' in the settings")
        send(wanted.subject, wanted.text, key)
        return {"sent_us": now_us}
