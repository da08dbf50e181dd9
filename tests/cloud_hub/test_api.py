"""REST: who may do what, what a bad request is told, and that nothing a caller sends ends in a 500."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from simulators.postgres import postgres

from cloud_hub import audit, commands, fleet, incidents, telemetry, tokens, twins
from cloud_hub.actions import desk
from cloud_hub.api.hub import Hub
from cloud_hub.app import web
from cloud_hub.db import Database
from cloud_hub.settings import Settings
from cloud_hub.twins import Outgoing
from shared.codec import encode
from shared.messages import Alarm, Birth, CommandResult, Sample

with warnings.catch_warnings():  # newer Starlettes ask for a client that not every machine has
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
Role = Literal["viewer", "operator", "auditor", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "auditor", "admin")

DEVICE = "/api/v1/devices/{device}"
ROUTES: dict[tuple[str, str], str] = {
    ("GET", "/api/v1/devices"): "read",
    ("GET", DEVICE): "read",
    ("GET", f"{DEVICE}/telemetry/{{metric}}"): "read",
    ("GET", f"{DEVICE}/events"): "read",
    ("GET", f"{DEVICE}/streams"): "read",
    ("POST", f"{DEVICE}/commands"): "operate",
    ("GET", "/api/v1/commands/{command_id}"): "read",
    ("GET", f"{DEVICE}/twin"): "read",
    ("PATCH", f"{DEVICE}/twin"): "operate",
    ("GET", f"{DEVICE}/twin/documents"): "read",
    ("GET", f"{DEVICE}/twin/progress"): "read",
    ("GET", f"{DEVICE}/twin/name/{{name}}"): "read",
    ("PATCH", f"{DEVICE}/twin/name/{{name}}"): "operate",
    ("GET", "/api/v1/alarms"): "read",
    ("GET", "/api/v1/incidents"): "read",
    ("GET", "/api/v1/incidents/{incident_id}"): "read",
    ("POST", "/api/v1/incidents/{incident_id}/acknowledge"): "operate",
    ("POST", "/api/v1/actions/{action_id}/decision"): "operate",
    ("GET", "/api/v1/audit"): "audit",
    ("GET", "/api/v1/escalations"): "read",
    ("POST", "/api/v1/thresholds/fit"): "operate",
    ("POST", "/api/v1/thresholds/rollouts"): "operate",
    ("GET", "/api/v1/thresholds/rollouts/{rollout_id}"): "read",
    ("GET", "/api/v1/scaling/steps"): "read",
}
"""Every route and the power it needs: a route that is missing here fails the test below."""

MAY: dict[Role, set[str]] = {
    "viewer": {"read"}, "operator": {"read", "operate"}, "auditor": {"read", "audit"},
    "admin": {"read", "operate", "audit"},
}  # fmt: skip


class World:
    """REST over a real database; what it would publish is kept in `published`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.db = Database(url)
        self.published: list[Outgoing] = []
        self.rang: list[str] = []
        self.app: FastAPI = web()
        self.app.state.hub = Hub(
            settings=Settings(state_dir=str(folder)), db=self.db, publish=self.published.extend, ring=self.rang.append,
            connected=lambda: True,
        )  # fmt: skip
        self.client = TestClient(self.app, raise_server_exceptions=False)
        with self.db.write() as session:
            self.tokens = {role: tokens.create(session, f"the {role}", role, NOW, "test") for role in ROLES}
            self._fill(session)

    def _fill(self, session: Any) -> None:
        fleet.born(session, Birth(device="press-3", session="s", epoch="e"), NOW)
        fleet.born(session, Birth(device="gone", session="s", epoch="e"), NOW)
        fleet.born(session, Birth(device="gone", session="s", epoch="e", state="offline"), NOW)
        mark = fleet.high_water(session, "press-3", "e", "telemetry")
        samples = [(n, Sample(metric="cpu.load", t_us=NOW + n * SECOND, value=float(n))) for n in range(1, 11)]
        telemetry.store_samples(session, "press-3", mark.id or 0, samples)
        mark.upto = 10
        alarm = Alarm(id="a1", metric="digits/age_s", kind="high", state="raised", priority="high", t_us=NOW, value=9,
                      limit=2)  # fmt: skip
        incidents.alarm_changed(session, "press-3", alarm, NOW, "")
        (incident,) = incidents.undiagnosed(session)
        settings = Settings().actions
        self.ids = {
            "device": "press-3", "metric": "cpu.load", "name": "gates", "incident_id": incident.id,
            "action_id": desk.propose(session, incident, "capture", "digits", "why", NOW, settings).id,
            "command_id": commands.create(session, "press-3", "restart", "digits", NOW, who="test")[0].id,
            "rollout_id": "none",
        }  # fmt: skip
        for name in ("", "gates"):
            twins.desire(session, "press-3", name, {"a": 1}, NOW, who="test", max_bytes=32768)

    def ask(self, method: str, path: str, role: Role | None = "admin", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return self.client.request(method, path, headers=headers | more.pop("headers", {}), **more)


@contextmanager
def open_world(folder: Path, url: str) -> Iterator[World]:
    one = World(folder, url)
    yield one
    one.client.close()
    one.db.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rest")
    if request.param == "sqlite":
        with open_world(folder, f"sqlite:///{folder / 'hub.sqlite'}") as one:
            yield one
        return
    with request.getfixturevalue("postgres_server").database() as url, open_world(folder, url) as one:
        yield one


def problem(answer: Any, status: int) -> str:
    """The detail of an RFC 9457 answer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    detail: str = body["detail"]
    return detail


# -- who -------------------------------------------------------------------------------------------


def test_the_table_of_routes_is_exhaustive() -> None:
    described = {
        (method.upper(), path) for path, methods in web().openapi()["paths"].items() for method in methods
    } - {("GET", "/healthz")}  # fmt: skip
    assert described == set(ROUTES)


def test_the_roles_are_those_of_the_code() -> None:
    assert set(tokens.MAY) == set(ROLES)
    assert {role: set(powers) - {"administer"} for role, powers in tokens.MAY.items()} == MAY


@pytest.mark.parametrize(("method", "path"), list(ROUTES))
def test_every_route_needs_a_token_and_the_right_role(world: World, method: str, path: str) -> None:
    full = path.format(**world.ids)
    for sent in ("", "Bearer ", "Bearer tg_wrong", f"Basic {world.tokens['admin']}", world.tokens["admin"]):
        answer = world.ask(method, full, None, headers={"Authorization": sent} if sent else {})
        assert "Authorization: Bearer" in problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    for role in ROLES:
        answer = world.ask(method, full, role, json={"nonsense": 1} if method != "GET" else None)
        if ROUTES[method, path] in MAY[role]:
            assert answer.status_code not in {401, 403, 500}
        else:
            assert problem(answer, 403) == f"role '{role}' may not {ROUTES[method, path]}"


def test_a_revoked_token_is_dead(world: World) -> None:
    with world.db.write() as session:
        text = tokens.create(session, "guest", "viewer", NOW, "test")
    headers = {"Authorization": f"Bearer {text}"}
    assert world.ask("GET", "/api/v1/devices", None, headers=headers).status_code == 200
    with world.db.write() as session:
        assert tokens.revoke(session, "guest", NOW, "test") == 1
        assert tokens.revoke(session, "guest", NOW, "test") == 0
    problem(world.ask("GET", "/api/v1/devices", None, headers=headers), 401)


def test_no_token_is_stored_readably(tmp_path: Path) -> None:
    with open_world(tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}") as world:
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert b"the admin" in content
        assert all(text.encode() not in content for text in world.tokens.values())


def test_health_needs_no_token(world: World) -> None:
    answer = world.ask("GET", "/healthz", None)
    assert answer.status_code == 200
    assert answer.json()["hub_epoch"] == world.db.hub_epoch
    assert answer.json()["broker"] is True


# -- what is well ----------------------------------------------------------------------------------


def test_devices_and_samples(world: World) -> None:
    rows = world.ask("GET", "/api/v1/devices").json()
    assert {row["id"]: row["state"] for row in rows} == {"gone": "offline", "press-3": "online"}
    points = world.ask("GET", "/api/v1/devices/press-3/telemetry/cpu.load", params={"limit": 3}).json()
    assert [point["value"] for point in points] == [8.0, 9.0, 10.0]
    part = {"start_us": NOW + 2 * SECOND, "end_us": NOW + 4 * SECOND}
    points = world.ask("GET", "/api/v1/devices/press-3/telemetry/cpu.load", params=part).json()
    assert [point["seq"] for point in points] == [2, 3]
    (telemetry_row,) = [
        r for r in world.ask("GET", "/api/v1/devices/press-3/streams?count=true").json() if r["stream"] == "telemetry"
    ]
    assert (telemetry_row["upto"], telemetry_row["rows"], telemetry_row["distinct"]) == (10, 10, 10)


def test_a_command_is_stored_then_published(world: World) -> None:
    before = len(world.published)
    trace = "00-" + "ef" * 16 + "-" + "cd" * 8 + "-01"
    body = {"verb": "diagnose", "target": "processes"}
    answer = world.ask("POST", "/api/v1/devices/press-3/commands", json=body, headers={"traceparent": trace})
    assert answer.status_code == 202
    (message,) = world.published[before:]
    assert message.topic.endswith(f"commands/{answer.json()['id']}/request")
    assert message.trace == trace
    with world.db.write() as session:
        word = CommandResult(id=answer.json()["id"], state="succeeded", t_us=NOW)
        commands.result(session, "press-3", word, NOW)
    assert world.ask("GET", f"/api/v1/commands/{answer.json()['id']}").json()["state"] == "succeeded"
    rows = world.ask("GET", "/api/v1/audit", params={"trace": "ef" * 16}).json()["rows"]
    assert {(row["who"], row["kind"]) for row in rows} == {
        ("the admin", "command.sent"), ("press-3", "command.succeeded"),
    }  # fmt: skip


def test_a_command_for_a_device_that_is_away(world: World) -> None:
    body = {"verb": "diagnose", "target": "processes"}
    assert "not connected" in problem(world.ask("POST", "/api/v1/devices/gone/commands", json=body), 404)


def test_a_twin_changes_under_a_version(world: World) -> None:
    path = "/api/v1/devices/press-3/twin/name/settings-test"
    assert world.ask("PATCH", path, json={"desired": {"a": {"b": 1}}}).json()["version"] == 1
    assert world.ask("PATCH", path, json={"desired": {"a": {"b": 2}}, "version": 1}).json()["version"] == 2
    assert "Version conflict" in problem(
        world.ask("PATCH", path, json={"desired": {"a": {"b": 3}}, "version": 1}), 409
    )  # fmt: skip
    assert "maximum size" in problem(world.ask("PATCH", path, json={"desired": {"a": "x" * 40_000}}), 413)
    found = world.ask("GET", path).json()
    assert found["state"] == {"desired": {"a": {"b": 2}}, "delta": {"a": {"b": 2}}}
    assert world.ask("GET", "/api/v1/devices/press-3/twin/documents").json()["settings-test"] == 2


def test_incidents_and_a_persons_word(world: World) -> None:
    number = world.ids["incident_id"]
    assert world.ask("POST", f"/api/v1/incidents/{number}/acknowledge").json()["state"] == "acknowledged"
    found = world.ask("GET", f"/api/v1/incidents/{number}").json()
    assert [a["id"] for a in found["alarms"]] == ["a1"]
    decision = f"/api/v1/actions/{world.ids['action_id']}/decision"
    assert world.ask("POST", decision, "operator", json={"approve": True}).json()["state"] == "approved"
    assert "already approved" in problem(world.ask("POST", decision, json={"approve": True}), 409)
    assert "actions" in world.rang
    rows = world.ask("GET", "/api/v1/audit", params={"kind": "action.approved"}).json()["rows"]
    assert rows[0]["who"] == "the operator"


def test_a_rollout_is_started_and_shown(world: World) -> None:
    body = {"devices": ["press-3"], "limits": [{"metric": "cpu.load", "high": 90}], "watch_s": 5}
    answer = world.ask("POST", "/api/v1/thresholds/rollouts", json=body)
    assert answer.status_code == 201
    shown = world.ask("GET", f"/api/v1/thresholds/rollouts/{answer.json()['id']}").json()
    assert (shown["state"], shown["devices"]) == ("watching", ["press-3"])


def test_the_audit_trail_is_verified_when_asked(world: World) -> None:
    unasked = world.ask("GET", "/api/v1/audit").json()
    assert (unasked["verified"], unasked["broken_at"]) == (False, None)
    asked = world.ask("GET", "/api/v1/audit", params={"verify": True}).json()
    assert (asked["verified"], asked["broken_at"]) == (True, None)
    with world.db.read() as session:
        assert audit.verify(session) is None


# -- what is not there -----------------------------------------------------------------------------

GOOD_BODY: dict[str, Any] = {
    f"{DEVICE}/commands": {"verb": "restart", "target": "x"},
    f"{DEVICE}/twin": {"desired": {"a": 1}},
    f"{DEVICE}/twin/name/{{name}}": {"desired": {"a": 1}},
    "/api/v1/actions/{action_id}/decision": {"approve": True},
    "/api/v1/thresholds/fit": {"device": "nobody", "metric": "cpu.load"},
    "/api/v1/thresholds/rollouts": {"devices": ["nobody"], "limits": [{"metric": "cpu.load", "high": 1}]},
}


@pytest.mark.parametrize(("method", "path"), [key for key in ROUTES if "{" in key[1] or key[1] in GOOD_BODY])
def test_unknown_ids_are_404(world: World, method: str, path: str) -> None:
    unknown = {"metric": "cpu.load", "name": "gates"}
    full = path.format(**{key: unknown.get(key, "nobody") for key in world.ids})
    assert problem(world.ask(method, full, json=GOOD_BODY.get(path)), 404)


def test_unknown_paths_and_methods_are_problems_too(world: World) -> None:
    assert problem(world.ask("GET", "/api/v1/nothing"), 404)
    assert problem(world.ask("DELETE", "/api/v1/devices"), 405)


# -- bad bodies ------------------------------------------------------------------------------------

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
    ("POST", f"{DEVICE}/commands", [], "body"),
    ("POST", f"{DEVICE}/commands", None, "body"),
    ("PATCH", f"{DEVICE}/twin", {}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": 7}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {}, "version": "x"}, "body.version"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {"a": float("nan")}}, "body.desired"),
    ("PATCH", f"{DEVICE}/twin", {"desired": {"a": [{"b": float("-inf")}]}}, "body.desired"),
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
    ("POST", "/api/v1/thresholds/fit", {"device": "press-3", "metric": "cpu.load", "days": 0}, "body.days"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?limit=x", None, "query.limit"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?start_us=-1", None, "query.start_us"),
    ("GET", f"{DEVICE}/telemetry/{{metric}}?end_us={HUGE}", None, "query.end_us"),
    ("GET", f"{DEVICE}/events?since_us={HUGE}", None, "query.since_us"),
    ("GET", "/api/v1/alarms?state=loud", None, "query.state"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "place"), BAD)
def test_bad_requests_are_422_and_name_the_place(world: World, method: str, path: str, body: Any, place: str) -> None:
    content = None if body is None else json.dumps(body).encode()
    sort = {"content-type": "application/json"}
    answer = world.ask(method, path.format(**world.ids), content=content, headers=sort)
    assert problem(answer, 422).startswith(place)


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


@pytest.mark.parametrize("body", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize(("method", "path"), [key for key in ROUTES if key[0] != "GET"])
def test_nasty_bodies_never_give_500(world: World, method: str, path: str, body: bytes) -> None:
    answer = world.ask(method, path.format(**world.ids), content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text


NUMBERS = ["-1", "0", "1", str(2**31), str(2**63 - 1), str(2**63), str(-(2**63) - 1), "9" * 30, "9" * 5000, "NaN",
           "1e9", "", " ", "x", "\x00", "１"]  # fmt: skip


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("key", ["limit", "start_us", "end_us", "since_us"])
def test_odd_numbers_never_give_500(world: World, key: str, value: str) -> None:
    for method, path in ROUTES:
        if method == "GET":
            answer = world.ask("GET", path.format(**world.ids), params={key: value})
            assert answer.status_code < 500, answer.text


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
    method, path = data.draw(st.sampled_from(sorted(ROUTES)))
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
    world.ask("PATCH", path, json={"desired": wanted})
    assert world.ask("GET", path).json()["state"]["desired"] == wanted
    assert encode(wanted)


# -- a database that is away -----------------------------------------------------------------------


def test_while_postgresql_is_away_every_answer_is_503_and_then_all_is_well(tmp_path: Path) -> None:
    with postgres() as server, server.database() as url, open_world(tmp_path, url) as world:
        assert world.ask("GET", "/api/v1/devices").status_code == 200
        server.stop()
        answer = world.ask("GET", "/api/v1/devices")
        assert "does not answer" in problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
        server.start()
        path = "/api/v1/devices/press-3/twin"
        assert world.ask("PATCH", path, json={"desired": {"b": 1}}).json()["version"] == 2
