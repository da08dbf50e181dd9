"""What the database knows of series: many read at once are what each is alone."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.database.sessions import Database
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.telemetry import samples
from cloud_hub.thresholds.learning import history as stored

SERIES = [(f"press-{n}", metric, 40 * n) for n in range(3) for metric in ("cpu.load", 'odd "µ"/\'s', "never")]


def written(db: Database, a_time: int) -> None:
    """So many samples of one time, some without a value, in no order."""
    dice = np.random.default_rng(3)
    with db.write() as session:
        source = StreamOffsets(session).get(("press", "e", "telemetry")).source
        samples.store_samples(session, [
            (device, metric, int(t), source, 200 * index + n, float(n) if n % 7 else None, None, "good")
            for index, (device, metric, _) in enumerate(SERIES) if metric != "never"
            for n, t in enumerate(dice.permutation(200) // a_time)
        ])  # fmt: skip


@pytest.mark.parametrize("many", [20_000, 700, 50], ids=["in one", "just too many", "far too many"])
@pytest.mark.parametrize(("a_time", "most"), [(2, 1000), (1, 30)])
def test_many_series_read_at_once_are_what_each_is_alone(
    db: Database, many: int, a_time: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MANY", many)
    written(db, a_time)
    with db.read() as session:
        found = stored.new_samples(session, SERIES, most)
        alone = [
            stored.samples_after(session, (device, metric), after_us, most=most) for device, metric, after_us in SERIES
        ]
        assert stored.new_samples(session, [], most) == []
    assert [t_us.tolist() for t_us, _ in found] == [t_us.tolist() for t_us, _ in alone]
    assert [values.tolist() for _, values in found] == [values.tolist() for _, values in alone]
    assert sum(t_us.size for t_us, _ in found) > 3 * min(most, 60)
