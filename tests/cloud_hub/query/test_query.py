"""Queries on real databases: the same devices as a plain evaluator finds, pages, counts, and text that means harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from simulators.queries import SMALL, conditions, fleets, meaning, small_conditions, written
from sqlalchemy import case, false, func, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from cloud_hub import query
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, TwinRow
from cloud_hub.errors import HubError
from cloud_hub.query import sql, values
from cloud_hub.query.core.tree import FIELDS

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
    view |= {
        "id": f"d{number}",
        "profile": "",
        "asset_path": "",
        "assigned_path": "",
        "born_us": 0,
        "deleted": drawn["deleted"],
    }
    view |= drawn["classic"] or {}
    return view | {"shadow": {} if drawn["gates"] is None else {"gates": drawn["gates"]}}


def check_against_the_evaluator(
    db: Database, world: tuple[Any, Any], phases: tuple[Phase, ...] = tuple(Phase), examples: int = 60
) -> None:
    @hypothesis_settings(
        max_examples=examples, phases=phases, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    @given(world[0], st.lists(world[1], min_size=8, max_size=16))
    def holds(drawn: list[dict[str, Any]], wanted: list[Any]) -> None:
        views = [view_of(number, one) for number, one in enumerate(drawn)]
        with filled(db, views) as session:
            for one in wanted:
                expected = [view["id"] for view in views if meaning(view, one) is True]
                assert query.devices(session, written(one)) == expected, written(one)

    holds()


def test_sql_finds_the_devices_that_the_evaluator_finds(db: Database) -> None:
    check_against_the_evaluator(db, (fleets(), conditions()))


def _nothing_undefined(whens: Any) -> Any:
    return case(*whens, else_=false()) if whens else false()


def _like(found: Any, part: str) -> Any:
    return found.like("%" + part + "%")


def _number_or_true(self: Any, kind: str) -> Any:
    return func.jsonb_typeof(self._value).in_(["number", "boolean"] if kind == "number" else [kind])


SEEDED: dict[str, list[tuple[Any, str, Any]]] = {
    "undefined is false, so NOT of it is true": [(sql, "_first", _nothing_undefined)],
    "a deleted document is seen": [(sql.Statement, "living", staticmethod(lambda twin: twin.c.deleted.is_not(None)))],
    "types are not looked at": [
        (values, "_SQLITE_TYPES", {}), (values._PostgresJson, "has", lambda self, _kind: self.defined()),
    ],
    "true is a number": [
        (values, "_SQLITE_TYPES", values._SQLITE_TYPES | {"number": ("integer", "real", "true", "false")}),
        (values._PostgresJson, "has", _number_or_true),
    ],
    "% is any text": [
        (values.Sqlite, "contains", staticmethod(_like)), (values.Postgres, "contains", staticmethod(_like)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("bug", SEEDED)
def test_a_seeded_bug_is_caught(db: Database, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name, wrong in SEEDED[bug]:
        monkeypatch.setattr(place, name, wrong)
    with pytest.raises((AssertionError, DBAPIError)):  # PostgreSQL itself refuses to read true as a number
        check_against_the_evaluator(db, (fleets(SMALL), small_conditions()), (Phase.generate,), 300)


# -- what the answers look like ----------------------------------------------------------------------

FLEET: list[View] = [
    {"id": "press-1", "state": "online", "tags": {"site": "a", "n": 1}, "desired": {"period_s": 5},
     "reported": {"agent": {"version": "1.2"}, "load": 0.5}, "shadow": {"gates": {"desired": {"x": [1]}}}},
    {"id": "press-2", "tags": {"site": "a", "n": 2.5}, "reported": {"agent": {"version": "1.3"}, "load": True}},
    {"id": "press-3", "tags": {"site": "b", "n": "3"}, "reported": {"agent": {"version": "1.2"}, "load": 1}},
    {"id": "press-4", "tags": {}, "seen_us": 1_700_000_000_000_000, "reported": {"load": 1.0}},
    {"id": "press-5", "tags": {"site": {"no": "text"}}, "seen_us": 1_700_000_000_000_001},
]  # fmt: skip


@pytest.fixture
def fleet(db: Database) -> Iterator[Session]:
    with filled(db, FLEET) as session:
        yield session


def rows(session: Session, asked: str, limit: int = 100) -> list[View]:
    """All rows, page by page."""
    found, after = [], ""
    while True:
        page = query.run(session, asked, limit=limit, after=after)
        assert len(page.rows) <= limit
        found += page.rows
        after = page.next
        if not after:
            return found


def test_a_star_shows_the_device_by_the_names_that_queries_use(fleet: Session) -> None:
    first, *_, last = rows(fleet, "SELECT * FROM devices")
    assert first == {
        "id": "press-1", "state": "online", "profile": "", "version": "", "asset_path": "", "assigned_path": "",
            "born_us": 0, "seen_us": 0,
        "tags": {"site": "a", "n": 1}, "desired": {"period_s": 5},
        "reported": {"agent": {"version": "1.2"}, "load": 0.5}, "shadow": {"gates": {"desired": {"x": [1]}}},
    }  # fmt: skip
    assert "reported" not in last
    assert last["shadow"] == {}


def test_columns_are_what_is_there_in_its_own_type(fleet: Session) -> None:
    asked = "SELECT id, reported.load AS load, tags.site, shadow.gates.desired.x AS x FROM devices"
    assert rows(fleet, asked) == [
        {"id": "press-1", "load": 0.5, "site": "a", "x": [1]}, {"id": "press-2", "load": True, "site": "a"},
        {"id": "press-3", "load": 1, "site": "b"}, {"id": "press-4", "load": 1.0},
        {"id": "press-5", "site": {"no": "text"}},
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
@pytest.mark.parametrize("order", ["", "ORDER BY id", "ORDER BY id DESC"])
def test_pages_join_without_a_gap(fleet: Session, limit: int, order: str) -> None:
    found = [row["id"] for row in rows(fleet, f"SELECT id FROM devices {order}", limit)]
    assert found == sorted(found, reverse="DESC" in order)
    assert len(found) == 5


def test_a_device_that_comes_between_two_pages_moves_nothing(fleet: Session) -> None:
    page = query.run(fleet, "SELECT id FROM devices", limit=2)
    fleet.add(Device(id="press-0"))
    fleet.flush()
    rest = query.run(fleet, "SELECT id FROM devices", limit=9, after=page.next)
    assert [row["id"] for row in rest.rows] == ["press-3", "press-4", "press-5"]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_groups_are_counted_by_type_and_value(fleet: Session, limit: int) -> None:
    """1 and 1.0 are one group, true is another, and what is missing or no primitive is the group without a name."""
    counted = rows(fleet, "SELECT reported.load AS load, COUNT() AS n FROM devices GROUP BY reported.load", limit)
    assert sorted(counted, key=repr) == sorted(
        [{"load": True, "n": 1}, {"load": 0.5, "n": 1}, {"load": 1, "n": 2}, {"n": 1}], key=repr
    )
    sites = rows(fleet, "SELECT tags.site, COUNT() FROM devices GROUP BY tags.site", limit)
    assert sorted(sites, key=repr) == [{"count": 2}, {"site": "a", "count": 2}, {"site": "b", "count": 1}]
    assert [type(row["load"]) for row in counted if row.get("load") is True] == [bool]


def test_aggregates_are_over_numbers_only(fleet: Session) -> None:
    told = "SUM(tags.n), AVG(tags.n), MIN(tags.n), MAX(tags.n), COUNT()"
    assert rows(fleet, f"SELECT {told} FROM devices") == [
        {"sum": 3.5, "avg": 1.75, "min": 1, "max": 2.5, "count": 5}
    ]  # fmt: skip
    assert rows(fleet, f"SELECT {told} FROM devices WHERE tags.site = 'b'") == [{"count": 1}]
    assert rows(fleet, "SELECT MAX(seen_us) AS m, SUM(id) AS s FROM devices") == [{"m": 1_700_000_000_000_001}]


def test_a_sum_beyond_64_bits_is_a_number(db: Database) -> None:
    fleet = [{"id": f"d{number}", "tags": {"n": 2**62}, "seen_us": 2**62} for number in range(4)]
    with filled(db, fleet) as session:
        assert rows(session, "SELECT SUM(tags.n) AS a, SUM(seen_us) AS b FROM devices") == [
            {"a": float(2**64), "b": float(2**64)}
        ]  # fmt: skip


def test_a_group_of_two_paths(fleet: Session) -> None:
    head = "SELECT tags.site AS s, state, COUNT() AS n FROM devices"
    asked = f"{head} WHERE is_string(tags.site) GROUP BY tags.site, state"
    assert sorted(rows(fleet, asked, 2), key=repr) == [
        {"s": "a", "state": "offline", "n": 1}, {"s": "a", "state": "online", "n": 1},
        {"s": "b", "state": "offline", "n": 1},
    ]  # fmt: skip


def test_a_page_of_groups_that_never_was_is_refused(fleet: Session) -> None:
    with pytest.raises(HubError, match="what the page before gave") as caught:
        query.run(fleet, "SELECT COUNT() FROM devices", limit=1, after="press-1")
    assert caught.value.status == 400


def test_devices_of_some_after_one_at_most_so_many(fleet: Session) -> None:
    everyone = [view["id"] for view in FLEET]
    assert query.devices(fleet, "*") == everyone
    assert query.devices(fleet, "SELECT id FROM devices WHERE tags.site = 'a'") == everyone[:2]
    assert query.devices(fleet, "*", after="press-2", limit=2) == everyone[2:4]
    assert query.devices(fleet, "tags.site = 'a'", only={"press-2", "press-3", "o'neil", "\\"}) == ["press-2"]
    assert query.devices(fleet, "*", only=[]) == []
    assert query.devices(fleet, "*", only=[f"d{n}" for n in range(70_000)] + ["press-1"]) == ["press-1"]
    assert (query.count(fleet, "*"), query.count(fleet, "tags.site = 'a'")) == (5, 2)


def test_an_error_is_400_and_points_at_the_place(fleet: Session) -> None:
    with pytest.raises(HubError) as caught:
        query.devices(fleet, "tags.site = 'a' AND")
    assert (caught.value.status, caught.value.title) == (400, "The query cannot be read")
    assert "line 1, column 20: expected a condition" in caught.value.detail


# -- text that means harm ----------------------------------------------------------------------------

NASTY = ["'; DROP TABLE devices; --", '"', "\\", "\\'", "/* */", "a' OR '1'='1", "%", "_", "%%", "${x}", "{0}", ":id",
         "%(name)s", "?", "$1", "é", "𝄞", "\u2028", "\x7f", "\t", "a\nb", "[[", "]]", "$.a", '$."a"', "#>>",
         "NULL"]  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY)
def test_text_is_only_text(db: Database, nasty: str) -> None:
    fleet = [
        {"id": f"d{number}", "tags": {"a": found}} for number, found in enumerate((nasty, f"x{nasty}y", "x"), start=1)
    ]
    said = "'" + nasty.replace("\\", "\\\\").replace("'", "\\'") + "'"
    with filled(db, fleet) as session:
        assert query.devices(session, f"tags.a = {said}") == ["d1"]
        assert query.devices(session, f"tags.a IN [{said}, 'x']") == ["d1", "d3"]
        assert query.devices(session, f"startswith(tags.a, {said})") == ["d1"]
        assert query.devices(session, f"endswith(tags.a, {said})") == ["d1"]
        assert query.devices(session, f"contains(tags.a, {said})") == ["d1", "d2"]
        assert query.devices(session, f"id = {said} OR asset_path = {said}") == []
        assert rows(session, f"SELECT COUNT() AS n FROM devices WHERE tags.a != {said}") == [{"n": 2}]
        assert session.connection().execute(text("SELECT count(*) FROM devices")).scalar_one() == 3


@pytest.mark.parametrize("nasty", [name for name in NASTY if not set(name) & set('"\\\t\n') and name != "]]"])
def test_a_name_is_only_a_name(db: Database, nasty: str) -> None:
    fleet = [{"id": "d1", "tags": {nasty: {nasty: 1}}, "shadow": {"gates": {"reported": {nasty: 1}}}}, {"id": "d2"}]
    with filled(db, fleet) as session:
        for path in (f"tags.[[{nasty}]].[[{nasty}]]", f"shadow.gates.reported.[[{nasty}]]"):
            assert query.devices(session, f"{path} = 1") == ["d1"]
            grouped = rows(session, f"SELECT {path} AS [[{nasty}]], COUNT() AS n FROM devices GROUP BY {path}")
            assert {nasty: 1, "n": 1} in grouped


def test_a_name_is_no_place_in_an_array(db: Database) -> None:
    with filled(db, [{"id": "d1", "tags": {"a": ["x", {"b": 1}]}}]) as session:
        for path in ("tags.a.[[0]]", "tags.a.[[-1]]", "tags.[[a[0]]]", "tags.[[a.0]]", "tags.a.[[#-1]]"):
            assert query.devices(session, f"is_defined({path})") == []
        assert query.devices(session, "is_array(tags.a) AND NOT tags.a = 'x'") == []


def test_the_longest_query_that_may_be_is_answered(db: Database) -> None:
    deep = "NOT (" * 15 + "tags.a = 1" + ")" * 15
    wide = " OR ".join([f"(tags.a = {n} AND contains(desired.b, 'x'))" for n in range(30)])
    listed = f"tags.a IN [{','.join(map(str, range(1000)))}]"
    with filled(db, [{"id": "d1", "tags": {"a": 999}, "desired": {"b": "x"}}]) as session:
        assert query.devices(session, deep) == ["d1"]
        assert query.devices(session, wide) == []
        assert query.devices(session, listed) == ["d1"]
