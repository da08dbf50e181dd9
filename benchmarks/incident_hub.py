"""How long the diagnosis of an incident by rules takes, evidence included, on a hub with history.

Faults strike a simulated fleet at random: one device (one to three alarms), or a switch (every device behind it falls
silent).
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import insert, select

from benchmarks.report import Row
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Case, Device, Incident
from cloud_hub.devices import dependencies
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import evidence, regrouping
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.diagnosis import diagnose
from cloud_hub.telemetry import samples
from shared.protocol.messages import Alarm, Event, Sample

NOW_US = 1_800_000_000_000_000
SECOND_US, MINUTE_US = 1_000_000, 60_000_000
SITE_DEVICES, SWITCH_DEVICES = 40, 10
SAMPLES, EVENTS, OLD_ALARMS, CASES, FAULTS = 600, 60, 100, 1000, 300
GAP_S = 240.0
"""The mean time between faults of the whole fleet."""
METRICS = ("cpu.load", "memory.used", "disk.used", "temp.cpu", "pressure.inlet", "line-camera/age_s")


@dataclass(slots=True)
class Fleet:
    """A database with devices."""

    db: Database
    rng: random.Random

    def devices(self, count: int) -> list[str]:
        """Names of devices: every eleventh is a switch for the ten after it."""
        return [f"{'switch' if n % (SWITCH_DEVICES + 1) == 0 else 'press'}-{n}" for n in range(count)]


def hub_figures(count: int, seed: int = 7) -> Iterator[Row]:
    """The figures of a fleet of `count` devices."""
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 'hub.sqlite'}")
        try:
            fleet = Fleet(db=db, rng=random.Random(seed))
            _history(fleet, count)
            times, cpu = zip(*_faults(fleet, count), strict=True)
        finally:
            db.close()
    name = f"{count} devices with history"
    for what, values in (("elapsed", times), ("of the processor", cpu)):
        for share in (0.5, 0.95):
            value = sorted(values)[int(len(values) * share)] * 1e3
            yield Row(name, "evidence and rules", f"answer p{share * 100:.0f}, {what}", value, "ms")


def _history(fleet: Fleet, count: int) -> None:
    """Devices with samples, log lines, old alarms and cases."""
    names = fleet.devices(count)
    for number, name in enumerate(names):
        with fleet.db.write() as session:
            path = f"acme/site-{number // SITE_DEVICES}/hall-1"
            switch = names[number - number % (SWITCH_DEVICES + 1)]
            tags = {} if name == switch else {"depends_on": switch}
            session.add(Device(id=name, profile="x86-64", assigned_path=path, state="online", tags=tags))
            session.flush()
            dependencies.save(session, name, {}, tags)
            source = StreamOffsets(session).get((name, "e", "telemetry")).source
            views: Any = [
                (n, Sample(t_us=NOW_US - (SAMPLES - n) * SECOND_US, metric=metric, value=fleet.rng.gauss(50, 5)))
                for metric in METRICS for n in range(SAMPLES // len(METRICS))
            ]  # fmt: skip
            samples.store_samples(session, samples.sample_rows(name, source, views))
            source = StreamOffsets(session).get((name, "e", "event")).source
            lines = [(n, Event(t_us=NOW_US - n * SECOND_US, source="app", text=f"line {n}")) for n in range(EVENTS)]
            samples.store_events(session, name, source, lines, "")
            session.connection().execute(insert(AlarmRow), [_old_alarm(name, n) for n in range(OLD_ALARMS)])
    with fleet.db.write() as session:
        session.connection().execute(insert(Case), [_case(names[n % count], n) for n in range(CASES)])


def _old_alarm(device: str, number: int) -> dict[str, Any]:
    t_us = NOW_US - number * 3600 * SECOND_US
    return {
        "id": f"{device}-old-{number}", "device": device, "metric": "cpu.load", "kind": "high", "priority": "low",
        "state": "cleared", "value": 1.0, "limit": 0.5, "raised_us": t_us, "received_us": t_us, "about": "",
        "cleared_us": t_us, "incident": "", "trace_id": "", "suppressed": "",
    }  # fmt: skip


def _case(device: str, number: int) -> dict[str, Any]:
    return {
        "id": f"case-{number:05}", "page": "p", "device": device, "site": "acme/site-0", "profile": "x86-64",
        "service": "", "subject": METRICS[number % len(METRICS)].split(".")[0], "cause": "cpu-saturated",
        "metrics": ["cpu.load"], "opened_us": 1, "resolved_us": 2, "outcome": "by-itself", "resolution": "",
        "actions": [],
    }  # fmt: skip


def _faults(fleet: Fleet, count: int) -> Iterator[tuple[float, float]]:
    """Let faults strike; yields the seconds of each diagnosis of a new incident: elapsed, and of the processor."""
    names, now_us = fleet.devices(count), NOW_US
    seen: set[str] = set()
    for number in range(FAULTS):
        now_us += int(fleet.rng.expovariate(1 / GAP_S) * SECOND_US)
        for device, alarm, t_us in _alarms(fleet, names, number, now_us):
            with fleet.db.write() as session:
                incidents.handle_alarm(session, device, alarm, t_us, "")
        while regrouping.run_once(fleet.db, now_us).again:
            pass
        with fleet.db.read() as session:
            query = select(Incident.id).where(Incident.leads, Incident.state != "resolved")
            new = sorted(set(session.exec(query)) - seen)
        seen.update(new)
        yield from (_timed(fleet.db, incident) for incident in new)
        if number >= 5:
            _clear(fleet, number - 5, now_us)


def _alarms(fleet: Fleet, names: list[str], number: int, now_us: int) -> Iterable[tuple[str, Alarm, int]]:
    rng = fleet.rng
    index = rng.randrange(len(names))
    if rng.random() < 0.1:  # a switch, and what is behind it
        first = index - index % (SWITCH_DEVICES + 1)
        struck = [(name, "cpu.load", "no-data") for name in names[first : first + SWITCH_DEVICES + 1]]
        rng.shuffle(struck)
    else:
        struck = [(names[index], metric, "") for metric in rng.sample(METRICS, rng.randrange(1, 4))]
    for order, (device, metric, about) in enumerate(struck):
        t_us = now_us + order * rng.randrange(1, 15) * SECOND_US
        alarm = Alarm(
            id=f"fault-{number}-{order}", metric=metric, kind="high", state="raised", priority="medium", t_us=t_us,
            value=99.0, limit=90.0, about=about,  # type: ignore[arg-type]
        )  # fmt: skip
        yield device, alarm, t_us


def _timed(db: Database, incident_id: str) -> tuple[float, float]:
    began, busy = time.perf_counter(), time.thread_time()
    with db.read() as session:
        found = evidence.gather(session, incidents.get(session, incident_id))
    diagnose(found)
    return time.perf_counter() - began, time.thread_time() - busy


def _clear(fleet: Fleet, number: int, now_us: int) -> None:
    """The fault is over: its alarms clear."""
    with fleet.db.write() as session:
        rows = session.exec(select(AlarmRow).where(AlarmRow.id.startswith(f"fault-{number}-"))).all()
        for row in rows:
            cleared = Alarm(
                id=row.id, metric=row.metric, kind="high", state="cleared", priority="medium", t_us=now_us,
                value=50.0, limit=90.0,
            )  # fmt: skip
            incidents.handle_alarm(session, row.device, cleared, now_us, "")
