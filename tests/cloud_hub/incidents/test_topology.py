"""Which failed device explains which silence: properties of any topology, and the incidents of a real database."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from simulators.births import born
from sqlmodel import select

from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Dependency, Device, Incident
from cloud_hub.decommissioning import service as decommissioning
from cloud_hub.devices import dependencies, tags
from cloud_hub.errors import HubError
from cloud_hub.incidents import groups, regrouping
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.core import topology
from cloud_hub.incidents.core.topology import Graph
from shared.protocol.messages import Alarm, Birth

NOW = 1_800_000_000_000_000
MINUTE = 60_000_000
NAMES = ["a", "b", "c", "d", "e", "f"]
FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)
GRAPHS = st.dictionaries(st.sampled_from(NAMES), st.frozensets(st.sampled_from(NAMES), max_size=3))
"""Any edges: circles, self loops, islands."""
FAILED = st.frozensets(st.sampled_from(NAMES))
Explain = Callable[[str, Graph, Collection[str]], str | None]


def walked(edges: Mapping[str, Collection[str]], start: str) -> Graph:
    return topology.walk(start, lambda level: {name: edges.get(name, ()) for name in level})


def check(explain: Explain, edges: Mapping[str, Collection[str]], failed: frozenset[str]) -> None:
    """A cause is a failed device above; no failed device explains a cause; those of a circle agree on one."""
    causes = {name: explain(name, walked(edges, name), failed) for name in sorted(failed)}
    for name, cause in causes.items():
        above = topology.reachable(name, walked(edges, name))
        if cause is None:  # it leads: whatever failed above it lies in a circle with it
            assert all(name in topology.reachable(other, walked(edges, other)) for other in above & failed)
        else:
            assert cause in above & failed
            assert cause != name
            assert causes[cause] is None, "a cause that something else explains is not the cause"


@FIXED
@given(GRAPHS, FAILED)
def test_a_cause_is_a_failed_device_above_that_nothing_else_explains(edges: Any, failed: frozenset[str]) -> None:
    check(topology.explaining, edges, failed)


def nearest(device: str, graph: Graph, failed: Collection[str]) -> str | None:
    """Seeded bug: the next failed device, though a router behind it failed too."""
    return min(set(graph.get(device, ())) & set(failed), default=None)


def any_above(device: str, graph: Graph, failed: Collection[str]) -> str | None:
    """Seeded bug: no order among the failed devices above."""
    return min(topology.reachable(device, graph) & set(failed), default=None)


@pytest.mark.parametrize("bug", [nearest, any_above])
def test_the_checker_catches(bug: Explain) -> None:
    @settings(FIXED, max_examples=3000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(GRAPHS, FAILED)
    def run(edges: Any, failed: frozenset[str]) -> None:
        check(bug, edges, failed)

    with pytest.raises(AssertionError):
        run()


def test_a_walk_is_bounded_in_depth_devices_and_questions() -> None:
    asked: list[list[str]] = []

    def wide(level: Collection[str]) -> dict[str, list[str]]:
        asked.append(list(level))
        return {name: [f"{name}{n}" for n in range(10)] + [name] for name in level}

    graph = topology.walk("x", wide)
    assert len(graph) <= topology.MAX_UPSTREAM
    assert len(asked) <= topology.MAX_DEPTH
    assert len(set(itertools.chain(*asked))) == sum(map(len, asked)), "no device is asked about twice"
    chain = topology.walk("n0", lambda level: {name: [f"n{int(name[1:]) + 1}"] for name in level})
    assert len(chain) == topology.MAX_DEPTH


@pytest.mark.parametrize(
    ("value", "edges"),
    [
        ("switch-3", {("x", "switch-3")}),
        (" switch-3 , router-1,", {("x", "switch-3"), ("x", "router-1")}),
        (["switch-3", 7, None, ""], {("x", "switch-3")}),
        ("x", set()),
        ({"switch-3": 1}, set()),
        ("'; DROP TABLE devices; --", set()),
        ("<script>,../../etc,SWITCH,\u202eswitch", set()),
        (",".join(f"s{n}" for n in range(1000)), {("x", f"s{n}") for n in range(dependencies.MAX_NAMES)}),
    ],
    ids=["one", "several", "a list", "itself", "no list", "sql", "hostile texts", "too many"],
)
def test_only_device_ids_in_the_tag_make_edges(value: Any, edges: set[tuple[str, str]]) -> None:
    assert dependencies.edges("x", {"depends_on": value}) == edges


def test_the_tag_feeds_names_asset_paths() -> None:
    assert dependencies.edges("s", {"feeds": "acme/a/hall-2, /bad/, acme"}) == {("acme/a/hall-2/", "s"), ("acme/", "s")}


# -- with a database ---------------------------------------------------------------------------------


def add_device(db: Database, name: str, path: str = "", **tag: Any) -> None:
    with db.write() as session:
        born(session, Birth(device=name, session="s", epoch="e"), NOW)
        session.get_one(Device, name).assigned_path = path
        if tag:
            tags.change(session, session.get_one(Device, name), tag, NOW, actor="anna")


def fail(db: Database, name: str, t_us: int = NOW, metric: str = "", about: Any = "no-data") -> None:
    with db.write() as session:
        alarm = Alarm(id=new_id(), metric=metric or f"m.{name}", kind="high", state="raised", priority="high",
                      t_us=t_us, value=60.0, limit=30.0, about=about)  # fmt: skip
        incidents.handle_alarm(session, name, alarm, t_us, "")


def group(db: Database) -> None:
    """Run the worker until nothing is due; it must come to an end."""
    for _ in range(200):
        if not regrouping.run_once(db, NOW).again:
            return
    raise AssertionError("the worker does not come to an end")


def by_device(db: Database) -> dict[str, Incident]:
    with db.read() as session:
        return {row.device: row for row in session.exec(select(Incident))}


@pytest.mark.sql
def test_a_switch_that_fails_later_leads_forty_silent_devices(db: Database) -> None:
    add_device(db, "switch-3")
    for n in range(40):  # ten minutes apart, and of no site: nothing else groups them
        add_device(db, f"press-{n}", depends_on="switch-3")
        fail(db, f"press-{n}", NOW + n * 10 * MINUTE)
    group(db)
    assert len({row.page for row in by_device(db).values()}) == 40
    first = by_device(db)["press-0"].id
    fail(db, "switch-3", NOW + 400 * MINUTE)
    group(db)
    rows = by_device(db)
    assert {row.page for row in rows.values()} == {first}, "the page that was notified first goes on"
    assert [name for name, row in rows.items() if row.leads] == ["switch-3"]
    assert rows["press-7"].joined_because == "depends on switch-3, which is silent"
    with db.read() as session:
        assert [row.device for row in groups.list_leads(session, 100)] == ["switch-3"]
        assert groups.summaries(session, [first])[first].members == 41


def test_what_is_silent_later_joins_and_what_is_not_silent_does_not(db: Database) -> None:
    add_device(db, "switch-3", feeds="acme/a/hall-2")
    add_device(db, "press-1", "acme/a/hall-2/line-1")
    add_device(db, "press-2", "acme/a/hall-2")
    add_device(db, "press-3", "acme/a/hall-22")
    fail(db, "switch-3")
    fail(db, "press-1", NOW + 90 * MINUTE)
    fail(db, "press-2", NOW + 180 * MINUTE, "cpu.load", "")
    fail(db, "press-3", NOW + 270 * MINUTE)
    group(db)
    rows = by_device(db)
    assert rows["press-1"].page == rows["switch-3"].page
    assert len({rows[name].page for name in ("switch-3", "press-2", "press-3")}) == 3
    assert rows["switch-3"].leads


def test_an_offline_switch_without_an_alarm_explains_too(db: Database) -> None:
    add_device(db, "switch-3")
    for name in ("press-1", "press-2"):
        add_device(db, name, depends_on="switch-3")
    with db.write() as session:
        born(session, Birth(device="switch-3", session="s", epoch="e", state="offline"), NOW)
    fail(db, "press-1")
    fail(db, "press-2", NOW + 90 * MINUTE)
    group(db)
    rows = by_device(db)
    assert rows["press-2"].page == rows["press-1"].page == rows["press-1"].id
    assert rows["press-2"].joined_because == "depends on switch-3, which is offline"


def test_of_a_switch_and_its_router_the_router_leads(db: Database) -> None:
    add_device(db, "router-1")
    add_device(db, "switch-3", depends_on="router-1")
    add_device(db, "press-1", depends_on="switch-3")
    for n, name in enumerate(("press-1", "switch-3", "router-1")):
        fail(db, name, NOW + n * 90 * MINUTE)
        group(db)
    rows = by_device(db)
    assert len({row.page for row in rows.values()}) == 1
    assert [name for name, row in rows.items() if row.leads] == ["router-1"]


def partition(db: Database) -> tuple[set[frozenset[str]], set[str]]:
    """The devices of each group, and those that lead one."""
    rows = by_device(db)
    pages: dict[str, set[str]] = {}
    for name, row in rows.items():
        pages.setdefault(row.page, set()).add(name)
    assert all(sum(rows[name].leads for name in names) == 1 for names in pages.values())
    return {frozenset(names) for names in pages.values()}, {name for name, row in rows.items() if row.leads}


@pytest.mark.one_database
def test_the_order_of_arrival_does_not_change_the_groups_of_a_forest(db: Database) -> None:
    draw = random.Random(7)
    above: dict[str, str] = {}
    for n in range(12):
        name = f"d{n}"
        if n >= 2:
            above[name] = f"d{draw.randrange(n)}"
        add_device(db, name, **({"depends_on": above[name]} if name in above else {}))
    expected: set[frozenset[str]] | None = None
    failed = sorted(draw.sample([f"d{n}" for n in range(12)], 9))
    for _ in range(6):
        order = draw.sample(failed, len(failed))
        for n, name in enumerate(order):
            fail(db, name, NOW + n * 90 * MINUTE)
            if draw.random() < 0.5:
                group(db)
        group(db)
        found, leading = partition(db)
        roots = {name for name in failed if not set(chain(above, name)) & set(failed)}
        assert leading == roots
        expected = expected or found
        assert found == expected
        with db.write() as session:
            for row in session.exec(select(Incident)):
                session.delete(row)


def chain(above: Mapping[str, str], name: str) -> list[str]:
    names = []
    while name in above:
        name = above[name]
        names.append(name)
    return names


@pytest.mark.one_database
@pytest.mark.parametrize("seed", range(4))
def test_circles_and_loops_come_to_an_end_with_one_lead_a_group(db: Database, seed: int) -> None:
    draw = random.Random(seed)
    for name in NAMES:
        add_device(db, name, depends_on=draw.choices(NAMES, k=2))
    for n, name in enumerate(draw.sample(NAMES, 5)):
        fail(db, name, NOW + n * 90 * MINUTE)
        group(db)
    partition(db)


def test_a_removed_device_takes_its_edges_along_and_brings_them_back(db: Database) -> None:
    add_device(db, "press-1", depends_on="switch-3")

    def edges() -> list[tuple[str, str]]:
        with db.read() as session:
            return [(row.subject, row.depends_on) for row in session.exec(select(Dependency))]

    assert edges() == [("press-1", "switch-3")]
    with db.write() as session:
        decommissioning.remove(session, "press-1", NOW, actor="anna")
    assert edges() == []
    with db.write() as session:
        decommissioning.restore(session, "press-1", NOW, actor="anna")
    assert edges() == [("press-1", "switch-3")]


# -- whatever people and devices do ------------------------------------------------------------------


class Desk:
    """A hub that people and devices use at random. `placed` is what people decided: (incident, page's members then)."""

    def __init__(self, db: Database, seed: int) -> None:
        self.db, self.draw, self.now = db, random.Random(seed), NOW
        self.apart: set[frozenset[str]] = set()
        """Pairs of incidents that a person split and nobody merged since."""
        for name in NAMES:
            add_device(db, name, "acme/a", depends_on=self.draw.choices(NAMES, k=2))

    def rows(self) -> list[Incident]:
        with self.db.read() as session:
            return list(session.exec(select(Incident).order_by(Incident.id)))

    def step(self) -> None:
        self.now += self.draw.choice([1, 5, 90]) * MINUTE
        rows = self.rows()
        do = self.draw.choice([self.alarm, self.alarm, self.clear, self.merge, self.split])
        if do == self.alarm or len(rows) > 1:
            do(rows)
        group(self.db)
        self.check()

    def alarm(self, _rows: list[Incident]) -> None:
        silent = self.draw.random() < 0.8
        fail(self.db, self.draw.choice(NAMES), self.now, f"{self.draw.choice('xyz')}.m", "no-data" if silent else "")

    def clear(self, rows: list[Incident]) -> None:
        with self.db.write() as session, suppress(HubError):
            incidents.resolve(session, self.draw.choice(rows).id, self.now, actor="anna", reason="done")

    def merge(self, rows: list[Incident]) -> None:
        one, other = self.draw.sample(rows, 2)
        with suppress(HubError):
            with self.db.write() as session:
                groups.merge(session, one.id, [other.id], self.now, actor="anna", reason="one")
            together = {row.id for row in self.rows() if row.page == one.page}
            self.apart = {pair for pair in self.apart if not pair <= together}

    def split(self, rows: list[Incident]) -> None:
        one = self.draw.choice(rows)
        with suppress(HubError):
            with self.db.write() as session:
                groups.split(session, one.id, [], self.now, actor="anna", reason="two")
            self.apart |= {frozenset({one.id, row.id}) for row in rows if row.page == one.page and row.id != one.id}

    def check(self) -> None:
        rows = {row.id: row for row in self.rows()}
        pages: dict[str, list[Incident]] = {}
        for row in rows.values():
            pages.setdefault(row.page, []).append(row)
        for page, members in pages.items():
            assert sum(row.leads for row in members) == 1, "one member leads"
            assert page in {row.id for row in members}, "a group has the id of a member"
        for one, other in self.apart:
            if not (rows[one].placed_by and rows[other].placed_by):
                assert rows[one].page != rows[other].page, "what a person split stays apart"


@pytest.mark.one_database
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_group_has_one_lead_and_what_a_person_split_stays_apart(db: Database, seed: int) -> None:
    desk = Desk(db, seed)
    for _ in range(40):
        desk.step()
    assert desk.apart


@pytest.mark.one_database
def test_the_check_of_the_groups_catches_a_split_that_is_not_remembered(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = groups.split

    def forgetful(session: Any, incident_id: str, *rest: Any, **more: Any) -> Incident:
        row = honest(session, incident_id, *rest, **more)
        row.placed_by, row.grouped_us = "", None
        session.add(row)
        return row

    def run() -> None:
        for seed in (1, 2, 3):
            test_every_group_has_one_lead_and_what_a_person_split_stays_apart(db, seed)

    monkeypatch.setattr(groups, "split", forgetful)
    with pytest.raises(AssertionError, match="stays apart"):
        run()
