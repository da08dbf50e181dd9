"""Tags: what they may hold, merge patches, and that nothing changes, is audited or rings without a change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.audit import trail
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device
from cloud_hub.devices import tags
from cloud_hub.errors import HubError
from shared.twin.shadow import nesting_depth

NOW = 1_700_000_000_000_000


def changed(db: Database, patch: tags.Tags, *, whole: bool = False) -> tuple[tags.Tags, int]:
    """The tags and their version after a change of the one device."""
    with db.write() as session:
        device = session.get(Device, "press-1") or Device(id="press-1")
        tags.change(session, device, patch, NOW, actor="anna", trace="", whole=whole)
        return device.tags, device.tags_version


def test_a_patch_merges_and_null_deletes(db: Database) -> None:
    assert changed(db, {"site": "a", "line": {"no": 3, "up": True}}) == (
        {"site": "a", "line": {"no": 3, "up": True}},
        1,
    )
    assert changed(db, {"line": {"up": None}, "site": "b"}) == ({"site": "b", "line": {"no": 3}}, 2)
    assert changed(db, {"line": {"no": None}}) == ({"site": "b"}, 3)
    assert changed(db, {"x": [1, {"a": "é"}], "gone": None}, whole=True) == ({"x": [1, {"a": "é"}]}, 4)
    assert changed(db, {}, whole=True) == ({}, 5)


def test_each_change_is_in_the_audit_trail_and_what_changes_nothing_is_not(db: Database) -> None:
    changed(db, {"site": "a"})
    assert changed(db, {"site": "a", "gone": None})[1] == 1
    assert changed(db, {"site": True})[1] == 2
    assert changed(db, {"site": 1})[1] == 3, "true is not 1"
    changed(db, {"n": 2}, whole=True)
    with db.read() as session:
        rows = trail.rows(session, kind="tags.")
        assert trail.verify(session) is None
    assert [(row.kind, row.actor, row.device, row.detail) for row in rows][::3] == [
        ("tags.replaced", "anna", "press-1", {"version": 4, "tags": {"n": 2}}),
        ("tags.changed", "anna", "press-1", {"version": 1, "tags": {"site": "a"}}),
    ]
    assert len(rows) == 4


DEEP: Any = 1
for _ in range(11):
    DEEP = {"a": DEEP}
HOPELESS: Any = []
for _ in range(100_000):
    HOPELESS = [HOPELESS]


@pytest.mark.parametrize(
    ("patch", "status", "reason"),
    [
        ({"a.b": 1}, 422, "tags: a name holds no dot"),
        ({"x": {"$a": 1}}, 422, "tags.x: a name holds no dot, dollar"),
        ({"a b": 1}, 422, "space"),
        ({'a"': 1}, 422, "quote"),
        ({"a\\": 1}, 422, "backslash"),
        ({"a\n": 1}, 422, "control character"),
        ({"a\x85": 1}, 422, "control character"),
        ({"": 1}, 422, "1 to 1024 bytes"),
        ({"é" * 513: 1}, 422, "1 to 1024 bytes"),
        ({"a": "é" * 2049}, 422, "tags.a: a text has at most 4096 bytes"),
        ({"a": "x\0"}, 422, "no NUL"),
        ({"a": [{"b": float("nan")}]}, 422, "finite"),
        ({"a": 2**52}, 422, "whole numbers"),
        ({"a": [None]}, 422, "null deletes"),
        ({"a": [{"b": None}]}, 422, "null deletes"),
        (DEEP, 422, "at most 10"),
        ({"a": HOPELESS}, 422, "at most 10"),
        ({f"a{n}": "x" * 4000 for n in range(3)}, 413, "8192 bytes"),
    ],
)
def test_what_no_tag_may_be_is_refused_and_changes_nothing(db: Database, patch: Any, status: int, reason: str) -> None:
    changed(db, {"site": "a"})
    with pytest.raises(HubError, match=reason) as caught:
        changed(db, patch)
    assert caught.value.status == status
    assert changed(db, {}) == ({"site": "a"}, 1)


def test_the_limit_is_on_all_tags_together(db: Database) -> None:
    changed(db, {"a": "x" * 4000, "b": "x" * 4000})
    with pytest.raises(HubError, match="8192 bytes"):
        changed(db, {"c": "x" * 1000})
    assert changed(db, {"a": None, "c": "x" * 1000})[1] == 2


def test_depth_is_judged_after_the_merge_too(db: Database) -> None:
    assert changed(db, DEEP["a"])[1] == 1
    assert nesting_depth(changed(db, {})[0]) == 10


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='.$ "\\'), min_size=1, max_size=5)
VALUES = st.recursive(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5), st.booleans(),
              st.integers(-(2**52), 2**52 - 1), st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAMES, inner, max_size=2)), max_leaves=5,
)  # fmt: skip


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_tags_may_hold_is_let_in(patch: tags.Tags) -> None:
    tags.check(patch)
