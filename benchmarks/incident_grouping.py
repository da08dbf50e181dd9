"""Grouping quality: alarms per group, groups that mix causes, and causes that are spread over several groups.

    python -m benchmarks.incident_grouping --seeds 10

A seeded plant with switches, sites and devices has several causes at once: faults of single devices, failed switches
whose devices fall silent up to 15 minutes later (the switch's own alarm comes first, late, or never), and noise. Each
alarm goes through the hub's own code on SQLite: incidents, page rules, topology.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from sqlmodel import select

from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Device, Incident
from cloud_hub.devices import tags
from cloud_hub.incidents import regrouping
from cloud_hub.incidents import service as incidents
from shared.protocol.messages import Alarm

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
SITES, SWITCHES, DEVICES = 4, 3, 12
"""Sites, switches of each site, devices behind each switch."""
HOURS = 24
FAULTS, OUTAGES, NOISE = 24, 4, 12
CLEARED_US = 45 * MINUTE
"""How long an alarm stands."""
"""Faults of single devices, failed switches, and alarms without a cause, in that time."""
METRICS = ("temp.cpu", "cpu.load", "disk.used", "memory.used", "line/age_s")
Mode = Literal["incident", "page", "topology"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well alarms were grouped. `mixed`: groups with alarms of several causes; `spread`: mean groups of a cause."""

    alarms: int
    groups: int
    causes: int
    mixed: int
    spread: float

    @property
    def alarms_per_group(self) -> float:
        """The mean number of alarms of a group."""
        return self.alarms / max(self.groups, 1)


def quality(alarms: Iterable[tuple[str, str]]) -> Quality:
    """The quality of a grouping, from the (cause, group) of each alarm."""
    pairs = list(alarms)
    causes_of: dict[str, set[str]] = defaultdict(set)
    groups_of: dict[str, set[str]] = defaultdict(set)
    for cause, group in pairs:
        causes_of[group].add(cause)
        groups_of[cause].add(group)
    return Quality(
        alarms=len(pairs), groups=len(causes_of), causes=len(groups_of),
        mixed=sum(len(causes) > 1 for causes in causes_of.values()),
        spread=sum(map(len, groups_of.values())) / max(len(groups_of), 1),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CausedAlarm:
    """An alarm of the plant, and what caused it."""

    t_us: int
    device: str
    metric: str
    silent: bool
    cause: str


def plant() -> Iterator[tuple[str, str, str]]:
    """(device, asset path, the switch that it depends on) of each device; '' for a switch."""
    for site in range(SITES):
        for number in range(SWITCHES):
            switch = f"switch-{site}-{number}"
            yield switch, f"acme/site-{site}/network", ""
            for n in range(DEVICES):
                yield f"press-{site}-{number}-{n}", f"acme/site-{site}/hall-{number}/line-{n}", switch


def alarms(seed: int) -> list[CausedAlarm]:
    """The alarms of a day, in order of time."""
    draw = random.Random(seed)
    devices = [(device, switch) for device, _, switch in plant() if switch]
    found: list[CausedAlarm] = []

    def add(t_us: int, device: str, metric: str, cause: str, *, silent: bool = False) -> None:
        found.append(CausedAlarm(t_us=t_us, device=device, metric=metric, silent=silent, cause=cause))

    def moment() -> int:
        return NOW + draw.randrange(HOURS * 3600) * SECOND

    for n in range(FAULTS):
        start, (device, _) = moment(), draw.choice(devices)
        for metric in draw.sample(METRICS, draw.randint(1, 4)):
            add(start + draw.randrange(300) * SECOND, device, metric, f"fault-{n}")
    for n in range(OUTAGES):
        start, switch = moment(), draw.choice(sorted({switch for _, switch in devices}))
        for device in (name for name, above in devices if above == switch):
            add(start + draw.randrange(900) * SECOND, device, "cpu.load", f"outage-{n}", silent=True)
        own = draw.choice([0, 600, 1200, None])
        if own is not None:
            add(start + own * SECOND, switch, "up", f"outage-{n}", silent=True)
    for n in range(NOISE):
        add(moment(), draw.choice(devices)[0], draw.choice(METRICS), f"noise-{n}")
    return sorted(found, key=lambda alarm: (alarm.t_us, alarm.device, alarm.metric))


@contextmanager
def _hub(*, topology: bool) -> Iterator[Database]:
    with TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 'hub.sqlite'}")
        with db.write() as session:
            for device, path, switch in plant():
                row = Device(id=device, assigned_path=path, state="online", born_us=NOW)
                session.add(row)
                if topology and switch:
                    tags.change(session, row, {"depends_on": switch}, NOW, actor="benchmark")
        yield db
        db.close()


def _messages(caused: Iterable[CausedAlarm]) -> list[tuple[int, str, Alarm, str]]:
    """(time, device, message, cause) of each alarm that is raised or cleared, in order of time."""
    found = []
    for one in caused:
        raised = Alarm(
            id=new_id(), metric=one.metric, kind="high", state="raised", priority="high", t_us=one.t_us, value=1,
            limit=0, about="no-data" if one.silent else "",
        )  # fmt: skip
        end_us = one.t_us + CLEARED_US
        cleared = replace(raised, state="cleared", t_us=end_us)
        found += [(one.t_us, one.device, raised, one.cause), (end_us, one.device, cleared, one.cause)]
    return sorted(found, key=lambda message: message[0])


def grouped(seed: int, mode: Mode) -> Quality:
    """The quality of a day's groups: of incidents alone, of pages, or of pages with the topology."""
    causes: dict[str, str] = {}
    with _hub(topology=mode == "topology") as db:
        for t_us, device, message, cause in _messages(alarms(seed)):
            causes.setdefault(message.id, cause)
            with db.write() as session:
                incidents.handle_alarm(session, device, message, t_us, "")
            while regrouping.run_once(db, t_us).again:
                pass
        query = select(AlarmRow.id, Incident.id, Incident.page).join(Incident, AlarmRow.incident == Incident.id)  # type: ignore[arg-type]
        with db.read() as session:
            rows = session.exec(query).all()
    return quality((causes[alarm], incident if mode == "incident" else page) for alarm, incident, page in rows)


def measure(seeds: Iterable[int]) -> dict[Mode, list[Quality]]:
    """The qualities of each mode, by seed."""
    modes: tuple[Mode, ...] = ("incident", "page", "topology")
    return {mode: [grouped(seed, mode) for seed in seeds] for mode in modes}


def table(measured: dict[Mode, list[Quality]]) -> str:
    """The result as a Markdown table: means over the seeds."""
    lines = ["| grouping | groups | alarms a group | mixed groups | groups a cause |", "|---|---|---|---|---|"]
    for mode, found in measured.items():
        n = len(found)
        lines.append(
            f"| {mode} | {sum(q.groups for q in found) / n:.1f} | {sum(q.alarms_per_group for q in found) / n:.2f} "
            f"| {sum(q.mixed for q in found) / n:.1f} | {sum(q.spread for q in found) / n:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    print(table(measure(range(arguments.seeds))))


if __name__ == "__main__":
    main()
