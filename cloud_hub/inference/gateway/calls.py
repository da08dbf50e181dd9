"""What callers hand to the gateway, and what they get back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from cloud_hub.inference.gateway.core.classes import RequestClass
from cloud_hub.inference.gateway.core.refusals import Code, Refusal
from cloud_hub.inference.gateway.core.routing import AUTO, Sites
from cloud_hub.runtime.tracing import Span, Unrecorded
from shared.errors import TidegateError


class GatewayRefused(TidegateError):
    """The gateway does not answer; `refusal` says why, and when to try again."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def refused(code: Code, reason: str, retry_after_s: float | None = None) -> GatewayRefused:
    """An error with this refusal."""
    return GatewayRefused(Refusal(code=code, reason=reason, retry_after_s=retry_after_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request: `body` is the caller's OpenAI body.

    `tenant` is the name of the token or person, or `device:<id>`. `sites` are the asset paths that it is about. Answers
    are shared by the cache among calls about the same sites only. `deadline_s` counts from the arrival.
    """

    body: dict[str, Any]
    tenant: str
    device: str = ""
    sites: Sites = None
    request_class: RequestClass = "normal"
    deadline_s: float
    trace: str = ""

    @property
    def model(self) -> str:
        """The model or pool that the caller names."""
        return str(self.body.get("model") or AUTO)

    @property
    def stream(self) -> bool:
        """Whether the caller wants events."""
        return self.body.get("stream") is True

    @property
    def audience(self) -> Sites:
        """Who may share cached answers with this call."""
        return None if self.sites is None else tuple(sorted(self.sites))


@dataclass(slots=True)
class Outcome:
    """What became of a call, for metrics and records. Times are seconds; `prompt` is the redacted body.

    `span` lasts from the arrival to the end of the answer.
    """

    pool: str = ""
    model: str = ""
    address: str = ""
    state: str = "refused"
    reason: str = ""
    cached: str = ""
    attempts: int = 0
    wait_s: float = 0.0
    first_s: float | None = None
    took_s: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    redactions: dict[str, int] = field(default_factory=dict)
    prompt: dict[str, Any] | None = None
    span: Span = field(default_factory=Unrecorded)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that has begun: one JSON body, or events. Close `items` if not all of it is wanted."""

    items: AsyncGenerator[bytes, None]
    outcome: Outcome
