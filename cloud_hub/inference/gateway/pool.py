"""A pool at run time: its queue, its addresses with breaker and engine, and one attempt at one address."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import msgspec

from cloud_hub.inference.engines import AnswerInvalid, ChatRequest, Engine, EngineBusy, EngineRefused
from cloud_hub.inference.engines.core.validation import checked
from cloud_hub.inference.gateway.calls import GatewayRefused, refused
from cloud_hub.inference.gateway.core.balancer import Balancer
from cloud_hub.inference.gateway.core.breaker import CircuitBreaker, Outcome, State
from cloud_hub.inference.gateway.core.classes import RequestClass
from cloud_hub.inference.gateway.core.queue import AdmissionQueue, Ticket
from cloud_hub.inference.gateway.core.refusals import Refusal
from cloud_hub.inference.gateway.core.routing import PoolRoute
from cloud_hub.inference.gateway.metrics import GatewayMetrics
from cloud_hub.runtime import tracing
from cloud_hub.settings import inference as settings
from shared.errors import ConfigError, NotReady, WireError

log = logging.getLogger(__name__)

PREFIX_BYTES = 2048
"""How much of the messages decides the address: enough for a system prompt, not for a conversation."""
SMOOTHING, SLOW_FACTOR = 0.05, 8.0
"""The weight of the newest time to the first part in its mean, and how many means are slow."""
ATTEMPT_SHARE = 0.5
"""The share of the remaining time that an attempt may take while another address could be tried after it."""


def now_s() -> float:
    """Monotonic seconds, as the cores use them."""
    return time.monotonic()


@dataclass(slots=True, eq=False)
class Started:
    """An attempt whose first part has arrived."""

    engine: Engine
    request: ChatRequest
    parts: AsyncGenerator[bytes, None]
    first: bytes
    tokens: int
    span: tracing.Span


class Pool:
    """Belongs to the event loop that first uses it."""

    def __init__(self, config: settings.Pool, engines: list[Engine], capacity: int, metrics: GatewayMetrics) -> None:
        self.config, self.engines, self._metrics = config, {engine.address: engine for engine in engines}, metrics
        self.queue = AdmissionQueue(slots=config.max_concurrent * max(1, len(engines)), capacity=capacity)
        self.balancer = Balancer(self.engines)
        self.breakers = {address: CircuitBreaker() for address in self.engines}
        self.errors: dict[str, str] = {}
        self._first_s: dict[bool, float] = {}
        self.route = PoolRoute(
            name=config.name, model=config.model, classes=tuple(config.classes), sites=tuple(config.sites),
            context=config.context, images=not config.redact,
        )  # fmt: skip

    @property
    def waiting(self) -> dict[RequestClass, int]:
        """The number of waiting requests by class."""
        return self.queue.waiting

    @property
    def running(self) -> int:
        """The number of requests with a slot."""
        return self.queue.running

    @property
    def addresses(self) -> dict[str, tuple[State, int]]:
        """Breaker state and outstanding tokens of each address."""
        now = now_s()
        return {
            address: (breaker.state(now), self.balancer.outstanding[address])
            for address, breaker in self.breakers.items()
        }

    # -- slots ---------------------------------------------------------------------------------------

    async def slot(self, ticket: Ticket) -> None:
        """Wait for a slot; raises GatewayRefused. Call `release` in any case."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket.item = ready
        admission = self.queue.offer(ticket, now_s())
        if admission.refusal is not None:
            raise GatewayRefused(admission.refusal)
        if admission.replaced is not None:
            _refuse(admission.replaced, Refusal(code="replaced", reason="an emergency took its place in the full queue",
                                                retry_after_s=5.0))  # fmt: skip
        self._start_waiting()
        try:
            async with asyncio.timeout(max(0.0, ticket.deadline - now_s())):
                await ready
        except TimeoutError:
            raise refused("deadline", "the deadline passed in the queue: give more time, or ask later") from None

    def release(self, ticket: Ticket) -> None:
        """Leave the queue, or free the slot."""
        if not self.queue.remove(ticket):
            self.queue.finish(ticket, now_s())
        self._start_waiting()

    def _start_waiting(self) -> None:
        while (ticket := self.queue.start_next(now_s())) is not None:
            if ticket.item.done():  # cancelled in this very moment: its owner releases the slot
                continue
            ticket.item.set_result(None)

    # -- attempts ------------------------------------------------------------------------------------

    def usable(self, without: set[str]) -> list[str]:
        """Addresses that may be asked now."""
        now = now_s()
        return [address for address, breaker in self.breakers.items() if address not in without and breaker.usable(now)]

    def usable_in_s(self) -> float:
        """Seconds until an address may be asked again."""
        now = now_s()
        return min((breaker.usable_at(now) - now for breaker in self.breakers.values()), default=0.0)

    def choose(self, request: ChatRequest, without: set[str]) -> str | None:
        """The address for the next attempt."""
        return self.balancer.choose(_prefix(request), self.usable(without))

    async def attempt(self, address: str, request: ChatRequest, tokens: int, deadline: float, last: bool) -> Started:
        """Ask one address, and wait for the first part. Raises as `Engine.chat`."""
        breaker, engine = self.breakers[address], self.engines[address]
        breaker.begin(now_s())
        self.balancer.started(address, tokens)
        span = tracing.start("inference.engine", request.traceparent, {
            "server.address": address, "gen_ai.request.model": request.model, "tidegate.pool": self.config.name,
        }, kind="client")  # fmt: skip
        parts = engine.chat(replace(request, traceparent=span.traceparent), max(0.1, deadline - now_s()))
        outcome: Outcome = "abandoned"
        started: Started | None = None
        began = now_s()
        try:
            async with asyncio.timeout(self._patience_s(request, deadline, last)):
                first = await anext(parts)
            if not request.stream:
                first = checked(request, first, engine.name).body
            started = Started(engine, request, parts, first, tokens, span)
            before = self._first_s.get(request.stream, now_s() - began)
            self._first_s[request.stream] = before + SMOOTHING * (now_s() - began - before)
        except (EngineRefused, AnswerInvalid):
            outcome = "ok"
            raise
        except EngineBusy as error:
            breaker.pause(now_s(), error.wait_s)
            raise
        except (NotReady, WireError, ConfigError, TimeoutError, StopAsyncIteration) as error:
            outcome = "failed"
            raise self._failed(address, error) from None
        finally:
            if started is None:
                await self._close(address, parts, tokens, outcome, span)
        return started

    async def end(self, started: Started, outcome: Outcome) -> None:
        """End an attempt: closes the stream, which frees the engine's slot."""
        await self._close(started.engine.address, started.parts, started.tokens, outcome, started.span)

    def slow_s(self, request: ChatRequest, request_class: RequestClass) -> float | None:
        """After how long a second address is asked too; None while it is not known what is slow."""
        if request_class == "emergency":
            return self.config.hedge_s
        mean_s = self._first_s.get(request.stream)
        return None if mean_s is None else max(self.config.hedge_s, SLOW_FACTOR * mean_s)

    def note_overtaken(self, address: str) -> None:
        """A later attempt at another address was faster: count it as a failure."""
        self.breakers[address].end("failed", now_s())
        self.note_failure(address, NotReady(f"{self.engines[address].name}: slower than another address", 5.0))

    def note_failure(self, address: str, error: Exception) -> None:
        """Keep and log why an address failed."""
        reason = str(error) or type(error).__name__
        if self.errors.get(address) != reason:
            log.warning(
                "inference.address_failed", extra={"fields": {"pool": self.config.name, "reason": reason[:300]}}
            )
        self.errors[address] = reason[:300]

    def _failed(self, address: str, error: Exception) -> Exception:
        if isinstance(error, TimeoutError):
            error = NotReady(f"{self.engines[address].name}: no answer in time", 5.0)
        elif isinstance(error, StopAsyncIteration):
            error = NotReady(f"{self.engines[address].name}: an empty answer", 5.0)
        self.note_failure(address, error)
        return error

    def _patience_s(self, request: ChatRequest, deadline: float, last: bool) -> float:
        left = max(0.05, deadline - now_s())
        most = left if last else left * ATTEMPT_SHARE
        return min(most, self.config.first_token_s) if request.stream else most

    async def _close(
        self, address: str, parts: AsyncGenerator[bytes, None], tokens: int, outcome: Outcome, span: tracing.Span
    ) -> None:  # fmt: skip
        span.end({"tidegate.outcome": outcome}, failure="" if outcome == "ok" else outcome)
        self.balancer.finished(address, tokens)
        self.breakers[address].end(outcome, now_s())
        self._metrics.attempts.labels(self.config.name, address, outcome).inc()
        if outcome == "ok":
            self.errors.pop(address, None)
        await parts.aclose()


def _refuse(ticket: Ticket, refusal: Refusal) -> None:
    if not ticket.item.done():
        ticket.item.set_exception(GatewayRefused(refusal))


def _prefix(request: ChatRequest) -> bytes:
    """A digest of how the messages begin."""
    head = msgspec.json.encode([request.body.get("tools"), request.messages[:2]])[:PREFIX_BYTES]
    return hashlib.blake2b(head, digest_size=8).digest()
