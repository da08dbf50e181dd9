"""REST: a bad request names the place, and nothing that a caller sends ends in a 500."""

from __future__ import annotations

import json
import warnings
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from simulators.rest_app import shared_app
from simulators.rest_world import DEVICE, ROUTES, World, problem

from shared.protocol.codec import encode

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")

HUGE = 10**30
BAD: list[tuple[str, str, Any, str]] = [
    ("POST", f"{DEVICE}/commands", {}, "body.verb"),
    ("POST", f"{DEVICE}/commands", {"verb": "erase", "target": "x"}, "body.verb"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": ""}, "body.target"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x" * 129}, "body.target"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "life_s": -1}, "body.life_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "life_s": float("nan")}, "body.life_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "life_s": HUGE}, "body.life_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "more": 1}, "body.more"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "mode": "sometime"}, "body.mode"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "timeout_s": 301}, "body.timeout_s"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {"a": float("nan")}}, "body.args.a"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {"a": [1]}}, "body.args.a"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {"a": "x" * 1001}}, "body.args.a"),
    ("POST", f"{DEVICE}/commands", {"verb": "restart", "target": "x", "args": {str(n): 1 for n in range(33)}},
     "body.args"),
    ("GET", f"{DEVICE}/commands?state=lost", None, "query.state"),
    ("POST", f"{DEVICE}/commands", [], "body"),
    ("POST", f"{DEVICE}/commands", None, "body"),
    ("PATCH", f"{DEVICE}/twin", {}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": 7}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {}, "version": "x"}, "body.version"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {"a": float("nan")}}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {"a": [{"b": float("-inf")}]}}, "body.desired"),
    ("PATCH", f"{DEVICE}/tags", [], "body"),
    ("PATCH", f"{DEVICE}/tags", {"a": [float("nan")]}, "tags.a"),
    ("PUT", f"{DEVICE}/tags", {"a.b": 1}, "tags"),
    ("PUT", f"{DEVICE}/tags", {"a": HUGE}, "tags.a"),
    ("POST", "/api/v1/query", {"query": "*", "limit": 0}, "body.limit"),
    ("POST", "/api/v1/query", {"query": "*", "after": "a'b"}, "body.after"),
    ("POST", "/api/v1/actions/{action_id}/decision", {"approve": "perhaps"}, "body.approve"),
    ("POST", "/api/v1/thresholds/rollouts", {"devices": [], "limits": [{"metric": "a", "high": 1}]}, "body.devices"),
    ("POST", "/api/v1/thresholds/rollouts", {"devices": ["press-3"], "limits": []}, "body.limits"),
    ("POST", "/api/v1/thresholds/rollouts", {"devices": ["press-3"], "limits": [{"metric": "a"}]}, "body.limits.0"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": float("nan")}]}, "body.limits.0"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": 1, "low": 2}]}, "body.limits.0"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": 1}], "watch_s": 0}, "body.watch_s"),
    ("POST", "/api/v1/thresholds/rollouts",
     {"devices": ["press-3"], "limits": [{"metric": "a", "high": 1}], "max_alarms": HUGE}, "body.max_alarms"),
    ("POST", "/api/v1/thresholds/fit", {"device": "press-3"}, "body.metric"),
    ("POST", "/api/v1/jobs", {"kind": "wish", "query": "*", "content": {"a": 1}}, "body.kind"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "", "content": {"a": 1}}, "body.query"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "*", "content": {"a": float("nan")}}, "body.content"),
    ("POST", "/api/v1/jobs", {"kind": "tags", "query": "*", "document": "x", "content": {"a": 1}}, "body"),
    ("POST", "/api/v1/jobs", {"kind": "command", "query": "*", "content": {"verb": "erase", "target": "x"}}, "body"),
    ("POST", "/api/v1/jobs",
     {"kind": "command", "query": "*", "content": {"verb": "restart", "target": "x", "life_s": 1}}, "body"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "*", "content": {"a": 1}, "start_us": HUGE}, "body.start_us"),
    ("POST", "/api/v1/jobs", {"kind": "twin", "query": "*", "content": {"a": 1}, "max_s": 0}, "body.max_s"),
    ("POST", "/api/v1/jobs/preview", {"kind": "twin", "query": "*", "content": {"a": 1}, "limit": 201}, "body.limit"),
    ("GET", "/api/v1/jobs/{job_id}/devices?state=happy", None, "query.state"),
    ("PUT", "/api/v1/configurations/one", {"target": "*", "content": {}}, "body.content"),
    ("PUT", "/api/v1/configurations/one", {"target": "*", "content": {"": {"a": None}}}, "body.content"),
    ("PUT", "/api/v1/configurations/one", {"target": "*", "content": {"no/name": {"a": 1}}}, "body.content"),
    ("PUT", "/api/v1/configurations/one",
     {"target": "*", "content": {"": {"a": 1}}, "metrics": {f"m{n}": "*" for n in range(6)}}, "body.metrics"),
    ("PUT", "/api/v1/configurations/one",
     {"target": "*", "content": {"": {"a": 1}}, "metrics": {"applied": "*"}}, "body.metrics"),
    ("PUT", "/api/v1/configurations/a:b", {"target": "*", "content": {"": {"a": 1}}}, "path.configuration_id"),
    ("PATCH", "/api/v1/configurations/one", {"content": {"": {"a": 1}}}, "body.content"),
    ("POST", f"{DEVICE}/twin/release", {"paths": []}, "body.paths"),
    ("POST", "/api/v1/thresholds/fit", {"device": "press-3", "metric": "cpu.load", "days": 0}, "body.days"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?limit=x", None, "query.limit"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?start_us=-1", None, "query.start_us"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?end_us={HUGE}", None, "query.end_us"),
    ("GET", f"{DEVICE}/events?since_us={HUGE}", None, "query.since_us"),
    ("GET", f"{DEVICE}/range/{{metric}}?points=0", None, "query.points"),
    ("GET", f"{DEVICE}/range/{{metric}}?resolution=2m", None, "query.resolution"),
    ("GET", f"{DEVICE}/range/{{metric}}?start_us=7&end_us=7", None, "query.end_us"),
    ("GET", f"{DEVICE}/range/{{metric}}?start_us={HUGE}", None, "query.start_us"),
    ("GET", f"{DEVICE}/range/{{metric}}?start_us=0&resolution=1h", None, "query: more than 10000 points"),
    ("GET", "/api/v1/telemetry/last?limit=0", None, "query.limit"),
    ("GET", "/api/v1/telemetry/top", None, "query.metric"),
    ("GET", "/api/v1/telemetry/top?metric=a&quantile=1.5", None, "query.quantile"),
    ("GET", "/api/v1/telemetry/top?metric=a&quantile=nan", None, "query.quantile"),
    ("GET", "/api/v1/telemetry/top?metric=a&k=0", None, "query.k"),
    ("GET", "/api/v1/telemetry/top?metric=a&start_us=8&end_us=7", None, "query.end_us"),
    ("GET", "/api/v1/telemetry/export?resolution=2m", None, "query.resolution"),
    ("GET", "/api/v1/alarms?state=loud", None, "query.state"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "place"), BAD)
