"""Many documents in one transaction: the same rows and messages as one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import TwinChange, TwinRow
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode

NOW = 1_800_000_000_000_000
LIMIT = 300
PATCHES: Any = st.dictionaries(
    st.sampled_from("abc"),
    st.integers(0, 2) | st.none() | st.dictionaries(st.sampled_from("xy"), st.integers(0, 1) | st.none(), min_size=1)
    | st.just("x" * 200),
    min_size=1, max_size=3,
)  # fmt: skip


def rows(db: Database, device: str) -> tuple[Any, list[Any]]:
    with db.read() as session:
        row = session.get(TwinRow, (device, ""))
        changes = session.exec(select(TwinChange).where(TwinChange.device == device).order_by(TwinChange.version))
        return (
            row and row.model_dump(exclude={"device"}),
            [change.model_dump(exclude={"device"}) for change in changes],
        )


def batched(db: Database, device: str, patch: Any, actor: str, now: int) -> tuple[str, list[Any]]:
    with db.write() as session:
        batch = twin_batch.TwinBatch(twin_batch.read_documents(session, [device], [""], lock=True), now, LIMIT)
        state, _, _ = batch.patch_desired(device, "", patch, encode({"state": {"desired": patch}}), actor)
        batch.write(session)
    return state, batch.messages


def single(db: Database, device: str, patch: Any, actor: str, now: int) -> list[Any]:
    with db.write() as session:
        body = encode({"state": {"desired": patch}})
        return twins.reply_messages(device, "", twins.handle_request(
            session, device, "", "update", body, now, actor=actor, max_bytes=LIMIT), "")  # fmt: skip


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(PATCHES, st.sampled_from(["anna", "configuration:x"])), min_size=1, max_size=5))
def test_a_batch_leaves_what_single_requests_leave(db: Database, steps: Any, request: Any) -> None:
    number = getattr(request.node, "worlds", 0)
    request.node.worlds = number + 1
    one, other = f"one-{number}", f"two-{number}"
    for tick, (patch, actor) in enumerate(steps):
        now = NOW + tick * 1_000_000
        state, messages = batched(db, one, patch, actor, now)
        if state == "unchanged":  # a single request would make a version of it all the same
            continue
        alone = single(db, other, patch, actor, now)
        if state == "refused":
            assert alone[0].topic.endswith("update/rejected")
            continue
        assert [m.payload for m in messages] == [m.payload for m in alone]
    (left, left_changes), (right, right_changes) = rows(db, one), rows(db, other)
    assert (left or {}).get("state") == (right or {}).get("state")
    assert left_changes == right_changes


def test_what_changes_nothing_is_not_written(db: Database) -> None:
    assert batched(db, "press-3", {"a": 1}, "job:1", NOW)[0] == "written"
    before = rows(db, "press-3")
    assert batched(db, "press-3", {"a": 1}, "job:1", NOW + 5_000_000) == ("unchanged", [])
    assert rows(db, "press-3") == before


def test_who_wants_the_same_owns_it_without_a_new_version(db: Database) -> None:
    batched(db, "press-3", {"a": 1}, "configuration:x", NOW)
    assert batched(db, "press-3", {"a": 1}, "job:1", NOW)[0] == "unchanged"
    row, changes = rows(db, "press-3")
    assert (row["owners"], row["version"], len(changes)) == ({"a": "job:1"}, 1, 1)


@pytest.mark.parametrize("deleted", [False, True])
def test_history_begins_with_the_whole_document(db: Database, deleted: bool) -> None:
    if deleted:
        single(db, "press-3", {"z": 1}, "anna", NOW)
        with db.write() as session:
            twins.handle_request(session, "press-3", "", "delete", b"", NOW, actor="anna", max_bytes=LIMIT)
    batched(db, "press-3", {"a": 1}, "job:1", NOW)
    _, changes = rows(db, "press-3")
    assert changes[-1]["state"] == {"desired": {"a": 1}}
    assert (changes[-1]["actor"], changes[-1]["patch"]) == ("job:1", {"desired": {"a": 1}})
