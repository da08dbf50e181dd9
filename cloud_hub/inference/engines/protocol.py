"""What every engine offers. `tests/examiners/engines.py` checks every implementation."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from cloud_hub.inference.engines.core.request import ChatRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an address can do, found by trying; None: it could not be found out.

    `json_schema` and `tools`: enforced, or at least kept to in the trial. `context` in tokens.
    """

    models: tuple[str, ...] = ()
    context: int | None = None
    streaming: bool | None = None
    json_schema: bool | None = None
    tools: bool | None = None
    vision: bool | None = None
    priority: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether an address answers, and if not, why."""

    ready: bool
    reason: str = ""
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests in an engine; `kv_cache` is the used share, 0..1, if the engine says."""

    running: int
    waiting: int
    kv_cache: float | None = None


class Engine(Protocol):
    """A language model at one address. It belongs to the event loop that first uses it, until `aclose`."""

    name: str
    address: str

    def chat(self, request: ChatRequest, deadline_s: float) -> AsyncGenerator[bytes, None]:
        """The answer: one JSON body, or one SSE event an item, unparsed, up to and with `data: [DONE]`.

        The whole exchange takes at most `deadline_s`. Closing the generator frees the engine's slot. Raises as in
        `errors`; once an item is out the request must not be repeated.
        """
        ...

    async def capabilities(self) -> Capabilities:
        """What the address can do, by asking it for a few tokens; raises as `chat` if it answers nothing at all."""
        ...

    async def health(self) -> Health:
        """Whether it answers now; raises nothing."""
        ...

    async def load(self) -> Load | None:
        """What it is busy with, or None if it does not say."""
        ...

    async def aclose(self) -> None:
        """Close connections, and a child process."""
        ...
