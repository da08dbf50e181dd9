"""Breaker, balancer, budgets, cache, routing and token estimates of the gateway, with a seeded bug each."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from simulators.stub_engine import StubEngine

from cloud_hub.inference.engines import ChatRequest
from cloud_hub.inference.gateway import pool as pool_module
from cloud_hub.inference.gateway.calls import Call
from cloud_hub.inference.gateway.core import budgets, tokens
from cloud_hub.inference.gateway.core.balancer import SLACK_TOKENS, Balancer
from cloud_hub.inference.gateway.core.breaker import FIRST_OPEN_S, LONGEST_OPEN_S, CircuitBreaker, Outcome
from cloud_hub.inference.gateway.core.budgets import DAY_US, Budget, BudgetLedger, Reservation, Usage
from cloud_hub.inference.gateway.core.cache import CachedResponse, ResponseCache, cache_key, cacheable
from cloud_hub.inference.gateway.core.refusals import Refusal
from cloud_hub.inference.gateway.core.routing import PoolRoute, Sites, chain
from cloud_hub.inference.gateway.metrics import GatewayMetrics
from cloud_hub.inference.gateway.pool import Pool
from cloud_hub.settings import inference as pool_settings

# -- breaker -----------------------------------------------------------------------------------------


def run(breaker: CircuitBreaker, outcomes: str, now: float = 0.0) -> None:
    for letter in outcomes:
        assert breaker.begin(now)
        breaker.end("ok" if letter == "+" else "failed", now)


@pytest.mark.parametrize(("outcomes", "state"), [("--", "closed"), ("---", "open"), ("++--", "open"),
                                                 ("+++-", "closed"), ("++++++-+-+", "closed")])  # fmt: skip
def test_the_breaker_opens_at_half_errors_of_at_least_three(outcomes: str, state: str) -> None:
    breaker = CircuitBreaker()
    run(breaker, outcomes)
    assert breaker.state(0.0) == state


def test_an_open_breaker_lets_one_probe_through_and_waits_twice_as_long_after_a_bad_one() -> None:
    breaker, now = CircuitBreaker(), 0.0
    run(breaker, "---")
    wait = FIRST_OPEN_S
    for _ in range(8):
        assert not breaker.begin(now + wait - 0.01)
        now += wait
        assert breaker.begin(now)
        assert not breaker.begin(now), "one probe at a time"
        breaker.end("failed", now)
        wait = min(2 * wait, LONGEST_OPEN_S)
    now += wait
    assert breaker.begin(now)
    breaker.end("abandoned", now)
    assert breaker.begin(now), "an abandoned probe leaves room for another"
    breaker.end("ok", now)
    assert breaker.state(now) == "closed"


def test_a_pause_is_no_failure() -> None:
    breaker = CircuitBreaker()
    breaker.pause(0.0, 5.0)
    assert not breaker.begin(4.9)
    assert breaker.usable_at(1.0) == 5.0
    assert breaker.state(4.9) == "closed"
    assert breaker.begin(5.0)


def failures_of_clients(kind: type[CircuitBreaker], seed: int) -> tuple[int, float]:
    """(failed requests while the address is away for 60 s, seconds until requests succeed after it is back)."""
    breaker, chance, failed, back = kind(), random.Random(seed), 0, 0.0
    now = 0.0
    while now < 300:
        now += chance.expovariate(5)
        if not breaker.begin(now):
            continue
        away = 60 < now < 120
        failed += away
        back = back or (now - 120 if now >= 120 else 0.0)
        breaker.end("failed" if away else "ok", now)
    return failed, back


class NeverOpens(CircuitBreaker):
    def _failing(self, now: float) -> bool:
        return False


class NeverCloses(CircuitBreaker):
    def end(self, outcome: Outcome, now: float) -> None:
        super().end("failed" if outcome == "ok" and self._open_until else outcome, now)


def test_an_address_that_was_away_costs_few_requests_and_is_used_again() -> None:
    for seed in range(20):
        failed, back = failures_of_clients(CircuitBreaker, seed)
        assert failed <= 14
        assert back <= LONGEST_OPEN_S
    assert failures_of_clients(NeverOpens, 1)[0] > 100
    closed = NeverCloses()
    run(closed, "---")
    assert closed.begin(10.0)
    closed.end("ok", 10.0)
    assert closed.state(10.0) != "closed"


# -- balancer ----------------------------------------------------------------------------------------

ADDRESSES = ("a", "b", "c")


class NotSticky(Balancer):
    def choose(self, prefix: bytes, usable: Collection[str]) -> str | None:
        return min(usable, key=lambda address: (self.outstanding[address], random.random()))


class OnlySticky(Balancer):
    def choose(self, prefix: bytes, usable: Collection[str]) -> str | None:
        return super().choose(prefix, list(usable)[:1] or usable)


def spread(kind: type[Balancer], prefixes: int, seed: int = 1) -> tuple[float, int]:
    """(share of requests that met their prefix at the same address as before, largest imbalance in tokens)."""
    chance, balancer = random.Random(seed), kind(ADDRESSES)
    running: list[tuple[str, int]] = []
    last: dict[bytes, str] = {}
    hits, worst = 0, 0
    for _ in range(2000):
        prefix, size = b"%d" % chance.randrange(prefixes), chance.randrange(50, 2000)
        address = balancer.choose(prefix, ADDRESSES)
        assert address is not None
        hits += last.get(prefix) == address
        last[prefix] = address
        balancer.started(address, size)
        running.append((address, size))
        worst = max(worst, max(balancer.outstanding.values()) - min(balancer.outstanding.values()))
        if len(running) > 12:
            balancer.finished(*running.pop(chance.randrange(len(running))))
    for address, size in running:
        balancer.finished(address, size)
    assert set(balancer.outstanding.values()) == {0}
    return hits / 2000, worst


def test_requests_stick_to_their_prefix_unless_the_address_has_much_more_to_do() -> None:
    hits, worst = spread(Balancer, 40)
    assert hits > 0.6
    assert worst <= 2 * SLACK_TOKENS
    assert spread(NotSticky, 40)[0] < 0.5
    assert spread(OnlySticky, 40)[1] > 2 * SLACK_TOKENS


def test_addresses_that_are_not_usable_get_nothing_and_the_others_keep_their_prefixes() -> None:
    balancer = Balancer(ADDRESSES)
    before = {b"%d" % n: balancer.choose(b"%d" % n, ADDRESSES) for n in range(60)}
    assert set(before.values()) == set(ADDRESSES)
    for prefix, address in before.items():
        assert balancer.choose(prefix, ("a", "c")) == (address if address != "b" else balancer.choose(prefix, "ac"))
    assert balancer.choose(b"1", ()) is None


# -- budgets -----------------------------------------------------------------------------------------

NOON = DAY_US * 20_000 + DAY_US // 2


def use(out: int) -> Usage:
    return Usage(requests=1, tokens_in=10, tokens_out=out)


def test_requests_in_flight_count_at_their_largest_use() -> None:
    ledger = BudgetLedger([Budget(kind="tenant", tokens=300)])
    first = ledger.reserve([("tenant", "anna")], use(190), NOON)
    assert isinstance(first, Reservation)
    refused = ledger.reserve([("tenant", "anna")], use(190), NOON)
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s == 43201
    assert isinstance(ledger.reserve([("tenant", "bob")], use(190), NOON), Reservation), "each tenant has its own"
    ledger.settle(first, use(5), NOON)
    assert isinstance(ledger.reserve([("tenant", "anna")], use(190), NOON), Reservation)


@pytest.mark.parametrize("dimension", ["tokens", "seconds", "money"])
def test_a_budget_of_one_dimension_is_kept(dimension: str) -> None:
    ledger = BudgetLedger([Budget(kind="hub", **{dimension: 20})])  # type: ignore[arg-type]
    full = Usage(requests=1, tokens_in=15, seconds=15, money=15)
    held = ledger.reserve([("hub", "hub")], full, NOON)
    assert isinstance(held, Reservation)
    ledger.settle(held, full, NOON)
    refused = ledger.reserve([("hub", "hub")], full, NOON)
    assert isinstance(refused, Refusal)
    assert dimension in refused.reason
    tomorrow = ledger.reserve([("hub", "hub")], full, NOON + DAY_US)
    assert isinstance(tomorrow, Reservation)
    ledger.settle(held, full, NOON + DAY_US)
    assert ledger.used[("hub", "hub")].tokens == 15, "what began yesterday counts today"


def test_a_budget_of_its_own_goes_before_that_of_all() -> None:
    ledger = BudgetLedger([Budget(kind="device", tokens=10), Budget(kind="device", name="press-3", tokens=10_000)])
    assert isinstance(ledger.reserve([("device", "press-3")], use(500), NOON), Reservation)
    assert isinstance(ledger.reserve([("device", "press-4")], use(500), NOON), Refusal)


class ForgetsReservations(BudgetLedger):
    def _over(self, subject: budgets.Subject, usage: Usage, now_us: int) -> Refusal | None:
        held, self._reserved = self._reserved, {}
        try:
            return super()._over(subject, usage, now_us)
        finally:
            self._reserved = held


def overspent(kind: type[BudgetLedger], steps: list[tuple[int, int]]) -> bool:
    """Whether concurrent requests of (largest, real) answers spend more than the budget."""
    ledger = kind([Budget(kind="hub", tokens=1000)])
    held = [(ledger.reserve([("hub", "hub")], use(largest), NOON), min(largest, real)) for largest, real in steps]
    for reservation, real in held:
        if isinstance(reservation, Reservation):
            ledger.settle(reservation, use(real), NOON)
    return ledger.used.get(("hub", "hub"), Usage()).tokens > 1000


@given(st.lists(st.tuples(st.integers(1, 600), st.integers(0, 600)), max_size=20))
def test_concurrent_requests_cannot_overspend(steps: list[tuple[int, int]]) -> None:
    assert not overspent(BudgetLedger, steps)


def test_a_ledger_that_forgets_reservations_overspends() -> None:
    assert overspent(ForgetsReservations, [(600, 600), (600, 600)])


# -- cache -------------------------------------------------------------------------------------------


def response(size: int, at: float = 0.0) -> CachedResponse:
    return CachedResponse(content=b"x" * size, pool="p", model="m", stored_at=at)


def test_a_stored_response_is_fresh_then_stale_then_evicted_by_use() -> None:
    cache = ResponseCache(max_bytes=1000, ttl_s=10)
    for n in range(10):
        cache.put(b"%d" % n, response(100))
    assert cache.size == 1000
    assert cache.get(b"0", 9.9) is not None
    cache.put(b"new", response(100))
    assert cache.get(b"1", 0.0) is None, "least recently used"
    assert cache.get(b"0", 10.0) is None
    assert cache.get(b"0", 1e9, stale=True) is not None
    cache.put(b"large", response(126))
    assert cache.get(b"large", 0.0) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 120)), max_size=80))
def test_the_cache_never_holds_more_than_its_size(puts: list[tuple[int, int]]) -> None:
    cache = ResponseCache(max_bytes=500, ttl_s=10)
    for name, size in puts:
        cache.put(b"%d" % name, response(size))
        assert cache.size == sum(len(entry.content) for entry in cache._entries.values()) <= 500


def test_the_key_holds_everything_that_changes_the_answer_and_the_audience() -> None:
    body = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]}
    key = cache_key(body, ("acme/a",))
    assert key == cache_key({"user": "anna", **dict(reversed(body.items()))}, ("acme/a",))
    changes = [body | {"seed": 1}, body | {"model": "n"}, body | {"messages": []}, body | {"stream": True}]
    assert len({key, cache_key(body, ("acme/b",)), *(cache_key(other, ("acme/a",)) for other in changes)}) == 6
    assert cacheable(body)
    assert not cacheable(body | {"temperature": 0.1})
    assert not cacheable({"messages": []})
    assert not cacheable(body | {"n": 2})


FIELDS: dict[str, list[object]] = {
    "model": ["auto", "large"], "messages": [[{"role": "user", "content": text}] for text in ("hi", "ho")],
    "max_tokens": [5, 6], "seed": [1, 2], "stop": ["a", ["a"]], "tools": [[], [{"function": {"name": "f"}}]],
    "tool_choice": ["auto", "none"], "response_format": [{"type": "text"}, {"type": "json_object"}],
    "top_p": [1, 0.5], "stream": [True, False], "unknown": [0, None],
}  # fmt: skip
BODIES = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in FIELDS.items()})
SITES = st.none() | st.lists(st.sampled_from(["a", "b", "a,b", "*", ""]), max_size=3).map(tuple)
Key = Callable[[Mapping[str, Any], Sites], bytes]


def served_wrongly(key: Key, one: tuple[Any, Sites], other: tuple[Any, Sites]) -> bool:
    """Whether the answer to one request would be served to another one that could get another answer."""
    calls = [Call(body=body, tenant="t", sites=sites, deadline_s=1) for body, sites in (one, other)]
    same_sites = (one[1] is None) == (other[1] is None) and sorted(one[1] or ()) == sorted(other[1] or ())
    keys = [key(call.body, call.audience) for call in calls]
    return keys[0] == keys[1] and not (same_sites and msgspec.json.encode(one[0], order="sorted")
                                       == msgspec.json.encode(other[0], order="sorted"))  # fmt: skip


def forgets(name: str) -> Key:
    """A seeded bug: the key lacks a field."""
    return lambda body, sites: cache_key({field: value for field, value in body.items() if field != name}, sites)


def forgets_the_sites(body: Mapping[str, Any], sites: Sites) -> bytes:
    """A seeded bug: tenants of other sites share answers."""
    return cache_key(body, None)


def joins_the_sites(body: Mapping[str, Any], sites: Sites) -> bytes:
    """A seeded bug: two sites look like one whose name holds a comma."""
    return cache_key(body, ("*" if sites is None else ",".join(sites),))


@given(st.tuples(BODIES, SITES), st.tuples(BODIES, SITES))
def test_an_answer_is_served_only_to_equal_requests_about_the_same_sites(
    one: tuple[Any, Sites], other: tuple[Any, Sites]
) -> None:
    assert not served_wrongly(cache_key, one, other)
    assert not served_wrongly(cache_key, one, (one[0], other[1]))
    assert not served_wrongly(cache_key, one, (other[0], one[1]))


@pytest.mark.parametrize("bug", [*map(forgets, FIELDS), forgets_the_sites, joins_the_sites])
def test_a_key_that_forgets_something_serves_an_answer_wrongly(bug: Key) -> None:
    strategy = st.tuples(st.tuples(BODIES, SITES), st.tuples(BODIES, SITES))
    kept = settings(max_examples=3000, derandomize=True, database=None, phases=[Phase.generate])
    one_field = strategy.flatmap(lambda pair: st.sampled_from([(pair[0], (pair[0][0], pair[1][1])), *(
        (pair[0], (pair[0][0] | {name: value}, pair[0][1])) for name, values in FIELDS.items() for value in values
    )]))  # fmt: skip
    find(one_field, lambda pair: served_wrongly(bug, *pair), settings=kept)


# -- the addresses of a pool -------------------------------------------------------------------------


class AsksOpenBreakers(Pool):
    """A seeded bug."""

    def usable(self, without: set[str]) -> list[str]:
        return [address for address in self.breakers if address not in without]


def asks_an_open_breaker(kind: type[Pool], steps: list[tuple[float, bool]]) -> bool:
    """Whether a request is sent to an address whose breaker is open, or a second one while its probe runs."""
    now = 1000.0
    config = pool_settings.Pool(name="p", addresses=["a", "b"])
    engines: list[Any] = [StubEngine(address=address) for address in config.addresses]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "now_s", lambda: now)
        pool = kind(config, engines, 10, GatewayMetrics())
        for number, (passed, good) in enumerate(steps):
            now += passed
            body = {"messages": [{"role": "user", "content": f"{number % 3}"}]}
            address = pool.choose(ChatRequest(body), set())
            if address is None:
                continue
            if not pool.breakers[address].begin(now):
                return True
            pool.breakers[address].end("ok" if good else "failed", now)
    return False


STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 3.0, 20.0]), st.booleans()), max_size=40)


@given(STEPS)
def test_an_address_with_an_open_breaker_is_not_asked(steps: list[tuple[float, bool]]) -> None:
    assert not asks_an_open_breaker(Pool, steps)


def test_a_pool_that_asks_open_breakers_is_found_out() -> None:
    assert asks_an_open_breaker(AsksOpenBreakers, [(0.0, False)] * 8)


# -- routing -----------------------------------------------------------------------------------------

LARGE = PoolRoute(name="large", model="GLM-4.5-Air", classes=("emergency", "normal"), sites=("acme/a",), context=8000)
SMALL = PoolRoute(name="small", model="GLM-4-9B", context=2000, images=False)


def names(model: str, request_class: str, sites: Sites, size: int = 100, images: bool = False) -> list[str] | str:
    result = chain([LARGE, SMALL], model, request_class, sites, size, images)  # type: ignore[arg-type]
    return result.code if isinstance(result, Refusal) else [pool.name for pool in result]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("auto", "normal", ("acme/a/hall-2",)), ["large", "small"]),
        (("auto", "low", ("acme/a",)), ["small"]),
        (("auto", "normal", ("acme/ab",)), ["small"]),
        (("auto", "normal", ("acme/a", "acme/b")), ["small"]),
        (("auto", "normal", None), ["small"]),
        (("auto", "normal", ()), ["small"]),
        (("GLM-4.5-Air", "emergency", ("acme/a",)), ["large"]),
        (("large", "emergency", ("acme/b",)), "site"),
        (("large", "low", ("acme/a",)), "class"),
        (("gpt-5", "low", ("acme/a",)), "model"),
        (("auto", "normal", ("acme/a",), 5000), ["large"]),
        (("auto", "normal", ("acme/a",), 9000), "context"),
        (("auto", "normal", ("acme/a",), 100, True), ["large"]),
        (("auto", "low", ("acme/a",), 100, True), "invalid"),
    ],
)
def test_the_chain_holds_the_pools_that_may_serve_a_request(
    arguments: tuple[str, str, Sites], expected: list[str] | str
) -> None:  # fmt: skip
    assert names(*arguments) == expected


def test_a_refusal_names_no_pool_of_another_site() -> None:
    refused = chain([LARGE, SMALL], "gpt-5", "low", ("acme/b",), 1)
    assert isinstance(refused, Refusal)
    assert "small" in refused.reason
    assert "large" not in refused.reason


# -- tokens ------------------------------------------------------------------------------------------


def test_estimates_follow_the_script_and_bound_the_answer() -> None:
    assert tokens.estimate_text("the press is too hot") == 6
    assert tokens.estimate_text("压机过热") == 5
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    assert tokens.estimate_prompt({"messages": [deep]}) >= 1
    assert (
        tokens.estimate_prompt({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,AA"}}]}]}) > 1000
    )
    assert tokens.largest_answer({"max_tokens": 5, "max_completion_tokens": 7, "n": 2}) == 14
    assert tokens.largest_answer({}) == tokens.DEFAULT_MAX_TOKENS
    assert tokens.money(1_000_000, 500_000, 0.6, 2.2) == pytest.approx(1.7)
