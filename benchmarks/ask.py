"""Measures how long an answer by the question forms takes, over a small and a ten times longer history.

    python -m benchmarks.ask [--devices 1000] [--alarms 5000] [--json FILE]

Each example of each form is asked several times, in one process, without HTTP. Baseline, in the same run: the reads of
the first look-up of "what is wrong?" alone. Goal: p95 under 100 ms.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from sqlalchemy import insert
from sqlmodel import Session

from benchmarks.report import Row, arguments, percentiles, publish
from cloud_hub.ask import service, tools
from cloud_hub.ask.core import forms
from cloud_hub.ask.core.facts import ToolCall
from cloud_hub.audit import trail
from cloud_hub.database.schema import migrate
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, Device, Incident
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.telemetry import samples
from shared.protocol.messages import Sample

NOW = 1_800_000_000_000_000
SECOND_US = 1_000_000
AGAIN = 5
POWERS = frozenset({"read", "audit", "infer"})


def fill(db: Database, devices: int, alarms: int, seed: int) -> None:
    """A fleet with alarms and incidents over 30 days, a tenth of them standing, and an hour of one metric."""
    chosen = random.Random(seed)
    names = [f"press-{number}" for number in range(devices)]
    with db.write() as session:
        connection = session.connection()
        connection.execute(insert(Device), [Device(id=name, state="online").model_dump() for name in names])
        rows = [_alarm(number, chosen.choice(names), chosen.randrange(30 * 86_400)) for number in range(alarms)]
        connection.execute(insert(AlarmRow), [row.model_dump() for row in rows])
        connection.execute(insert(Incident), [_incident(row).model_dump() for row in rows])
        for row in rows:
            trail.add(session, NOW, row.device, "limits.pushed", row.metric, device=row.device)
        _samples(session)


def _alarm(number: int, device: str, age_s: int) -> AlarmRow:
    raised_us, standing = NOW - age_s * SECOND_US, number % 10 == 0
    return AlarmRow(
        id=f"a{number}", device=device, metric="temp.board", kind="high", priority="high", value=81.0, limit=80.0,
        state="raised" if standing else "cleared", raised_us=raised_us, received_us=raised_us, incident=f"i{number}",
        cleared_us=None if standing else raised_us + 60 * SECOND_US,
    )  # fmt: skip


def _incident(alarm: AlarmRow) -> Incident:
    state = "open" if alarm.state == "raised" else "resolved"
    return Incident(
        id=alarm.incident, device=alarm.device, subject="temp", state=state, opened_us=alarm.raised_us,
        page=alarm.incident, diagnosis={"cause": "overheating", "engine": "rules", "explanation": "it is hot"},
    )  # fmt: skip


def _samples(session: Session) -> None:
    source = StreamOffsets(session).get(("press-3", "e", "telemetry")).source
    series = [(n, Sample(metric="temp.board", t_us=NOW - n * SECOND_US, value=float(n))) for n in range(1, 3600)]
    samples.store_samples(session, samples.sample_rows("press-3", source, series))


def measure(devices: int, alarms: int, seed: int) -> list[Row]:
    """Latencies over one history."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'hub.sqlite'}"
        db = Database(url)
        migrate(db.engine, url)
        fill(db, devices, alarms, seed)
        answers, look_ups = [], []
        for example in [example for form in forms.FORMS for example in form.examples]:
            for _ in range(AGAIN):
                question = service.Question(text=example, actor="anna", powers=POWERS, now_us=NOW)
                began = time.perf_counter()
                list(service.ask(db, question, None))
                answers.append(time.perf_counter() - began)
        for _ in range(50):
            began = time.perf_counter()
            with db.read() as session:
                tools.run(session, ToolCall(tool="incidents", arguments={"state": "unresolved"}), NOW, POWERS)
            look_ups.append(time.perf_counter() - began)
        db.close()
    name, ordered = f"{devices} devices, {alarms} alarms", sorted(answers)
    return [
        Row(name, "question forms", "median", percentiles(answers)[0] * 1e3, "ms"),
        Row(name, "question forms", "p95", ordered[int(len(ordered) * 0.95)] * 1e3, "ms"),
        Row(name, "question forms", "worst", ordered[-1] * 1e3, "ms"),
        Row(name, "its incidents alone", "median", percentiles(look_ups)[0] * 1e3, "ms"),
    ]


def main() -> None:
    """Measure both histories."""
    asked = arguments(__doc__ or "", devices=1000, alarms=5000)
    rows = measure(asked.devices, asked.alarms, asked.seed) + measure(asked.devices, asked.alarms * 10, asked.seed)
    publish("ask", asked.seed, rows, asked.json, "in process, SQLite, no language model")


if __name__ == "__main__":
    main()
