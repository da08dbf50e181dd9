"""A run that does not end shows in the worker's status."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cloud_hub.api.health import failing
from cloud_hub.runtime.worker import HUNG_S, BackgroundWorker, WorkerSpec, WorkResult

START_US = 1_800_000_000_000_000


class Hanging:
    """A worker whose run ends only when it is released, and its clock."""

    def __init__(self, period_s: float) -> None:
        self.now_us = START_US
        self.started, self.released = threading.Event(), threading.Event()
        spec = WorkerSpec(name="refit", run_once=self.run_once, period_s=period_s)
        self.worker = BackgroundWorker(spec, lambda result: None, clock=lambda: self.now_us)
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()
        assert self.started.wait(10)

    def run_once(self) -> WorkResult:
        self.started.set()
        self.released.wait(30)
        return WorkResult()

    def end(self) -> None:
        self.released.set()
        self.thread.join(10)


@pytest.fixture(params=[1.0, 600.0])
def hanging(request: pytest.FixtureRequest) -> Iterator[Hanging]:
    made = Hanging(request.param)
    yield made
    made.end()


def test_a_run_is_failing_after_ten_minutes_and_ten_periods(hanging: Hanging) -> None:
    limit_us = int(max(HUNG_S, 10 * hanging.worker._spec.period_s) * 1e6)
    hanging.now_us = START_US + limit_us
    assert hanging.worker.status().state == "running"
    hanging.now_us += 1_000_000
    status = hanging.worker.status()
    assert (status.state, status.failing_since_us) == ("failing", START_US)
    assert "has not ended" in status.error
    assert failing([status]) == [status]


def test_a_hung_run_that_ends_is_well_again(hanging: Hanging) -> None:
    hanging.now_us = START_US + 100_000_000_000
    assert hanging.worker.status().state == "failing"
    hanging.end()
    status = hanging.worker.status()
    assert (status.state, status.failing_since_us, status.error) == ("idle", None, "")
