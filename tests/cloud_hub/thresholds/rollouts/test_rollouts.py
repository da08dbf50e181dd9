"""Limits pushed to canaries: confirmed when all is quiet, taken back when it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlmodel import select

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, Rollout
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.thresholds.limits import files as limit_files
from cloud_hub.thresholds.rollouts import service as rollout_service
from cloud_hub.twins import service as twins
from shared.codec import encode
from shared.content_reference import FILES, Reference
from shared.messages import Alarm, Applied
from shared.thresholds import Limits

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
CANARIES = ["press-1", "press-2"]
WANTED = Limits(metric="cpu.load", high=80.0)
BEFORE = {"metric": "cpu.load", "high": 95.0}
OTHER = {"metric": "disk.used", "high": 90.0}


@pytest.fixture(autouse=True)
def canaries(db: Database) -> None:
    with db.write() as session:
        session.add_all(Device(id=name, state="online") for name in CANARIES)


def start(
    db: Database, *, max_alarms: int = 1, devices: list[str] | None = None
) -> tuple[Rollout, list[OutgoingMessage]]:
    with db.write() as session:
        return rollout_service.start(
            session, devices or CANARIES, [WANTED], NOW, actor="anna", watch_s=60, max_alarms=max_alarms,
            max_bytes=32768, trace="",
        )  # fmt: skip


def step(db: Database, after_s: float) -> list[OutgoingMessage]:
    return list(rollout_service.run_once(db, NOW + int(after_s * SECOND), 32768).messages)


def state(db: Database, row: Rollout) -> Rollout:
    with db.read() as session:
        return rollout_service.get(session, row.id)


def desired(db: Database, device: str = "press-1") -> Any:
    with db.read() as session:
        return twins.load(session, device, "thresholds").state.get("desired", {}).get("limits")


def report(db: Database, device: str, section: str, limits: list[Any]) -> None:
    with db.write() as session:
        body = encode({"state": {section: {"limits": limits}}})
        twins.handle_request(session, device, "thresholds", "update", body, NOW, actor=device, max_bytes=32768)


def verify(db: Database, *devices: str, at_s: float = 1) -> None:
    """The devices say that they have it in force."""
    with db.write() as session:
        for device in devices or CANARIES:
            version = twins.load(session, device, "thresholds").version
            word = Applied(shadow="thresholds", version=version, path="limits", state="verified", reason="")
            twins.record_progress(session, device, word, NOW + int(at_s * SECOND))
    step(db, at_s)


def raise_alarms(db: Database, count: int, metric: str = "cpu.load", device: str = "press-1", at_s: float = 5) -> None:
    at = NOW + int(at_s * SECOND)
    with db.write() as session:
        for n in range(count):
            one = Alarm(id=f"{device}-{metric}-{at_s}-{n}", metric=metric, kind="high", state="raised", priority="low",
                        t_us=at, value=90, limit=80)  # fmt: skip
            incidents.handle_alarm(session, device, one, at, "")


def test_a_start_pushes_the_limits_beside_the_others(db: Database) -> None:
    report(db, "press-1", "reported", [BEFORE, OTHER])
    _, messages = start(db)
    sent = desired(db)
    assert [row["metric"] for row in sent] == ["disk.used", "cpu.load"]
    assert sent[1]["high"] == 80.0
    deltas = [json.loads(m.payload) for m in messages if m.topic.endswith("update/delta")]
    assert [d["state"]["limits"][-1]["high"] for d in deltas] == [80.0, 80.0]


def test_confirmed_after_a_quiet_watch(db: Database) -> None:
    row, _ = start(db)
    verify(db)
    raise_alarms(db, 1)
    assert step(db, 30) == []
    assert state(db, row).state == "watching"
    assert step(db, 62) == []
    assert (state(db, row).state, state(db, row).reason) == ("confirmed", "not more than 1 alarms in 60 s")
    raise_alarms(db, 9, at_s=70)
    assert step(db, 80) == []
    assert state(db, row).state == "confirmed"


@pytest.mark.parametrize(("section", "after"), [("desired", [OTHER, BEFORE]), ("reported", None)])
def test_taken_back_when_the_canaries_alarm(db: Database, section: str, after: Any) -> None:
    """Where nothing was desired before, nothing is desired again, and the device falls back to its own."""
    for device in CANARIES:
        report(db, device, section, [OTHER, BEFORE])
    row, _ = start(db)
    raise_alarms(db, 1)
    raise_alarms(db, 1, device="press-2")
    messages = step(db, 10)
    found = state(db, row)
    assert (found.state, found.reason) == ("rolled-back", "alarms raised: 2, allowed: 1")
    assert desired(db) == desired(db, "press-2") == after
    assert {m.topic.split("/")[3] for m in messages} == set(CANARIES)
    assert step(db, 11) == []


def test_a_device_that_had_no_limits_has_none_again(db: Database) -> None:
    start(db)
    raise_alarms(db, 2)
    step(db, 10)
    assert desired(db) is None


@pytest.mark.parametrize(("metric", "device", "at_s"), [
    ("disk.used", "press-1", 5), ("cpu.load", "press-9", 5), ("cpu.load", "press-1", -5),
])  # fmt: skip
def test_alarms_that_are_not_its_own(db: Database, metric: str, device: str, at_s: float) -> None:
    row, _ = start(db, max_alarms=0)
    raise_alarms(db, 3, metric, device, at_s)
    step(db, 10)
    assert state(db, row).state == "watching"


def test_taken_back_when_a_device_refuses(db: Database) -> None:
    report(db, "press-1", "desired", [BEFORE])
    row, _ = start(db)
    with db.write() as session:
        word = Applied(shadow="thresholds", version=2, path="limits", state="refused", reason="beyond the hard limit")
        twins.record_progress(session, "press-2", word, NOW + SECOND)
    step(db, 2)
    found = state(db, row)
    assert (found.state, found.reason) == ("rolled-back", "press-2 refused it: beyond the hard limit")
    assert desired(db) == [BEFORE]


def test_an_older_refusal_is_not_held_against_it(db: Database) -> None:
    with db.write() as session:
        word = Applied(shadow="thresholds", version=1, path="limits", state="refused", reason="yesterday")
        twins.record_progress(session, "press-1", word, NOW - SECOND)
    row, _ = start(db)
    step(db, 2)
    assert state(db, row).state == "watching"


def test_an_unknown_device_is_404_and_nothing_is_pushed(db: Database) -> None:
    with pytest.raises(HubError) as no:
        start(db, devices=["press-1", "nobody"])
    assert no.value.status == 404
    assert desired(db) is None
    with db.read() as session:
        assert session.exec(select(Rollout)).all() == []
        assert trail.rows(session) == []


def test_an_unknown_rollout_is_404(db: Database) -> None:
    with db.read() as session, pytest.raises(HubError) as no:
        rollout_service.get(session, "nothing")
    assert no.value.status == 404


def test_it_goes_on_after_a_restart(db: Database, url: str) -> None:
    report(db, "press-1", "desired", [BEFORE])
    row, _ = start(db)
    raise_alarms(db, 2)
    again = Database(url)
    step(again, 10)
    again.close()
    assert state(db, row).state == "rolled-back"
    assert desired(db) == [BEFORE]
    with db.read() as session:
        kinds = [r.kind for r in trail.rows(session, kind="rollout")]
    assert kinds == ["rollout.rolled-back", "rollout.started"]


def test_a_second_rollout_waits_for_the_first_on_the_same_device(db: Database) -> None:
    """Taking the first back would also take the second one's limits."""
    first, _ = start(db, devices=["press-1"])
    with pytest.raises(HubError, match=first.id) as error:
        start(db, devices=CANARIES)
    assert error.value.status == 409
    start(db, devices=["press-2"])
    verify(db)
    step(db, 62)
    assert state(db, first).state == "confirmed"
    start(db, devices=["press-1"])