def test_bad_requests_are_422_and_name_the_place(world: World, method: str, path: str, body: Any, place: str) -> None:
    content = None if body is None else json.dumps(body).encode()
    sort = {"content-type": "application/json"}
    answer = world.ask(method, path.format(**world.ids), content=content, headers=sort)
    assert problem(answer, 422).startswith(place)


def test_a_body_that_is_not_named_as_json_gets_the_cure(world: World) -> None:
    path, form = f"{DEVICE}/tags".format(**world.ids), {"content-type": "application/x-www-form-urlencoded"}
    answer = world.ask("PATCH", path, content=b'{"depends_on": "switch-3"}', headers=form)
    assert "Content-Type: application/json" in problem(answer, 422)
    named = world.ask("PATCH", path, content=b"[]", headers={"content-type": "application/json"})
    assert "Content-Type" not in problem(named, 422)


NASTY = [
    b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"null", b"7" * 5000, b'{"desired": {"a": "\\ud800"}}',
    b'{"desired": {"\\udfff": 1}}', b'{"desired": {"a": ' + b"[" * 400 + b"]" * 400 + b"}}",
    b'{"desired": {"a": ' + b'{"b":' * 900 + b"1" + b"}" * 900 + b"}}", b'{"desired": {"a": 1e999}}',
    b'{"desired": {"a": ' + b"9" * 400 + b"}}", b'{"desired": {}, "version": ' + b"9" * 400 + b"}",
    b'{"desired": {"a": 99999999999999999999999}}', b'{"desired": {"a": [-9223372036854775809]}}',
    b'{"desired": {"a": "\\u0000"}}', b'{"desired": {"\\u0000": 1}}',
    b'{"desired": {"a": NaN}}', b'{"desired": {}, "version": -1}', b'{"desired": {}, "version": 1e400}',
    b'{"verb": "restart", "target": "\\ud800"}', b'{"verb": "restart", "target": "\\u0000"}',
    b'{"devices": ["\\ud800"], "limits": [{"metric": "a", "high": 1}]}',
    b'{"devices": ["press-3"], "limits": [{"metric": "a", "high": ' + b"9" * 400 + b"}]}",
    b'{"devices": ["press-3"], "limits": [{"metric": "a", "high": 1, "fitted_us": ' + b"9" * 40 + b"}]}",
    b'{"devices": ["press-3"], "limits": [{"metric": "a", "high": 1, "on_delay_s": 1e999}]}',
    b'{"device": "press-3", "metric": "\\ud800"}', b'{"device": "press-3", "metric": "", "days": 1e-320}',
    b'{"device": "press-3", "metric": "Not A Name"}', b'{"approve": 1e999}',
]  # fmt: skip


