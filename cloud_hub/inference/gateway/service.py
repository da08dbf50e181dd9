"""The gateway: checks, routes, queues, sends and repeats requests; what REST, devices, tasks and the hub itself call.

It lives in one event loop. Threads hand requests over with `ask_from_thread`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from cloud_hub.clock import now_us
from cloud_hub.inference.engines import AnswerInvalid, ChatRequest, EngineBroken, EngineRefused
from cloud_hub.inference.engines.core.sse import DONE, event_data
from cloud_hub.inference.engines.core.streams import check_stream
from cloud_hub.inference.gateway.calls import Call, GatewayRefused, Outcome, Reply, refused
from cloud_hub.inference.gateway.core import routing, tokens
from cloud_hub.inference.gateway.core.breaker import Outcome as AddressOutcome
from cloud_hub.inference.gateway.core.budgets import BudgetLedger, Reservation, Subject, Usage
from cloud_hub.inference.gateway.core.cache import CachedResponse, ResponseCache, cache_key, cacheable
from cloud_hub.inference.gateway.core.classes import CLASSES
from cloud_hub.inference.gateway.core.queue import Ticket
from cloud_hub.inference.gateway.core.redaction import Redactor, holds_image
from cloud_hub.inference.gateway.core.refusals import Refusal
from cloud_hub.inference.gateway.metrics import GatewayMetrics, PoolCollector
from cloud_hub.inference.gateway.pool import Pool, Started, now_s
from cloud_hub.inference.gateway.recorder import Recorder
from cloud_hub.inference.gateway.usage import UsageReader, wants_usage
from cloud_hub.runtime import tracing
from shared.errors import ConfigError, NotReady, WireError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Attempts at the addresses of one pool."""
LONGEST_PAUSE_S = 5.0
"""How long a request waits for an address that will be usable again, if no pool has one now."""
LARGE_TOKENS = 4_000
"""Larger prompts are redacted in a thread."""
MAX_ANSWER = 8 << 20
"""The largest answer in bytes, which is held until its end, to be checked, cached and kept."""
BROKE_OFF = "the engine broke off the stream"
ENGINE_FAILURES = (NotReady, WireError, ConfigError)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A call on its way: its estimated size, its cache key, its arrival and deadline in monotonic seconds."""

    call: Call
    tokens_in: int
    tokens_out: int
    key: bytes | None
    arrived: float
    deadline: float
    outcome: Outcome


class Gateway:
    """Pools with shared budgets, cache and records."""

    def __init__(
        self, pools: Sequence[Pool], *, ledger: BudgetLedger, cache: ResponseCache, redactor: Redactor,
        recorder: Recorder, metrics: GatewayMetrics, max_tool_rounds: int = 50,
    ) -> None:  # fmt: skip
        self.pools = {pool.config.name: pool for pool in pools}
        self.ledger, self.cache, self.recorder, self.metrics = ledger, cache, recorder, metrics
        metrics.registry.register(PoolCollector(self.pools))
        self._redactor, self._max_tool_rounds = redactor, max_tool_rounds
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    # -- life ----------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Use the running event loop; threads may hand over requests from now on."""
        self._loop = asyncio.get_running_loop()

    @property
    def bound(self) -> bool:
        """Whether threads may hand over requests."""
        return self._loop is not None and not self._stopping

    async def aclose(self) -> None:
        """Refuse further requests and close the engines."""
        self._stopping = True
        for pool in self.pools.values():
            for engine in pool.engines.values():
                await engine.aclose()

    def submit(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> Any:
        """Run a coroutine in the gateway's loop, from any thread; raises NotReady before `bind`."""
        if self._loop is None or not self.bound:
            raise NotReady("the gateway does not run yet, or no longer", 1.0)
        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    # -- requests ------------------------------------------------------------------------------------

    async def complete(self, call: Call) -> tuple[bytes, Outcome]:
        """The complete answer, not streamed; raises GatewayRefused."""
        reply = await self.open(call)
        return b"".join([part async for part in reply.items]), reply.outcome

    async def open(self, call: Call) -> Reply:
        """Answer a call: returns with the first part of the answer. Raises GatewayRefused.

        A cancelled caller leaves the queue or frees the engine's slot.
        """
        span = tracing.start("inference.request", call.trace, _attributes(call))
        call, outcome = replace(call, trace=span.traceparent), Outcome(span=span)
        try:
            prepared = self._prepare(call, outcome)
            return await self._answer(prepared)
        except GatewayRefused as error:
            outcome.reason = error.refusal.code
            self.metrics.refusals.labels(error.refusal.code, call.request_class).inc()
            self._record(call, outcome)
            raise
        except asyncio.CancelledError:
            outcome.state, outcome.reason = "left", "the caller left"
            self._record(call, outcome)
            raise

    def models(self, sites: routing.Sites) -> list[tuple[str, str]]:
        """(name, model) of the pools that a caller with these sites may use."""
        return [(pool.config.name, pool.config.model) for pool in self.pools.values()
                if routing.allows(pool.route, sites)]  # fmt: skip

    def _prepare(self, call: Call, outcome: Outcome) -> _Prepared:
        if self._stopping:
            raise refused("stopping", "the hub is stopping: try again", 5.0)
        if self._loop is None:
            self.bind()
        if not self.recorder.has_room:
            raise refused("unavailable", "requests cannot be recorded now: see the hub's log", 5.0)
        try:
            ChatRequest.from_body(call.body)
        except WireError as error:
            raise refused("invalid", error.reason) from None
        self._check_tool_rounds(call)
        arrived = now_s()
        return _Prepared(
            call=call, outcome=outcome,
            tokens_in=tokens.estimate_prompt(call.body), tokens_out=tokens.largest_answer(call.body),
            key=cache_key(call.body, call.audience) if cacheable(call.body) else None,
            arrived=arrived, deadline=arrived + call.deadline_s,
        )  # fmt: skip

    def _check_tool_rounds(self, call: Call) -> None:
        rounds = sum(1 for message in call.body["messages"] if message.get("tool_calls"))
        if rounds > self._max_tool_rounds:
            reason = f"{rounds} rounds of tool calls are more than {self._max_tool_rounds}: the caller seems to loop"
            raise refused("tool_loop", reason)

    async def _answer(self, prepared: _Prepared) -> Reply:
        call = prepared.call
        chain = routing.chain(
            [pool.route for pool in self.pools.values()], call.model, call.request_class, call.sites,
            prepared.tokens_in + prepared.tokens_out, holds_image(call.body),
        )  # fmt: skip
        if isinstance(chain, Refusal):
            if chain.code == "site":
                self.recorder.audit(call, "inference.refused", reason=chain.reason)
            raise GatewayRefused(chain)
        if prepared.key is None:
            return await self._ask_chain([self.pools[route.name] for route in chain], prepared)
        return await self._answer_once(prepared.key, [self.pools[route.name] for route in chain], prepared)

    async def _answer_once(self, key: bytes, pools: list[Pool], prepared: _Prepared) -> Reply:
        """From the cache, or by one request for all that ask the same at the same time."""
        while True:
            entry = self.cache.get(key, now_s())
            if entry is not None and entry.pool in {pool.config.name for pool in pools}:
                return self._cached(entry, prepared, "hit")
            flight = self._flights.get(key)
            if flight is None:
                break
            try:
                async with asyncio.timeout_at(prepared.deadline):
                    await asyncio.shield(flight)
            except TimeoutError:
                raise refused("deadline", "the same request is under way and was not answered in time") from None
        self._flights[key] = asyncio.get_running_loop().create_future()
        self.metrics.cache.labels("miss").inc()
        try:
            return await self._ask_chain(pools, prepared)
        except GatewayRefused as error:
            self._land(key)
            stale = self.cache.get(key, now_s(), stale=True)
            if stale is None or error.refusal.code not in ("unavailable", "deadline", "queue_full", "budget"):
                raise
            return self._cached(stale, prepared, "stale")
        except BaseException:
            self._land(key)
            raise

    def _land(self, key: bytes | None) -> None:
        flight = self._flights.pop(key, None) if key is not None else None
        if flight is not None and not flight.done():
            flight.set_result(None)

    def _cached(self, entry: CachedResponse, prepared: _Prepared, result: str) -> Reply:
        self.metrics.cache.labels(result).inc()
        outcome = prepared.outcome
        outcome.pool, outcome.model, outcome.cached, outcome.state = entry.pool, entry.model, result, "answered"
        outcome.first_s = outcome.took_s = now_s() - prepared.arrived

        async def items() -> AsyncGenerator[bytes, None]:
            self._record(prepared.call, outcome, answer=entry.content)
            yield entry.content

        return Reply(items(), outcome)

    async def _ask_chain(self, pools: list[Pool], prepared: _Prepared) -> Reply:
        """The pools in order; while none has a usable address, wait a little and begin again."""
        while True:
            refusals = []
            for pool in pools:
                try:
                    return await self._ask_pool(pool, prepared)
                except GatewayRefused as error:
                    if error.refusal.code in ("engine_refused", "invalid"):
                        raise
                    refusals.append(error.refusal)
            pause_s = min(pool.usable_in_s() for pool in pools)
            waits = all(refusal.code == "unavailable" for refusal in refusals)
            if not waits or pause_s > LONGEST_PAUSE_S or now_s() + pause_s >= prepared.deadline:
                raise GatewayRefused(refusals[0])
            await asyncio.sleep(max(pause_s, 0.05))

    # -- one pool ------------------------------------------------------------------------------------

    async def _ask_pool(self, pool: Pool, prepared: _Prepared) -> Reply:
        if not pool.usable(set()):
            raise refused("unavailable", _unavailable(pool), max(1.0, pool.usable_in_s()))
        call, config = prepared.call, pool.config
        most = Usage(
            requests=1, tokens_in=prepared.tokens_in, tokens_out=prepared.tokens_out,
            money=tokens.money(prepared.tokens_in, prepared.tokens_out, config.price_in, config.price_out),
        )  # fmt: skip
        reservation = self.ledger.reserve(_subjects(call), most, now_us())
        if isinstance(reservation, Refusal):
            raise GatewayRefused(reservation)
        ticket = Ticket(
            tenant=call.tenant, request_class=call.request_class, arrived=prepared.arrived, deadline=prepared.deadline
        )
        try:
            with tracing.span("inference.queue", call.trace, {"tidegate.pool": config.name}):
                await pool.slot(ticket)
            prepared.outcome.wait_s = now_s() - prepared.arrived
            started = await self._first_part(pool, prepared)
        except BaseException:
            pool.release(ticket)
            self._settle(reservation, Usage(), 0.0)
            raise
        return Reply(self._items(pool, prepared, started, ticket, reservation), prepared.outcome)

    async def _first_part(self, pool: Pool, prepared: _Prepared) -> Started:
        """Attempts at different addresses until one answers; raises GatewayRefused."""
        request = await self._request(pool, prepared)
        without: set[str] = set()
        misfit = ""
        for _ in range(MAX_ATTEMPTS):
            if self._stopping:
                raise refused("stopping", "the hub is stopping: try again", 5.0)
            if now_s() >= prepared.deadline:
                raise refused("deadline", f"the engines of '{pool.config.name}' did not answer in time")
            address = pool.choose(request, without)
            if address is None:
                break
            prepared.outcome.attempts += 1
            try:
                return await self._hedged(pool, address, request, prepared, without)
            except EngineRefused as error:
                raise refused("engine_refused", error.detail or error.reason) from None
            except AnswerInvalid as error:
                misfit = error.reason
                without.add(address)
            except ENGINE_FAILURES:
                without.add(address)
        if misfit:
            raise refused("bad_answer", misfit)
        raise refused("unavailable", _unavailable(pool), max(1.0, pool.usable_in_s()))

    async def _hedged(
        self, pool: Pool, address: str, request: ChatRequest, prepared: _Prepared, without: set[str]
    ) -> Started:  # fmt: skip
        """One attempt, and a second one elsewhere if the first is slow. The first answer wins.

        Slow is `hedge_s` for an emergency, and for others much longer than answers of this pool take.
        """
        size, deadline = prepared.tokens_in + prepared.tokens_out, prepared.deadline
        others = pool.usable(without | {address})
        attempt = pool.attempt(address, request, size, deadline, last=not others)
        slow_s = pool.slow_s(request, prepared.call.request_class)
        if slow_s is None or not others:
            return await attempt
        attempts: list[asyncio.Future[Started]] = [asyncio.ensure_future(attempt)]
        first, winner = attempts[0], None
        try:
            done, _ = await asyncio.wait(attempts, timeout=slow_s)
            second = None if done else pool.choose(request, without | {address})
            if second is not None:
                prepared.outcome.attempts += 1
                attempts.append(asyncio.ensure_future(pool.attempt(second, request, size, deadline, last=True)))
            winner = await _first_success(attempts)
            return winner.result()
        finally:
            for loser in attempts:
                if loser is not winner:
                    overtaken = address if loser is first and winner is not None else None
                    self._background(_abandon(pool, loser, overtaken))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that must end even if the caller leaves."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, pool: Pool, prepared: _Prepared) -> ChatRequest:
        """The body as this pool may see it."""
        call = prepared.call
        body = await self._redacted(pool, prepared) if pool.config.redact else call.body
        fields: dict[str, Any] = {"model": pool.config.model or call.model}
        if call.stream:
            options = body.get("stream_options")
            fields["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}
        priority = CLASSES[call.request_class].priority
        return ChatRequest(body | fields, priority=priority, traceparent=call.trace)

    async def _redacted(self, pool: Pool, prepared: _Prepared) -> dict[str, Any]:
        """The redacted body; what was replaced is audited."""
        call, outcome = prepared.call, prepared.outcome
        if outcome.prompt is not None:
            body = outcome.prompt
        else:
            large, redact = prepared.tokens_in > LARGE_TOKENS, self._redactor.redact_body
            body, redaction = await asyncio.to_thread(redact, call.body) if large else redact(call.body)
            outcome.prompt, outcome.redactions = body, dict(redaction.counts)
        if outcome.redactions:
            self.recorder.audit(call, "inference.redacted", pool=pool.config.name, replaced=outcome.redactions)
        return body

    async def _items(
        self, pool: Pool, prepared: _Prepared, started: Started, ticket: Ticket, reservation: Reservation
    ) -> AsyncGenerator[bytes, None]:  # fmt: skip
        """The parts of the answer; frees everything at the end, however it ends."""
        outcome, reader = prepared.outcome, UsageReader()
        outcome.pool, outcome.model, outcome.address = pool.config.name, pool.config.model, started.engine.address
        outcome.state, outcome.first_s = "left", now_s() - prepared.arrived
        shows_usage = wants_usage(prepared.call.body) or not prepared.call.stream
        kept: list[bytes] = []
        size = 0
        address: AddressOutcome = "abandoned"
        try:
            part: bytes | None = started.first
            while part is not None:
                if not reader.read(part) or shows_usage:
                    kept.append(part)
                    size += len(part)
                    if size > MAX_ANSWER:
                        raise EngineBroken(f"the answer is longer than {MAX_ANSWER} bytes", started.engine.name)
                    if misfit := _misfit(started, kept):
                        outcome.state, outcome.reason, address = "broken", misfit, "ok"  # the model's fault
                        yield _error_event(misfit, "bad_answer")
                        return
                    yield part
                part = await self._next_part(pool, started)
            outcome.state, address = "answered", "ok"
        except ENGINE_FAILURES as error:
            outcome.state, outcome.reason, address = "broken", BROKE_OFF, "failed"
            pool.note_failure(started.engine.address, error)
            yield _error_event(BROKE_OFF, "broken")
        finally:
            await pool.end(started, address)
            pool.release(ticket)
            self._finish(pool, prepared, reader, reservation, b"".join(kept))

    async def _next_part(self, pool: Pool, started: Started) -> bytes | None:
        try:
            async with asyncio.timeout(pool.config.idle_s):
                return await anext(started.parts)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise NotReady(f"{started.engine.name}: the stream paused for {pool.config.idle_s:g} s", 5.0) from None

    # -- accounts ------------------------------------------------------------------------------------

    def _finish(
        self, pool: Pool, prepared: _Prepared, reader: UsageReader, reservation: Reservation, answer: bytes
    ) -> None:  # fmt: skip
        outcome, config = prepared.outcome, pool.config
        outcome.took_s = now_s() - prepared.arrived
        outcome.tokens_in = prepared.tokens_in if reader.tokens_in is None else reader.tokens_in
        outcome.tokens_out = reader.events if reader.tokens_out is None else reader.tokens_out
        outcome.money = tokens.money(outcome.tokens_in, outcome.tokens_out, config.price_in, config.price_out)
        used = Usage(requests=1, tokens_in=outcome.tokens_in, tokens_out=outcome.tokens_out, money=outcome.money)
        self._settle(reservation, used, outcome.took_s - outcome.wait_s)
        if prepared.key is not None:
            if outcome.state == "answered":
                self.cache.put(prepared.key, CachedResponse(answer, config.name, config.model, now_s()))
            self._land(prepared.key)
        self._record(prepared.call, outcome, answer=answer)

    def _settle(self, reservation: Reservation, used: Usage, seconds: float) -> None:
        used.seconds = seconds
        self.ledger.settle(reservation, used, now_us())
        if used.requests:
            self.recorder.usage(self.ledger.day, reservation.subjects, used)

    def _record(self, call: Call, outcome: Outcome, answer: bytes = b"") -> None:
        self.metrics.record(call, outcome)
        self.recorder.request(call, outcome, answer)
        outcome.span.end(_result(outcome), failure="" if outcome.state == "answered" else outcome.reason)


def _attributes(call: Call) -> dict[str, str]:
    return {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": call.model[:80], "tidegate.device": call.device,
        "tidegate.class": call.request_class,
    }  # fmt: skip


def _result(outcome: Outcome) -> dict[str, str | int | float]:
    return {
        "gen_ai.response.model": outcome.model, "gen_ai.usage.input_tokens": outcome.tokens_in,
        "gen_ai.usage.output_tokens": outcome.tokens_out, "tidegate.pool": outcome.pool,
        "tidegate.outcome": outcome.state, "tidegate.cache": outcome.cached, "tidegate.attempts": outcome.attempts,
    }  # fmt: skip


def _misfit(started: Started, parts: list[bytes]) -> str:
    """Why a streamed answer whose last part has arrived does not fit its request, or ''."""
    last = parts[-1]
    if not started.request.stream or b"[DONE]" not in last or event_data(last) != DONE:
        return ""
    try:
        check_stream(started.request, parts, started.engine.name)
    except (EngineBroken, EngineRefused) as error:
        return getattr(error, "detail", "") or error.reason
    return ""


def _error_event(message: str, code: str) -> bytes:
    """An event in place of [DONE], from which OpenAI's clients raise an error."""
    return b"data: %b\n\n" % msgspec.json.encode({"error": {"message": message, "type": "server_error", "code": code}})


def _subjects(call: Call) -> list[Subject]:
    subjects: list[Subject] = [("hub", "hub")]
    subjects.append(("device", call.device) if call.device else ("tenant", call.tenant))
    return subjects


def _unavailable(pool: Pool) -> str:
    """Why no address of a pool can be asked, without the text of engines."""
    known = "; ".join(sorted(set(pool.errors.values())))[:300]
    return f"no engine of pool '{pool.config.name}' answers{': ' + known if known else ''}"


async def _first_success(attempts: Sequence[asyncio.Future[Started]]) -> asyncio.Future[Started]:
    """The first attempt that succeeds; raises the last error if none does."""
    waiting = set(attempts)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        good = next((attempt for attempt in done if attempt.exception() is None), None)
        if good is not None:
            return good
        if not waiting:
            raise next(iter(done)).exception() or NotReady("no attempt succeeded", 1.0)


async def _abandon(pool: Pool, attempt: asyncio.Future[Started], overtaken: str | None) -> None:
    """Cancel an attempt that is not wanted any more, and end it if it succeeded all the same.

    An address that a later attempt has overtaken has failed.
    """
    running = not attempt.done()
    attempt.cancel()
    (result,) = await asyncio.gather(attempt, return_exceptions=True)
    if isinstance(result, Started):
        await pool.end(result, "abandoned")
    elif overtaken is not None and running:
        pool.note_overtaken(overtaken)
