"""`webhook`: a POST to an address of the settings, never of a request. It follows no redirect and is bounded in time.

An address within a private network is refused unless the settings say `private = true`.
"""

from __future__ import annotations

import ssl
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Inverse, Parameters, Request, Tools
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.base import BaseAction
from cloud_hub.errors import HubError
from cloud_hub.runtime.http_request import has_public_address, send_request
from cloud_hub.security import secret_files
from cloud_hub.security.core.webhook_signature import SIGNATURE, sign
from cloud_hub.settings.actions import ActionWebhook
from shared.errors import ConfigError, NotReady

MAX_BODY, MAX_REPLY = 16_384, 1 << 16
RETRIED = {408, 425, 429}
"""These statuses, and those from 500 on, are tried again."""


class WebhookParameters(Parameters, frozen=True):
    """The name of the webhook in the settings, the JSON that is sent, and the JSON that undoes it, if any."""

    webhook: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    body: dict[str, Any] = msgspec.field(default_factory=dict)
    undo: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if len(msgspec.json.encode(self.body)) > MAX_BODY:
            raise ValueError(f"body: at most {MAX_BODY} bytes of JSON")


class WebhookAction(BaseAction):
    """Posts {key, action, body}, with the idempotency key in a header too, signed if there is a secret."""

    name = "webhook"
    schema = WebhookParameters
    undoable = True

    def __init__(self, tools: Tools) -> None:
        self._webhooks = tools.settings.webhooks
        self._trust = {name: _trust(name, webhook) for name, webhook in self._webhooks.items()}
        self.timeout_s = max((webhook.timeout_s for webhook in self._webhooks.values()), default=10.0)

    def risk(self, parameters: WebhookParameters) -> Risk:
        """Medium: the other system decides what it does."""
        return "medium"

    def details(self, parameters: WebhookParameters) -> tuple[str, ...]:
        """`post/<name>`."""
        return (f"post/{parameters.webhook}",)

    def precondition(self, session: Session, request: Request) -> str:
        """The webhook is in the settings."""
        name = request.parameters.webhook
        return "" if name in self._webhooks else f"'{name}' is not in the settings: actions.webhooks"

    def prepare(self, request: Request) -> dict[str, Any]:
        """Nothing."""
        return {}

    def call(self, request: Request, key: str, now_us: int) -> dict[str, Any]:
        """Post it. What the other system answers beyond its status is not read."""
        name = request.parameters.webhook
        webhook = self._webhooks.get(name)
        if webhook is None:
            raise HubError(409, "No such webhook", f"'{name}' is not in the settings: actions.webhooks")
        _require_public(name, webhook)
        message = {"version": 1, "key": key, "action": request.id, "device": request.device}
        content = msgspec.json.encode(message | {"body": request.parameters.body})
        headers = {"Content-Type": "application/json", "User-Agent": "tidegate-hub", "Idempotency-Key": _header(key)}
        if webhook.secret_file:
            secret = secret_files.read(f"actions.webhooks.{name}.secret_file", webhook.secret_file)
            headers[SIGNATURE] = sign(secret, content, now_us // 1_000_000)
        try:
            answer = send_request(
                "POST", webhook.url, headers=headers, content=content, trust=self._trust[name],
                timeout_s=webhook.timeout_s, max_bytes=MAX_REPLY, cut=True,
            )  # fmt: skip
        except httpx.TimeoutException:
            raise NotReady(f"webhook '{name}' gave no answer within {webhook.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotReady(f"webhook '{name}' cannot be reached ({type(error).__name__})") from None
        return _outcome(name, answer.status)

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """The JSON that the proposal named."""
        if request.parameters.undo is None:
            return "the proposal named nothing that undoes it"
        parameters = {"webhook": request.parameters.webhook, "body": request.parameters.undo}
        return Inverse(type="webhook", parameters=parameters)


def _header(key: str) -> str:
    """The key as a header may hold it: people choose it, in any script. What is no printable ASCII is %-encoded."""
    return quote(key, safe="".join(map(chr, range(0x21, 0x7F))).replace("%", ""))


def _outcome(name: str, status: int) -> dict[str, Any]:
    if 200 <= status < 300:
        return {"status": status}
    if status in RETRIED or status >= 500:
        raise NotReady(f"webhook '{name}' answers HTTP {status}")
    more = ": redirects are not followed" if 300 <= status < 400 else ""
    raise HubError(409, "The webhook refuses", f"webhook '{name}' answers HTTP {status}{more}")


def _require_public(name: str, webhook: ActionWebhook) -> None:
    """HubError if the host has an address that is not public, NotReady if it has none now."""
    if webhook.private:
        return
    try:
        public = has_public_address(webhook.url)
    except OSError:
        raise NotReady(f"webhook '{name}': its host has no address") from None
    if not public:
        cure = f"set actions.webhooks.{name}.private = true if that is meant"
        raise HubError(409, "A private address", f"the host of webhook '{name}' is within a private network: {cure}")


def _trust(name: str, webhook: ActionWebhook) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=webhook.ca_file or None)
    except OSError as error:
        place = f"actions.webhooks.{name}.ca_file"
        raise ConfigError(place, f"cannot be used ({error.strerror})", "Name a readable PEM file") from None
