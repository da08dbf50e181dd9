"""The device's side of the twin, rule by rule. Whole worlds stand in test_twin_worlds.py."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.twin.core.document import MAX_REFUSALS, Deferred, Document
from edge_agent.twin.core.twin import DeviceTwin, Effect, Fetch, Remember, Report, RequestDesired
from shared.protocol.messages import Applied
from shared.twin import shadow
from shared.twin.shadow import State

Json = Any


class Thing:
    """Something with values in force; refuses what is above 9 or not in the right shape."""

    def __init__(self, *keys: str) -> None:
        self.in_force: dict[str, Json] = {}
        self.calls: list[str] = []
        self.keys = keys

    def attach(self, twin: DeviceTwin, name: str = "") -> None:
        for key in self.keys:
            twin.handle(name, key, lambda value, key=key: self.act(key, value))  # type: ignore[misc]

    def act(self, key: str, value: Json) -> Json:
        self.calls.append(key)
        if max(values(value), default=0) > 9:
            raise ValueError(f"{key} must be at most 9")
        self.in_force[key] = value
        return value


def values(value: Json) -> list[Json]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for one in inner for leaf in values(one)]


def attached(*keys: str, kept: State | None = None) -> tuple[DeviceTwin, Thing]:
    twin, thing = DeviceTwin({"": kept} if kept else {}), Thing(*(keys or ("speed", "list", "nest")))
    thing.attach(twin)
    twin.begin()
    return twin, thing


def progress(effects: list[Effect]) -> list[tuple[str, str, str, int]]:
    return [(e.path, e.state, e.reason, e.version) for e in effects if isinstance(e, Applied)]


def reports(effects: list[Effect]) -> list[Json]:
    return [e.reported for e in effects if isinstance(e, Report)]


def desires(effects: list[Effect]) -> list[tuple[Json, int | None]]:
    return [(e.desired, e.version) for e in effects if isinstance(e, RequestDesired)]


# -- deltas --------------------------------------------------------------------------------------------


def test_a_delta_is_put_in_force_remembered_and_reported_before_progress_is_told() -> None:
    twin, thing = attached()
    effects = twin.delta("", 3, {"speed": 5})
    assert thing.in_force == {"speed": 5}
    assert effects == [
        Remember(name=""),
        Report(name="", reported={"speed": 5}),
        Applied(shadow="", version=3, path="speed", state="verified"),
    ]
    assert (twin.documents[""].version, twin.documents[""].desired) == (3, {"speed": 5})


def test_what_is_older_than_seen_is_ignored() -> None:
    twin, thing = attached()
    twin.delta("", 5, {"speed": 5})
    assert twin.delta("", 4, {"speed": 1}) == []
    assert twin.fetched("", 4, {"speed": 1}, {}) == []
    assert twin.accepted("", 4, {"desired": {"speed": 1}}) == []
    assert (thing.in_force, thing.calls) == ({"speed": 5}, ["speed"])
    assert twin.documents[""].desired == {"speed": 5}


def test_the_same_version_again_changes_nothing_that_is_reported() -> None:
    twin, _ = attached()
    twin.delta("", 5, {"speed": 5})
    assert reports(twin.delta("", 5, {"speed": 5})) == []


def test_after_another_life_of_the_hub_lower_versions_count_again() -> None:
    twin, thing = attached()
    twin.delta("", 50, {"speed": 5})
    twin.hub_changed()
    effects = twin.fetched("", 2, {"speed": 7}, {"speed": 1})
    assert thing.in_force == {"speed": 7}
    assert {"speed": 7} in reports(effects)
    assert twin.documents[""].version == 2


def test_a_gap_heals_because_a_delta_holds_every_difference() -> None:
    twin, thing = attached()
    stored, _ = shadow.update(shadow.Document(), b'{"state":{"desired":{"speed":1}}}', 1)
    stored, _ = shadow.update(stored, b'{"state":{"desired":{"list":[1,2]}}}', 2)  # this delta and the last are lost
    stored, replies = shadow.update(stored, b'{"state":{"desired":{"nest":{"a":3}}}}', 3)
    body = next(reply.body for reply in replies if reply.verb == "update/delta")
    twin.delta("", body["version"], body["state"])
    assert thing.in_force == {"speed": 1, "list": [1, 2], "nest": {"a": 3}}


def test_arrays_are_whole_and_objects_are_merged() -> None:
    twin, thing = attached()
    twin.delta("", 1, {"list": [1, 2, 3], "nest": {"a": 1, "b": {"c": 2}}})
    effects = twin.delta("", 2, {"list": [3], "nest": {"b": {"c": 5}}})
    assert thing.in_force == {"list": [3], "nest": {"a": 1, "b": {"c": 5}}}
    assert reports(effects) == [{"list": [3], "nest": {"b": {"c": 5}}}]
    assert [path for path, _, _, _ in progress(effects)] == ["list", "nest.b.c"], "a word for each leaf of the delta"


# -- handlers ------------------------------------------------------------------------------------------


def test_a_refusal_leaves_reported_untouched_and_says_why() -> None:
    twin, thing = attached()
    twin.delta("", 1, {"speed": 5})
    effects = twin.delta("", 2, {"speed": 10})
    assert reports(effects) == []
    assert progress(effects) == [("speed", "refused", "speed must be at most 9", 2)]
    assert twin.documents[""].reported == {"speed": 5} == thing.in_force
    assert twin.documents[""].desired == {"speed": 10}


def test_what_nothing_handles_is_refused_leaf_by_leaf_and_the_rest_goes_on() -> None:
    twin, thing = attached()
    effects = twin.delta("", 1, {"colour": {"hue": 1, "all": [1, 2]}, "speed": 2})
    reason = "nothing on this device handles it; it handles speed, list, nest"
    assert ("colour.hue", "refused", reason, 1) in progress(effects)
    assert ("colour.all", "refused", reason, 1) in progress(effects)
    assert thing.in_force == {"speed": 2}
    assert reports(effects) == [{"speed": 2}]


def test_a_document_that_nothing_handles_is_refused_and_not_kept() -> None:
    twin, _ = attached()
    effects = twin.delta("threshold", 4, {"limits": []})
    assert progress(effects) == [
        ("limits", "refused", "nothing on this device handles it; it handles speed, list, nest", 4)
    ]
    assert len(effects) == 1
    assert "threshold" not in twin.documents


def test_a_flood_of_unknown_leaves_is_answered_by_a_few_words() -> None:
    twin, _ = attached()
    words = progress(twin.delta("", 1, {f"k{n}": n for n in range(5000)}))
    assert len(words) == MAX_REFUSALS
    assert "nor 4936 more leaves" in words[-1][2]


def test_a_value_that_was_put_in_force_otherwise_is_applied_not_verified() -> None:
    twin = DeviceTwin({})
    twin.handle("", "engine", lambda value: value | {"speed": min(value["speed"], 9)})
    effects = twin.delta("", 1, {"engine": {"speed": 12, "gear": 2}})
    assert [(path, state) for path, state, _, _ in progress(effects)] == [
        ("engine.speed", "applied"), ("engine.gear", "verified")]  # fmt: skip
    assert reports(effects) == [{"engine": {"speed": 9, "gear": 2}}]


@pytest.mark.parametrize("value", [5, None, [], "x", {"speed": "fast"}])
def test_a_value_of_another_shape_is_refused_even_by_a_careless_handler(value: Json) -> None:
    twin = DeviceTwin({})
    twin.handle("", "engine", lambda value: {"speed": value["speed"] + 1})
    effects = twin.delta("", 1, {"engine": value})
    assert {state for _, state, _, _ in progress(effects)} <= {"refused"}
    assert reports(effects) == []


def test_the_deepest_handler_gets_its_subtree_and_the_upper_one_the_rest() -> None:
    twin, upper, lower = DeviceTwin({}), list[Json](), list[Json]()
    twin.handle("", ("nest",), lambda value: upper.append(value) or value)  # type: ignore[func-returns-value]
    twin.handle("", ("nest", "a", "b"), lambda value: lower.append(value) or value)  # type: ignore[func-returns-value]
    effects = twin.delta("", 1, {"nest": {"a": {"b": 1, "c": 2}, "d": 3}})
    assert (upper, lower) == ([{"a": {"c": 2}, "d": 3}], [1])
    assert reports(effects) == [{"nest": {"a": {"b": 1, "c": 2}, "d": 3}}]
    twin.delta("", 2, {"nest": {"a": {"b": 9}}})
    assert (len(upper), lower) == (1, [1, 9]), "only whose part it is must act"
    effects = twin.delta("", 3, {"nest": 5})
    assert "must be an object" in progress(effects)[0][2]


def test_later_is_told_as_received_and_asked_again() -> None:
    twin, ready = DeviceTwin({}), list[int]()

    def slow(value: Json) -> Json:
        if value not in ready:
            raise Deferred("downloading")
        return value

    twin.handle("", "model", slow)
    assert progress(twin.delta("", 1, {"model": 7})) == [("model", "received", "downloading", 1)]
    twin.delta("", 2, {"model": 8})
    ready += [7, 8]
    effects = twin.retry("", "model")
    assert progress(effects) == [("model", "verified", "", 2)], "what is desired by then counts"
    assert reports(effects) == [{"model": 8}]


def test_documents_do_not_touch_one_another() -> None:
    twin, thing = attached("speed")
    gates = Thing("speed")
    gates.attach(twin, "gates")
    twin.delta("gates", 9, {"speed": 2})
    assert (thing.in_force, gates.in_force) == ({}, {"speed": 2})
    assert twin.documents[""].version == 0


# -- boot ----------------------------------------------------------------------------------------------


def test_a_kept_wish_is_put_in_force_at_boot_without_network() -> None:
    twin, thing = attached(kept={"version": 7, "desired": {"speed": 4, "colour": "red"}, "reported": {"speed": 4}})
    assert thing.in_force == {"speed": 4}
    assert twin.delta("", 6, {"speed": 1}) == [], "the version was kept too"


def test_a_kept_wish_that_is_now_refused_does_not_stop_the_boot() -> None:
    twin, thing = attached(kept={"version": 7, "desired": {"speed": 99}})
    assert thing.in_force == {}
    assert progress(twin.fetched("", 7, {"speed": 99}, {}))[-1][1] == "refused"


def test_what_is_not_in_force_after_a_boot_is_reported_as_gone() -> None:
    kept = {"version": 7, "desired": {"speed": 99}, "reported": {"speed": 4, "list": [1], "temp": 3}}
    twin, thing = attached(kept=kept)
    assert twin.documents[""].reported == {}
    twin.report("", {"temp": 2})
    effects = twin.fetched("", 7, {"speed": 99}, {"speed": 4, "list": [1], "temp": 3})
    assert reports(effects) == [{"speed": None, "list": None, "temp": 2}]
    twin.delta("", 8, {"speed": 4})
    assert thing.in_force == {"speed": 4}, "the same wish as long ago is carried out again"


def test_the_devices_own_value_holds_where_nothing_is_desired_or_it_is_refused() -> None:
    for kept, expected in [({}, 2), ({"desired": {"speed": 99}}, 2), ({"desired": {"speed": 5}}, 5)]:
        twin, thing = DeviceTwin({"": {"version": 1} | kept}), Thing()
        twin.handle("", "speed", lambda value, thing=thing: thing.act("speed", value), own=2)  # type: ignore[misc]
        twin.begin()
        assert thing.in_force["speed"] == expected == twin.documents[""].reported["speed"]
    twin.connected()
    twin.fetched("", 1, {"speed": 5}, {"speed": 5})
    assert reports(twin.accepted("", 2, {"desired": {"speed": None}})) == [{"speed": 2}], "nothing is desired any more"
    assert thing.in_force == {"speed": 2}


# -- the whole document --------------------------------------------------------------------------------


def test_fetched_reports_what_the_hub_holds_otherwise() -> None:
    twin, _ = attached()
    twin.report("", {"temp": 3, "state": {"x": 1, "y": 2}})
    effects = twin.fetched("", 4, {}, {"temp": 9, "state": {"x": 1}})
    assert reports(effects) == [{"temp": 3, "state": {"y": 2}}]


def test_fields_of_another_client_stay_and_our_own_old_ones_go() -> None:
    twin, _ = attached()
    twin.report("", {"models": {"a": 1, "b": 1}, "temp": 1})
    twin.report("", {"models": {"b": 1}})
    effects = twin.fetched("", 2, {}, {"models": {"a": 1, "b": 1, "theirs": 5}, "temp": 2, "app": {"x": 1}})
    assert reports(effects) == [{"models": {"a": None}, "temp": 1}]


def test_what_is_no_longer_so_is_reported_as_gone() -> None:
    twin, _ = attached()
    twin.report("", {"missing": {"gpu": "inference", "rtc": "time"}, "temp": 1})
    assert reports(twin.report("", {"missing": {"rtc": "time"}})) == [{"missing": {"gpu": None}}]


def test_a_document_that_the_hub_lacks_is_reported_whole_and_nothing_is_desired() -> None:
    twin, _ = attached()
    assert reports(twin.missing("")) == []
    twin.delta("", 1, {"speed": 3})
    effects = twin.missing("")
    assert reports(effects) == [{"speed": 3}]
    assert twin.documents[""].desired == {}
    assert twin.delta("", 1, {"speed": 5}) == [], "a word of before the deletion comes too late"


def test_only_what_really_changed_is_reported_and_it_is_remembered_first() -> None:
    twin, _ = attached()
    assert twin.report("", {"temp": 3, "name": "x"}) == [
        Remember(name=""),
        Report(name="", reported={"temp": 3, "name": "x"}),
    ]
    assert reports(twin.report("", {"temp": 4, "name": "x"})) == [{"temp": 4}]
    assert twin.report("", {"temp": 4.0}) == []


def test_while_the_hub_is_asked_reports_wait_for_its_answer() -> None:
    twin, _ = attached()
    assert twin.connected() == [Fetch(name="")]
    assert reports(twin.report("", {"temp": 1})) == []
    assert reports(twin.fetched("", 1, {}, {"temp": 0})) == [{"temp": 1}]
    assert reports(twin.report("", {"temp": 2})) == [{"temp": 2}]


# -- following -----------------------------------------------------------------------------------------


def followed(desired: State | None = None) -> tuple[DeviceTwin, Thing]:
    twin, thing = attached()
    twin.connected()
    twin.fetched("", 3, desired or {"speed": 1}, {"speed": 1})
    return twin, thing


def test_a_wish_that_went_is_heard_of_at_once() -> None:
    twin, _ = followed()
    twin.accepted("", 4, {"desired": {"speed": None}})
    assert twin.documents[""].desired == {}
    twin.accepted("", 5, None)
    assert twin.documents[""].version == 5


def test_a_wish_is_answered_once_though_accepted_and_delta_both_tell_it() -> None:
    twin, thing = followed()
    thing.calls.clear()
    assert progress(twin.accepted("", 4, {"desired": {"speed": 2}})) == [("speed", "verified", "", 4)]
    assert twin.delta("", 4, {"speed": 2}) == []
    assert thing.calls == ["speed"]


def test_a_wish_for_what_already_is_replaces_the_refused_one() -> None:
    """Else the next boot would begin with a wish that the hub took back long ago: there was no delta to tell it."""
    twin, thing = followed()
    twin.accepted("", 4, {"desired": {"speed": 99}})
    effects = twin.accepted("", 5, {"desired": {"speed": 1}})
    assert progress(effects) == [("speed", "verified", "", 5)]
    rebooted, thing = attached(kept=twin.documents[""].plain())
    assert thing.in_force == {"speed": 1}
    assert rebooted.documents[""].desired == {"speed": 1}


def test_the_echo_of_a_report_asks_nothing_of_anybody() -> None:
    twin, thing = followed({"speed": 99})
    thing.calls.clear()
    assert twin.accepted("", 4, {"reported": {"temp": 1}}) == []
    assert twin.delta("", 4, {"speed": 99}) == [], "what was refused is not refused again at every report"
    assert thing.calls == []


def test_a_document_that_the_device_made_itself_is_followed_from_its_first_version() -> None:
    twin, _ = attached()
    twin.connected()
    twin.report("", {"temp": 1})
    assert reports(twin.missing("")) == [{"temp": 1}]
    assert twin.accepted("", 1, {"reported": {"temp": 1}}) == []
    twin.accepted("", 2, {"desired": {"speed": 2}})
    assert desires(twin.want("", {"speed": 3})) == [({"speed": 3}, 2)]


def test_a_hole_in_the_numbers_is_asked_about_once() -> None:
    twin, _ = followed()
    assert twin.accepted("", 6, {"reported": {}}) == [Fetch(name="")]
    assert twin.accepted("", 7, {"reported": {}}) == []
    assert twin.fetched("", 7, {"speed": 1}, {"speed": 1})[0] == Remember(name="")
    assert twin.accepted("", 8, {"reported": {}}) == []


def test_a_deleted_document_is_made_anew_by_the_next_report_and_not_before() -> None:
    twin, _ = followed()
    twin.report("", {"temp": 1})
    assert reports(twin.deleted("", 3)) == []
    assert twin.documents[""].desired == {}
    assert twin.delta("", 3, {"speed": 5}) == []
    assert reports(twin.report("", {"temp": 2})) == [{"speed": 1, "temp": 2}]


def test_a_hundred_documents_are_fetched_once_and_asked_for_again_when_throttled() -> None:
    twin = DeviceTwin({})
    names = [f"part-{n}" for n in range(100)]
    for name in names:
        twin.handle(name, "value", lambda value: value)
    assert [effect.name for effect in twin.connected() if isinstance(effect, Fetch)] == names
    for name in names[:30]:
        twin.unanswered(name)
    again = [[effect.name for effect in twin.tick() if isinstance(effect, Fetch)] for _ in range(5)]
    assert [len(one) for one in again] == [10, 10, 10, 0, 0]
    for name in names:
        twin.fetched(name, 1, {"value": 1}, {})
    assert all(twin.documents[name].reported == {"value": 1} for name in names)
    assert twin.tick() == []


# -- wishes on site ------------------------------------------------------------------------------------


def test_a_wish_on_site_is_in_force_at_once_and_told_with_the_version_it_knows() -> None:
    twin, thing = followed()
    effects = twin.want("", {"speed": 4})
    assert thing.in_force["speed"] == 4
    assert effects[0] == Remember(name="")
    assert desires(effects) == [({"speed": 4}, 3)]
    assert reports(effects) == [{"speed": 4}]
    assert progress(effects) == [("speed", "verified", "", 3)]
    twin.accepted("", 4, {"desired": {"speed": 4}})
    assert twin.documents[""].pending() == {}


def test_what_is_refused_on_site_is_not_desired_and_the_rest_is() -> None:
    twin, thing = followed()
    effects = twin.want("", {"speed": 99, "list": [2], "colour": "red"})
    assert {path: state for path, state, _, _ in progress(effects)} == {
        "colour": "refused", "speed": "refused", "list": "verified"}  # fmt: skip
    assert desires(effects) == [({"list": [2]}, 3)]
    assert (thing.in_force["speed"], twin.documents[""].desired) == (1, {"speed": 1, "list": [2]})
    twin.want("", {"speed": {"of": 99}})
    assert twin.documents[""].desired == {"speed": 1, "list": [2]}, "what a refused object would have replaced stays"
    with pytest.raises(ValueError, match="levels"):
        twin.want("", {"nest": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}})
    with pytest.raises(ValueError, match="32768 bytes"):
        twin.want("", {"nest": "x" * 40_000})
    assert progress(twin.want("gate", {"a": 1}))[0][1] == "refused"


def test_away_from_the_hub_both_change_and_the_hub_wins_only_what_both_changed() -> None:
    twin, thing = followed({"speed": 1, "list": [1]})
    assert desires(twin.want("", {"speed": 4, "nest": {"a": 1}}))
    twin.connected()
    effects = twin.fetched("", 9, {"speed": 7, "list": [2]}, {"speed": 1, "list": [1]})
    assert thing.in_force == {"speed": 7, "list": [2], "nest": {"a": 1}}
    assert desires(effects) == [({"nest": {"a": 1}}, 9)]
    reasons = {path: reason for path, _, reason, _ in progress(effects)}
    assert reasons["speed"] == "changed here and at the hub: the hub's value counts, not 4"
    assert reasons["list"] == ""


def test_what_the_hub_took_over_is_no_change_of_its_own() -> None:
    twin, thing = followed()
    twin.want("", {"speed": 4})  # it arrives, and the connection goes before the answer
    twin, thing = attached(kept=twin.documents[""].plain())
    twin.want("", {"speed": 5})
    twin.connected()
    effects = twin.fetched("", 4, {"speed": 4}, {"speed": 4})
    assert thing.in_force["speed"] == 5
    assert desires(effects) == [({"speed": 5}, 4)]


def test_a_wish_that_came_too_late_is_merged_and_one_that_the_hub_refuses_is_dropped() -> None:
    twin, thing = followed()
    twin.want("", {"speed": 4})
    assert twin.refused("", 409, desire=True) == [Fetch(name="")]
    assert desires(twin.fetched("", 5, {"speed": 1, "list": [1]}, {})) == [({"speed": 4}, 5)]
    assert twin.refused("", 429, desire=True) == []
    effects = twin.refused("", 413, desire=True)
    assert thing.in_force["speed"] == 1
    assert twin.documents[""].desired == {"speed": 1, "list": [1]}
    assert reports(effects) == [{"speed": 1}]
    assert twin.refused("", 413, desire=False) == []


def test_an_object_that_the_hub_lacks_is_not_taken_for_one_that_was_once_removed_on_site() -> None:
    both = {"a": 1, "b": 1}
    kept = {"version": 3, "base": {"nest": both}, "desired": {"nest": {"a": 1}}, "sent": [{"nest": None}]}
    twin, _ = attached(kept=kept)
    twin.connected()
    assert desires(twin.fetched("", 5, {}, {})) == []
    assert twin.documents[""].desired == {}


def test_the_device_says_of_what_the_hub_removed_that_it_is_gone() -> None:
    """Nothing in `reported` need change by it: without a word nobody could know that the device has heard."""
    document = Document("", {})
    document.handle(("settings",), lambda value: value, {"log_level": "info"})
    document.apply_desired({"settings": {"log_level": "info", "period_s": 2}}, 4)
    (word,) = document.apply_desired({"settings": {"period_s": 2}}, 5)
    assert (word.path, word.version, word.state) == ("settings.log_level", 5, "applied")
    assert document.apply_desired({"settings": {"period_s": 2}}, 6) == []
