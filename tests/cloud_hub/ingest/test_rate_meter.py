"""Messages a second over the last minute."""

from __future__ import annotations

from cloud_hub.ingest.core.rate_meter import RateMeter


def test_the_rate_is_the_mean_of_the_last_complete_minute() -> None:
    meter = RateMeter()
    assert meter.per_second(1000.0) == 0
    for second in range(1000, 1059):
        for _ in range(10):
            meter.count(second + 0.5)
    assert meter.per_second(1059.0) == 10
    assert meter.per_second(1059.9) == 10
    meter.count(1059.9)
    assert meter.per_second(1059.95) == 10


def test_messages_of_an_older_minute_do_not_count() -> None:
    meter = RateMeter()
    for _ in range(600):
        meter.count(1000.0)
    assert meter.per_second(1001.0) > 10
    assert meter.per_second(1060.0) == 0
    meter.count(1060.0)
    assert meter.per_second(1061.0) == 1 / 59
