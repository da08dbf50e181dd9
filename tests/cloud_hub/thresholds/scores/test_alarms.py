"""The refractory period of a series: an episode pages once, but a false alarm hides no fault."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from cloud_hub.thresholds.scores import alarms as score_alarms
from cloud_hub.thresholds.scores.alarms import CALM, SeriesState
from cloud_hub.thresholds.scores.model import DEFAULTS, ScoreModel

LIMIT = 2.3


class Scored(ScoreModel):
    """Gives each sample the score that is its value."""

    def step(self, t_us: object, values: np.ndarray) -> np.ndarray:
        return values


def raised(scores: Mapping[int, float], piece: int) -> list[int]:
    """The samples that raise an alarm, where the others are ordinary, judged `piece` at a time."""
    values = np.zeros(2 * DEFAULTS.quiet)
    values[list(scores)] = list(scores.values())
    series, found = [SeriesState(device="d", metric="m", upto_us=0)], []
    for first in range(0, len(values), piece):
        times = np.arange(first, min(first + piece, len(values)), dtype=np.int64)
        series, changes, _ = score_alarms.advance(Scored(1), series, [(times, values[times])], [LIMIT], LIMIT, 0, 0)
        for change in changes:
            series = [replace(series[0], alarm="standing" if change.state == "raised" else "")]
            found += [change.t_us] if change.state == "raised" else []
    return found


@pytest.mark.parametrize("piece", [1, 7, 2 * DEFAULTS.quiet])
@pytest.mark.parametrize(
    ("scores", "samples"),
    [
        ({10: 2.4, 10 + 3 * CALM: 2.9}, [10]),
        ({10: 2.4, 10 + 3 * CALM: 3.9}, [10, 10 + 3 * CALM]),
        ({10: 2.4, 11: 3.1, 10 + 3 * CALM: 3.9}, [10]),
        ({10: 3.9, 10 + 3 * CALM: 2.4, 12 + DEFAULTS.quiet: 2.4}, [10, 12 + DEFAULTS.quiet]),
    ],
    ids=["about as rare", "much rarer", "not much rarer than the whole alarm", "after the quiet time"],
)
def test_an_alarm_within_the_quiet_time_is_much_rarer(scores: dict[int, float], samples: list[int], piece: int) -> None:
    assert raised(scores, piece) == samples


def test_seeded_bug_a_false_alarm_hides_the_fault_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_alarms, "ESCALATION", math.inf)
    assert raised({10: 2.4, 10 + 3 * CALM: 3.9}, 7) == [10]
