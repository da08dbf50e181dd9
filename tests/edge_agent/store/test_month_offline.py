"""Thirty days without a hub, on a virtual clock: the real outbox, session and rules; a full disk in between.

In the end everything accepted is at the hub once and in order, or told as a range; every alarm is there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_agent.link.core.session import Effect, Forget, LinkSession, PublishBirth
from edge_agent.pipeline.core.limit_rules import LimitRules
from edge_agent.store.disk import Disk
from edge_agent.store.outbox import Outbox, OutboxFull, RowBatch
from shared.protocol.codec import decode
from shared.protocol.messages import STREAMS, Ack, Alarm, Batch, Sample, Session, Stream
from shared.thresholds import Limits

DAY_S = 86_400
CAP = 3_000_000


@dataclass
class Hub:
    """Stores in order, by number; what was lost is kept as ranges."""

    mark: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    stored: dict[Stream, list[int]] = field(default_factory=lambda: {stream: [] for stream in STREAMS})
    lost: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    times: list[int] = field(default_factory=list)

    def take(self, stream: Stream, batch: Batch) -> Ack:
        """One row; beyond a gap nothing is taken."""
        if batch.first <= self.mark[stream] + 1 <= batch.last:
            fresh = range(self.mark[stream] + 1, batch.last + 1)
            if batch.lost:
                self.lost[stream] += len(fresh)
            else:
                self.stored[stream] += fresh
                self.times += [item["t_us"] for item in batch.items] if stream == "telemetry" else []
            self.mark[stream] = batch.last
        return Ack(epoch=batch.epoch, stream=stream, upto=self.mark[stream])


class Device:
    """The agent's parts that matter here, driven by hand. `now` is monotonic seconds, `wall_s` what its clock shows."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.outbox = Outbox(folder / "outbox.sqlite", CAP, "e1", Disk(folder, reserve=0))
        self.outbox._db.execute("PRAGMA synchronous=OFF")  # nothing is cut off here, and a month is long
        self.session = LinkSession("e1", self.outbox.acked)
        self.rules = LimitRules([Limits(metric="cpu.load", high=90.0, low=None)])
        self.rng, self.now, self.wall_s = rng, 0.0, 1_795_000_000.0
        self.accepted: dict[Stream, int] = dict.fromkeys(STREAMS, 0)
        self.refused, self.ids, self.told = 0, 0, list[Alarm]()

    def new_id(self) -> str:
        """Ids of alarms."""
        self.ids += 1
        return f"a{self.ids}"

    def minute(self) -> None:
        """A minute's samples, judged and committed together."""
        self.now, self.wall_s = self.now + 60, self.wall_s + 60
        hot = 95.0 if self.rng.random() < 0.01 else 20.0
        samples = [Sample(metric="cpu.load", t_us=int(self.wall_s * 1e6), value=hot)]
        samples += [Sample(metric=f"m{n}", t_us=int(self.wall_s * 1e6), value=float(n)) for n in range(3)]
        alarms = [alarm for sample in samples for alarm in self.rules.judge(sample, self.new_id)]
        self.told += alarms
        lots: list[tuple[Stream, list[Any]]] = [("telemetry", samples), ("alarm", alarms)]
        for stream, items in lots:
            if not items:
                continue
            try:
                self.outbox.accept([RowBatch(stream=stream, items=items)], "synced")
                self.accepted[stream] += len(items)
            except OutboxFull:
                self.refused += len(items)
        self.session.appended(self.outbox.last)

    def meet(self, hub: Hub) -> int:
        """The hub is back: everything goes over, until nothing waits; returns the rows sent."""
        effects = self.session.up("c1", self.now)
        assert effects == [PublishBirth()]
        word = Session(hub_epoch="h1", protocol=1, session="c1", epoch="e1", upto={**hub.mark})
        self.carry_out(self.session.handle_session(word, self.now))
        sent, urgent = 0, True
        while (send := self.session.next()) is not None:
            assert urgent or send.stream != "alarm", "an alarm waited behind the backlog"
            row = self.outbox.after(send.stream, send.after)
            assert row is not None
            self.session.sent(send.stream, row.last, self.now)
            ack = hub.take(send.stream, decode(Batch, row.payload))
            self.carry_out(self.session.handle_ack(ack, self.now))
            sent, urgent = sent + 1, send.stream == "alarm"
        return sent

    def carry_out(self, effects: list[Effect]) -> None:
        """Only deleting touches the store."""
        for effect in effects:
            if isinstance(effect, Forget):
                self.outbox.forget(effect.stream, effect.upto)


def away(folder: Path, days: float, seed: int) -> tuple[Device, Hub]:
    """A device without a hub for so long; from a third to two thirds of that time its disk is full."""
    device, hub = Device(folder, random.Random(seed)), Hub()
    minutes = int(days * DAY_S / 60)
    for minute in range(minutes):
        if minute == minutes // 3:
            (pages,) = device.outbox._db.execute("PRAGMA page_count").fetchone()
            device.outbox._limit_pages(int(pages))
        if minute == 2 * minutes // 3:
            device.outbox.restore_page_limit()
        device.minute()
    device.meet(hub)
    return device, hub


def settled(device: Device, hub: Hub) -> None:
    """O1 to O5 at the end."""
    for stream in STREAMS:
        assert hub.stored[stream] == sorted(set(hub.stored[stream])), "doubled, or out of order"
        assert len(hub.stored[stream]) + hub.lost[stream] == device.accepted[stream] == hub.mark[stream]
    assert hub.lost["alarm"] == 0
    assert device.outbox.waiting() == 0
    assert hub.times == sorted(hub.times)


def test_two_days_offline(tmp_path: Path) -> None:
    device, hub = away(tmp_path, 2.0, seed=1)
    settled(device, hub)
    assert (hub.mark["alarm"] > 10, hub.mark["telemetry"]) == (True, 4 * 2 * 1440)
    device.outbox.close()


JUMPS = {"a day ahead": DAY_S, "a day back": -DAY_S, "to 1970": -1_795_000_000.0, "to 2038": 353_000_000.0}


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_changes_times_and_nothing_else(tmp_path: Path, jump: str) -> None:
    """Order is that of the numbers; a standing alarm is neither raised twice nor forgotten."""
    device, hub = Device(tmp_path, random.Random(3)), Hub()
    for minute in range(600):
        if minute in {200, 400}:
            device.wall_s += JUMPS[jump] if minute == 200 else -JUMPS[jump]
        device.minute()
    assert device.meet(hub) > 600
    assert device.refused == 0
    for stream in STREAMS:
        assert hub.stored[stream] == list(range(1, device.accepted[stream] + 1))
    assert len(hub.times) == 4 * 600
    assert abs(max(hub.times) - min(hub.times)) >= abs(JUMPS[jump]) * 1e6
    assert [alarm.state for alarm in device.told] == (["raised", "cleared"] * len(device.told))[: len(device.told)]
    device.outbox.close()


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_thirty_days_offline_with_a_backlog_and_a_full_disk(tmp_path: Path) -> None:
    device, hub = away(tmp_path, 30.0, seed=2)
    settled(device, hub)
    assert hub.lost["telemetry"] > 0, "a month is more than the store holds"
    assert hub.stored["telemetry"], "and the newest of it is there"
    assert hub.stored["telemetry"][-1] == device.accepted["telemetry"]
    assert hub.mark["alarm"] > 300
    device.outbox.close()
