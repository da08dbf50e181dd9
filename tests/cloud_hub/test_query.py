"""Queries on real databases: the same devices as a plain evaluator finds, pages, counts, and text that means harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from simulators.queries import conditions, fleets, meaning, written
from sqlalchemy import case, false
from sqlmodel import Session

from cloud_hub import query
from cloud_hub.db import Database
from cloud_hub.query import sql, values
from cloud_hub.query.tree import FIELDS
from cloud_hub.tables import Device, TwinRow

View = dict[str, Any]


@contextmanager
def filled(db: Database, views: list[View]) -> Iterator[Session]:
    """A session that sees these devices; nothing of it stays."""
    rows: list[Any] = []
    for view in views:
        fields = {name: view[name] for name in (*FIELDS, "tags") if name in view}
        rows.append(Device(**fields))
        documents = dict(view.get("shadow", {}))
        if "desired" in view or "reported" in view:
            documents[""] = {section: view[section] for section in ("desired", "reported") if section in view}
        rows += [TwinRow(device=view["id"], name=name, deleted=False, state=found) for name, found in documents.items()]
        rows.append(TwinRow(device=view["id"], name="gone", deleted=True, state=view.get("deleted", {})))
    with Session(db.engine) as session:
        session.add_all(rows)
        session.flush()
        yield session
        session.rollback()


def view_of(number: int, drawn: dict[str, Any]) -> View:
    view = {name: drawn[name] for name in ("state", "version", "seen_us", "tags")}
    view |= {"id": f"d{number}", "profile": "", "asset_path": "", "born_us": 0, "deleted": drawn["deleted"]}
    view |= drawn["classic"] or {}
    return view | {"shadow": {} if drawn["gates"] is None else {"gates": drawn["gates"]}}


def check_against_the_evaluator(db: Database, phases: tuple[Phase, ...] = tuple(Phase), examples: int = 150) -> None:
    @hypothesis_settings(
        max_examples=examples, phases=phases, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    @given(fleets, st.lists(conditions(), min_size=1, max_size=6))
    def holds(drawn: list[dict[str, Any]], wanted: list[Any]) -> None:
        views = [view_of(number, one) for number, one in enumerate(drawn)]
        with filled(db, views) as session:
            for one in wanted:
                expected = [view["id"] for view in views if meaning(view, one) is True]
                assert query.devices(session, written(one)) == expected, written(one)

    holds()


def test_sql_finds_the_devices_that_the_evaluator_finds(db: Database) -> None:
    check_against_the_evaluator(db)


def _nothing_undefined(whens: Any) -> Any:
    return case(*whens, else_=false()) if whens else false()


SEEDED: dict[str, tuple[Any, str, Any]] = {
    "undefined is false, so NOT of it is true": (sql, "_first", _nothing_undefined),
    "a deleted document is seen": (sql.Statement, "living", staticmethod(lambda twin: twin.c.deleted.is_not(None))),
    "types are not looked at": (values, "_SQLITE_TYPES", {}),
    "true is a number": (values, "_SQLITE_TYPES", values._SQLITE_TYPES | {"number": ("integer", "real", "true")}),
    "% is any text": (values.Sqlite, "contains", staticmethod(lambda text, part: text.like("%" + part + "%"))),
}


@pytest.mark.parametrize("bug", SEEDED)
def test_a_seeded_bug_is_caught(db: Database, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if db.engine.dialect.name != "sqlite":
        pytest.skip("the bugs are seeded in SQLite's dialect")
    place, name, wrong = SEEDED[bug]
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(AssertionError):
        check_against_the_evaluator(db, (Phase.generate,), 500)
