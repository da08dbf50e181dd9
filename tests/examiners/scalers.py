"""What every scaler must keep, a third party's too: run yours through `examine_scaler`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from cloud_hub.autoscale import Scaler, ScaleRefused
from shared.errors import NotReady


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A platform under test with one scalable thing that may have 0..`limit` replicas, `limit` at least 3."""

    opened: Callable[[], Scaler]
    limit: int
    elsewhere: Callable[[int], None]
    """Another writer sets the count."""
    lose_answer: Callable[[], None]
    """The next write is carried out, and its answer never arrives."""
    cut: Callable[[], None]
    """From now on nobody reaches the platform."""


def examine_scaler(platform: Platform) -> None:
    """Reads and writes counts, acts once a key, obeys the platform's limit and says when it cannot be reached."""
    scaler = platform.opened()
    assert scaler.name
    platform.elsewhere(1)
    assert scaler.current().desired == 1
    _counts(platform, scaler)
    _once(platform, scaler)
    _limits(platform, scaler)
    platform.cut()
    for call in (scaler.current, lambda: scaler.scale(2, "cut")):
        with pytest.raises(NotReady) as caught:
            call()
        assert caught.value.reason
        assert caught.value.wait_s >= 0


def _counts(platform: Platform, scaler: Scaler) -> None:
    for number, to in enumerate((3, 2, 0, platform.limit)):
        assert scaler.scale(to, f"count-{number}") == to
        assert scaler.current().desired == to == platform.opened().current().desired


def _once(platform: Platform, scaler: Scaler) -> None:
    assert scaler.scale(2, "once") == 2
    platform.elsewhere(1)
    assert scaler.scale(2, "once") == 1, "a repeated key acted twice"
    platform.lose_answer()
    with pytest.raises(NotReady):
        scaler.scale(3, "lost")
    assert scaler.current().desired == 3
    assert scaler.scale(3, "lost") == 3
    platform.elsewhere(1)
    platform.lose_answer()
    with pytest.raises(NotReady):
        scaler.scale(2, "lost-too")
    platform.elsewhere(1)
    for _ in range(2):  # nobody can tell that it was done once, so it must not be done again
        with suppress(NotReady):
            scaler.scale(2, "lost-too")
        assert scaler.current().desired == 1, "a repeat after a lost answer acted twice"


def _limits(platform: Platform, scaler: Scaler) -> None:
    before = scaler.current().desired
    for to in (-1, platform.limit + 1):
        with pytest.raises(ScaleRefused) as caught:
            scaler.scale(to, f"limit-{to}")
        assert caught.value.reason
        assert scaler.current().desired == before
