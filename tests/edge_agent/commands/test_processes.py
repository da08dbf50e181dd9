"""`diagnose processes`: a handful with their load, at once or averaged over seconds."""

from __future__ import annotations

import pytest

from edge_agent.commands.processes import diagnose
from edge_agent.commands.service import Work
from shared.protocol.messages import CommandRequest


def request(**args: str | float) -> CommandRequest:
    return CommandRequest(id="c", verb="diagnose", target="processes", expires_us=9, args=dict(args))


def handful(output: object) -> bool:
    assert isinstance(output, dict)
    return 1 <= len(output) <= 5 and all("(pid " in name and float(load) >= 0 for name, load in output.items())


def test_the_top_processes_are_a_handful_with_their_load() -> None:
    assert handful(diagnose(request()))


@pytest.mark.parametrize("seconds", [3, 3.0, "3"])
def test_over_seconds_it_samples_each_second_and_gives_averages(seconds: str | float) -> None:
    work = diagnose(request(seconds=seconds))
    assert not isinstance(work, dict)
    steps, output = _run(work)
    assert steps == [(0.0, "watched 0 of 3 s", 1.0), (1 / 3, "watched 1 of 3 s", 1.0), (2 / 3, "watched 2 of 3 s", 1.0)]
    assert handful(output)


def _run(work: Work) -> tuple[list[tuple[float, str, float]], object]:
    steps = []
    while True:
        try:
            step = next(work)
        except StopIteration as end:
            return steps, end.value
        steps.append((step.fraction, step.text, step.wait_s))


@pytest.mark.parametrize("seconds", [0, -1, 601, "soon", "nan", "inf", 1e300])
def test_seconds_beyond_their_range_are_refused(seconds: str | float) -> None:
    with pytest.raises(ValueError, match=r"seconds must be within 1\.\.600"):
        diagnose(request(seconds=seconds))


def test_another_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="it takes: seconds"):
        diagnose(request(second=3))
