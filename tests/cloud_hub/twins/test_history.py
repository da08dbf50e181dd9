"""The past of a twin: any version that history holds is found again just as it stood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from cloud_hub.errors import HubError
from cloud_hub.twins import history
from cloud_hub.twins import rows as twin_rows
from cloud_hub.twins import service as twins
from shared.twin import shadow

NOW = 1_800_000_000_000_000
DEVICE = "press-3"

names = st.sampled_from(["a", "b", "c"])
values = st.recursive(
    st.one_of(st.integers(-3, 3), st.booleans(), st.text("xy", max_size=2), st.none(), st.lists(st.integers(0, 3))),
    lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=6,
)  # fmt: skip
sections = st.one_of(st.none(), st.dictionaries(names, values, max_size=3))
states = st.one_of(st.none(), st.fixed_dictionaries({}, optional={"desired": sections, "reported": sections}))
steps = st.lists(st.one_of(st.just("delete"), states), min_size=1, max_size=25)


def play(db: Database, number: int, walk: list[Any]) -> dict[int, Any]:
    """Carry out a walk of updates and deletions; returns what really stood at each version."""
    device, stood = f"{DEVICE}-{number}", {}
    with db.write() as session:
        session.add(Device(id=device))
    for at, step in enumerate(walk):
        verb, body = ("delete", b"") if step == "delete" else ("update", json.dumps({"state": step}).encode())
        with db.write() as session:
            twins.handle_request(session, device, "", verb, body, NOW + at, actor=f"w{at}", max_bytes=4096)
            document = twins.load(session, device, "")
        if document.version and document.version not in stood:  # a refused step makes no version
            stood[document.version] = (None if document.deleted else document.state, f"w{at}", NOW + at)
    return stood


def recalled(db: Database, number: int, walk: list[Any]) -> bool:
    stood = play(db, number, walk)
    with db.read() as session:
        for version, (state, actor, t_us) in stood.items():
            past = history.at(session, f"{DEVICE}-{number}", "", version=version)
            if (past.state, past.actor, past.t_us) != (state, actor, t_us):
                return False
            if history.at(session, f"{DEVICE}-{number}", "", t_us=t_us) != past:
                return False
    return True


def test_every_version_is_recalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_rows, "SNAPSHOT_EVERY", 4)
    db = Database(f"sqlite:///{tmp_path / 'h.sqlite'}")
    count = iter(range(1000))

    @settings(max_examples=60)
    @given(steps)
    def run(walk: list[Any]) -> None:
        assert recalled(db, next(count), walk)

    run()
    db.close()


def test_a_history_that_forgets_an_emptying_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded bug: a null state, which empties the document, is taken for an empty change."""
    monkeypatch.setattr(twin_rows, "SNAPSHOT_EVERY", 4)
    monkeypatch.setattr(history, "apply_state", lambda state, sent: shadow.apply_state(state, sent or {}))
    db = Database(f"sqlite:///{tmp_path / 'h.sqlite'}")
    count = iter(range(1000))

    @settings(phases=[Phase.explicit])
    @example([{"desired": {"a": 1}}, None, {"desired": {"b": 1}}])
    @given(steps)
    def run(walk: list[Any]) -> None:
        assert recalled(db, next(count), walk)

    with pytest.raises(AssertionError):
        run()
    db.close()


def test_a_long_history_keeps_the_newest_and_can_still_recall_its_oldest(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin_rows, "SNAPSHOT_EVERY", 10)
    monkeypatch.setattr(twin_rows, "KEPT_VERSIONS", 20)
    with db.write() as session:
        session.add(Device(id=DEVICE))
        for number in range(1, 56):
            twins.update_desired(
                session, DEVICE, "", {"n": number, f"k{number % 3}": number}, NOW, actor="anna", max_bytes=4096
            )
    with db.read() as session:
        found = [row.version for row in history.changes(session, DEVICE, "", before=None, limit=1000)]
        assert found == list(range(55, 29, -1))
        state = history.at(session, DEVICE, "", version=30).state
        assert state == {"desired": {"n": 30, "k0": 30, "k1": 28, "k2": 29}}
        with pytest.raises(HubError, match="does not hold version 29"):
            history.at(session, DEVICE, "", version=29)
