"""The rate limit of devices: tokens by message and by cost, reported when they are used up, forgotten when full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.ingest.core.rate_limit import BURST_S, DEBT_S, REPORT_S, RateLimiter

RATE = 10.0


def allowed(limiter: RateLimiter, device: str, count: int, now: float) -> int:
    return sum(limiter.allow(device, now) for _ in range(count))


def test_a_bucket_holds_two_seconds_worth_and_fills_again() -> None:
    limiter = RateLimiter(RATE)
    assert allowed(limiter, "a", 100, 0.0) == RATE * BURST_S
    assert allowed(limiter, "a", 100, 1.0) == RATE
    assert allowed(limiter, "a", 100, 1000.0) == RATE * BURST_S
    assert limiter.refused == 300 - 50


def test_one_that_floods_takes_nothing_from_the_others() -> None:
    limiter = RateLimiter(RATE)
    for second in range(60):
        assert allowed(limiter, "hostile", 1000, float(second)) <= RATE * BURST_S
        for number in range(50):
            assert allowed(limiter, f"press-{number}", 10, float(second)) == 10


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40), st.floats(0, 30)), min_size=1, max_size=30))
def test_never_more_than_the_rate_and_one_burst_and_the_last_message(steps: list[tuple[float, int, float]]) -> None:
    """What is charged afterwards may be more than there was, but then nothing comes in until it is paid."""
    limiter, now, total, dearest = RateLimiter(RATE), 0.0, 0.0, 0.0
    for wait, count, cost in steps:
        now += wait
        for _ in range(count):
            if limiter.allow("a", now):
                limiter.charge("a", cost, now)
                total, dearest = total + 1 + cost, max(dearest, cost)
    assert total <= RATE * (now + BURST_S) + dearest + 1e-6


def test_a_dear_message_is_paid_for_and_its_debt_is_bounded() -> None:
    limiter = RateLimiter(RATE)
    assert limiter.allow("a", 0.0)
    limiter.charge("a", RATE * BURST_S + 4, 0.0)
    assert not limiter.allow("a", 0.5)
    assert limiter.allow("a", 0.7)
    limiter.charge("a", 1e9, 0.7)
    assert not limiter.allow("a", 0.7 + DEBT_S)
    assert limiter.allow("a", 0.9 + DEBT_S)
    assert limiter.allow("b", 0.7)


def test_refusals_are_reported_once_a_minute_and_full_buckets_are_forgotten() -> None:
    limiter = RateLimiter(RATE)
    allowed(limiter, "a", 25, 0.0)
    allowed(limiter, "b", 1, 0.0)
    limiter.charge("c", RATE * (BURST_S + DEBT_S), REPORT_S - 1)
    assert limiter.report(REPORT_S - 1) == {}
    assert limiter.report(REPORT_S) == {"a": 5}
    assert set(limiter._buckets) == {"c"}
    assert limiter.report(3 * REPORT_S) == {}
    assert not limiter._buckets


def test_no_rate_is_no_limit() -> None:
    limiter = RateLimiter(0.0)
    limiter.charge("a", 1e9, 0.0)
    assert allowed(limiter, "a", 10_000, 0.0) == 10_000


def test_a_rate_below_one_still_lets_a_message_in() -> None:
    assert allowed(RateLimiter(0.1), "a", 5, 0.0) == 1