@pytest.mark.one_database
@pytest.mark.parametrize(("method", "path"), [key for key in ROUTES if key[0] not in {"GET", "DELETE"}])
def test_nasty_bodies_never_give_500(world: World, method: str, path: str) -> None:
    for body in NASTY:
        answer = world.ask(method, path.format(**world.ids), content=body, headers={"content-type": "application/json"})
        assert answer.status_code < 500, (body[:80], answer.text)


NUMBERS = ["-1", "0", "1", str(2**31), str(2**63 - 1), str(2**63), str(-(2**63) - 1), "9" * 30, "9" * 5000, "NaN",
           "1e9", "", " ", "x", "\x00", "１"]  # fmt: skip


@cache
def query_parameters() -> list[tuple[str, str]]:
    """Each parameter in the query of each GET route."""
    paths = shared_app().openapi()["paths"]
    found = [(path, paths[path]["get"].get("parameters", [])) for method, path in ROUTES if method == "GET"]
    return [(path, one["name"]) for path, parameters in found for one in parameters if one["in"] == "query"]


@pytest.mark.one_database
@pytest.mark.parametrize("value", NUMBERS, ids=range(len(NUMBERS)))
def test_odd_numbers_never_give_500(world: World, value: str) -> None:
    for path, key in query_parameters():
        answer = world.ask("GET", path.format(**world.ids), params={key: value})
        assert answer.status_code < 500, (path, key, answer.text)


TEXTS = st.text(max_size=30) | st.sampled_from(
    ["..", "%", "%00", "\x00", "'; --", "a" * 300, "press-3", "\ud83d\ude00"]
)
FUZZ = hypothesis_settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(data=st.data())
def test_whatever_stands_in_path_and_query_never_gives_500(world: World, data: st.DataObject) -> None:
    method, path = data.draw(st.sampled_from(sorted(ROUTES.keys() - {("DELETE", DEVICE)})))  # the others need theirs
    parts = {key: quote(_bytes(data.draw(TEXTS | st.just(known))), safe="") for key, known in world.ids.items()}
    query = data.draw(st.dictionaries(
        st.sampled_from(["limit", "device", "kind", "trace", "state", "model", "since_us", "start_us", "end_us"]),
        TEXTS | st.integers().map(str), max_size=4,
    ))  # fmt: skip
    pairs = "&".join(f"{key}={quote(_bytes(value), safe='')}" for key, value in query.items())
    body = data.draw(st.none() | st.binary(max_size=40) | st.sampled_from(NASTY)) if method != "GET" else None
    sort = {"content-type": "application/json"}
    answer = world.ask(method, f"{path.format(**parts)}?{pairs}", content=body, headers=sort)
    assert answer.status_code < 500, (method, path, parts, pairs, answer.text)


def test_headers_of_any_kind_never_give_500(world: World) -> None:
    for value in ("Bearer \xff\xfe", "Bearer " + "x" * 5000, "bearer tg_é", "Bearer\t"):
        headers = [(b"authorization", value.encode("latin1"))]
        answer = world.client.get("/api/v1/devices", headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 401
    answer = world.ask("GET", "/api/v1/devices", headers={"traceparent": "00-zz"})
    assert answer.status_code == 200


def test_a_body_of_state_is_kept_as_it_was(world: World) -> None:
    """What goes in comes out: big numbers, unicode, empty objects."""
    path = "/api/v1/devices/press-3/twin/name/kept"
    wanted = {"a": 2**53, "b": "尺寸", "c": {}, "d": [1, {"e": 2.5}], "f": False}
    wanted |= {"g": 1e300, "h": 2**64 - 1, "i": 5e-324, "j": "\\u0000"}
    assert world.ask("PATCH", path, json={"desired": wanted}).status_code == 200
    assert world.ask("GET", path).json()["state"]["desired"] == wanted
    assert encode(wanted)