def test_the_watch_begins_when_half_of_them_have_it_in_force(db: Database) -> None:
    row, _ = start(db)
    step(db, 300)
    assert state(db, row).state == "watching"
    verify(db, "press-2", at_s=400)
    step(db, 459)
    assert state(db, row).state == "watching"
    step(db, 461)
    assert state(db, row).state == "confirmed"


def test_canaries_that_never_answer_prove_nothing(db: Database) -> None:
    row, _ = start(db)
    step(db, 601)
    found = state(db, row)
    assert (found.state, found.reason) == ("rolled-back", "none of 2 canaries has activated the limits within 600 s")


def test_what_a_person_set_since_is_not_reverted(db: Database) -> None:
    report(db, "press-1", "desired", [BEFORE])
    row, _ = start(db)
    with db.write() as session:
        body = encode({"state": {"desired": {"limits": [OTHER]}}})
        twins.handle_request(session, "press-1", "thresholds", "update", body, NOW, actor="anna", max_bytes=32768)
    raise_alarms(db, 2)
    step(db, 10)
    assert (desired(db), desired(db, "press-2")) == ([OTHER], None)
    with db.read() as session:
        told = {one.device: (one.state, one.reason) for one in rollout_service.devices(session, row.id, "", "", 10)}
    assert told == {"press-1": ("kept", "anna has set other limits since"), "press-2": ("restored", "")}


def test_a_large_set_goes_by_reference_and_comes_back_as_it_was(db: Database) -> None:
    slots = {"lows": [n / 7 for n in range(168)], "highs": [90 + n / 7 for n in range(168)]}
    with db.write() as session:
        first, _ = rollout_service.start(
            session, ["press-1"], [Limits(metric="cpu.load", **{k: tuple(v) for k, v in slots.items()})], NOW,
            actor="anna", watch_s=60, max_alarms=1, max_bytes=32768, trace="",
        )  # fmt: skip
    wish = desired(db)
    assert set(wish) == {"digest", "size", "path"}
    reference = Reference(**wish)
    with db.read() as session:
        body = limit_files.file_content(session, wish["path"].removeprefix(FILES))
        assert [row["metric"] for row in limit_files.read_entries(session, wish) or []] == ["cpu.load"]
    assert reference.names(body)
    verify(db, "press-1")
    step(db, 62)
    assert state(db, first).state == "confirmed"
    second, _ = start(db, devices=["press-1"])
    assert desired(db)[0]["high"] == 80.0
    raise_alarms(db, 2, at_s=65)
    step(db, 70)
    assert state(db, second).state == "rolled-back"
    assert desired(db) == wish
