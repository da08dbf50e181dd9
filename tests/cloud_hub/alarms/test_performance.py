"""The report of ISA-18.2, on a week whose figures are known."""

from __future__ import annotations

from dataclasses import replace

from cloud_hub.alarms import service as alarm_service
from cloud_hub.alarms.core.performance import AlarmRecord, build_report
from cloud_hub.database.sessions import Database
from cloud_hub.devices import registry as device_registry
from cloud_hub.incidents import service as incidents
from shared.durations import DAY_US, SECOND_US
from shared.messages import Alarm

START = 1_800_000_000 * SECOND_US
WEEK = 7 * DAY_US


def seen(after_s: float, metric: str = "cpu.load", **more: object) -> AlarmRecord:
    t_us = START + int(after_s * SECOND_US)
    return replace(AlarmRecord(device="d", metric=metric, priority="high", raised_us=t_us, received_us=t_us), **more)


def test_the_figures_of_a_known_week() -> None:
    chatter = [seen(n * 20, "fan.speed", cleared_us=START + n * 20 * SECOND_US + 1) for n in range(4)]
    flood = [seen(86_400 + n, f"m{n}.x", priority="low") for n in range(12)]
    calm = [seen(200_000, acked_us=START + 200_030 * SECOND_US, verdict="real"), seen(300_000, verdict="false-alarm")]
    quiet = [seen(400_000, suppressed="shelved", verdict="real")]
    found = build_report([*chatter, *flood, *calm, *quiet], [calm[1], seen(604_000), quiet[0]], 5, START, START + WEEK)
    assert (found.alarms, found.suppressed, found.pages, round(found.per_day, 2)) == (18, 1, 5, 2.57)
    assert sum(found.per_day_each.values()) == 18
    assert next(iter(found.per_day_each)) == "2027-01-15"
    assert found.by_priority == {"high": 6, "low": 12}
    assert (found.peak, round(found.in_flood * 1008)) == (12, 1)
    assert (found.top[0].metric, found.top[0].alarms, found.top[0].chattering) == ("fan.speed", 4, True)
    assert (found.top[1].metric, found.top[1].alarms, found.top[1].chattering) == ("cpu.load", 2, False)
    assert (len(found.top), found.chattering, found.fleeting) == (10, 1, 4)
    assert (found.standing, found.stale, found.unacknowledged) == (3, 1, 2)
    assert (found.ack_median_s, found.real, found.false_alarms) == (30.0, 2, 1)


def test_of_nothing_everything_is_nothing() -> None:
    found = build_report([], [], 0, START, START)
    assert (found.alarms, found.per_day, found.peak, found.in_flood, found.top_share) == (0, 0.0, 0, 0.0, 0.0)
    assert (found.top, found.ack_median_s) == ([], None)


def test_the_report_reads_what_was_received_in_its_time(db: Database) -> None:
    with db.write() as session:
        for device in ("d1", "d2"):
            device_registry.register(session, device, START, actor="test")
        for n, (device, after_s) in enumerate([("d1", 1), ("d1", 4000), ("d2", 8000), ("d1", 90_000)]):
            now = START + after_s * SECOND_US
            alarm = Alarm(
                id=f"a{n}", metric=f"m{n}.x", kind="high", state="raised", priority="low", t_us=now, value=1, limit=0
            )
            incidents.handle_alarm(session, device, alarm, now, "")
    with db.read() as session:
        both = alarm_service.performance(session, START, START + DAY_US)
        one = alarm_service.performance(session, START, START + DAY_US, device="d1")
    assert (both.alarms, both.pages, both.standing) == (3, 3, 4)
    assert (one.alarms, one.pages, one.standing) == (2, 2, 3)
