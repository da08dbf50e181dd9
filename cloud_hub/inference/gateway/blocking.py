"""Typed questions of the hub's own workers, asked from their threads through the gateway."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Any, Protocol

from cloud_hub.inference.engines import ChatRequest, EngineBroken
from cloud_hub.inference.engines.core.completion import Choice, decode_completion
from cloud_hub.inference.gateway.calls import Call, GatewayRefused
from cloud_hub.inference.gateway.service import Gateway
from shared.errors import NotReady

GRACE_S = 5.0
MAX_TOKENS = 1500


class LanguageModel(Protocol):
    """Who answers typed questions."""

    name: str

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """The model's text, which should be JSON of `schema` but must be validated; raises TidegateError."""
        ...


@contextmanager
def serving(gateway: Gateway) -> Iterator[Gateway]:
    """The gateway in an event loop of its own thread, for programs that have none; closed at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(_bind(gateway), loop).result(10)
        yield gateway
        gateway.submit(gateway.aclose).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _bind(gateway: Gateway) -> None:
    gateway.bind()


def complete(gateway: Gateway, call: Call) -> tuple[Choice, str]:
    """Ask from a thread: the first choice, and who answered. Raises NotReady or EngineBroken.

    Do not call it in the gateway's own event loop.
    """
    future = gateway.submit(lambda: gateway.complete(call))
    try:
        content, outcome = future.result(call.deadline_s + GRACE_S)
    except GatewayRefused as error:
        raise NotReady(error.refusal.reason, error.refusal.retry_after_s or 5.0) from None
    except FutureTimeout:
        future.cancel()
        raise NotReady("the gateway did not answer in time", 5.0) from None
    name = f"{outcome.model or 'a model'} of pool {outcome.pool}"
    return decode_completion(content, name).choices[0], name


class GatewayModel:
    """A `LanguageModel` for questions about some sites. `name` is the pool that answered last."""

    def __init__(self, gateway: Gateway, sites: tuple[str, ...] = (), *, deadline_s: float = 60.0) -> None:
        self.name = "the inference gateway"
        self._gateway, self._sites, self._deadline_s = gateway, sites, deadline_s

    def about(self, sites: tuple[str, ...]) -> GatewayModel:
        """The same for questions about other sites, which decide the pools that may see them."""
        return GatewayModel(self._gateway, sites, deadline_s=self._deadline_s)

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """The model's text; raises NotReady or EngineBroken. Do not call it in the gateway's own event loop."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = ChatRequest.typed(messages, schema, max_tokens=MAX_TOKENS).body
        call = Call(body=body, tenant="hub", sites=self._sites, request_class="normal", deadline_s=self._deadline_s)
        choice, self.name = complete(self._gateway, call)
        if choice.finish_reason == "length" or choice.message.content is None:
            raise EngineBroken("the answer was cut off at max_tokens, or holds no text", self.name)
        return choice.message.content
