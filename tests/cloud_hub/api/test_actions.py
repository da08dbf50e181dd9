"""/api/v1/actions and /api/v1/policy."""

from __future__ import annotations

from typing import Any

import pytest
from simulators.rest_world import World

TWIN = {"type": "twin", "device": "press-3", "parameters": {"patch": {"settings": {"period_s": 5}}}}


def post(world: World, path: str, body: Any, status: int) -> Any:
    answer = world.ask("POST", f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_action_is_proposed_once_for_a_key_and_seen(world: World) -> None:
    first = post(world, "actions", TWIN | {"key": "rate"}, 201)
    assert post(world, "actions", TWIN | {"key": "rate"}, 201)["id"] == first["id"]
    assert (first["state"], first["origin"], first["detail"]) == ("proposed", "person", "set//settings.period_s")
    rows = world.ask("GET", "/api/v1/actions?device=press-3&state=proposed").json()
    assert first["id"] in [row["id"] for row in rows]
    assert world.ask("GET", f"/api/v1/actions/{first['id']}").json()["proposer"] == first["proposer"]


def test_nobody_approves_an_own_proposal_and_a_cancel_ends_it(world: World) -> None:
    row = post(world, "actions", TWIN, 201)
    assert "own proposal" in post(world, f"actions/{row['id']}/decision", {"approve": True}, 403)["detail"]
    assert post(world, f"actions/{row['id']}/cancel", {"reason": "wrong"}, 200)["state"] == "cancelled"
    post(world, f"actions/{row['id']}/cancel", {}, 409)
    post(world, f"actions/{row['id']}/undo", {}, 409)


@pytest.mark.parametrize(("change", "status"), [
    ({"type": "erase"}, 422), ({"parameters": {}}, 422), ({"parameters": {"patch": {"a": 1}, "x": 1}}, 422),
    ({"device": "nobody"}, 404),
], ids=str)  # fmt: skip
def test_what_cannot_be_is_refused(world: World, change: Any, status: int) -> None:
    post(world, "actions", TWIN | change, status)
    post(world, "policy/try", TWIN | change, status)


def test_a_verdict_is_explained_and_nothing_is_proposed(world: World) -> None:
    before = len(world.ask("GET", "/api/v1/actions?limit=1000").json())
    verdict = post(world, "policy/try", TWIN, 200)
    assert (verdict["decision"], verdict["rule"], verdict["approvals"]) == ("approve", "another-person-decides", 1)
    assert [row["rule"] for row in verdict["rules"] if row["matched"]] == ["another-person-decides"]
    strict = post(world, "policy/try", TWIN | {"policy": "rules: [{name: none, decision: forbid}]"}, 200)
    assert (strict["decision"], strict["rule"]) == ("forbid", "none")
    assert len(world.ask("GET", "/api/v1/actions?limit=1000").json()) == before


def test_a_candidate_policy_with_a_fault_names_its_line(world: World) -> None:
    body = TWIN | {"policy": "rules:\n- name: a\n  decision: maybe"}
    assert "policy, line 3" in post(world, "policy/try", body, 422)["detail"]


def test_the_policy_in_force_is_shown(world: World) -> None:
    assert [rule["name"] for rule in world.ask("GET", "/api/v1/policy").json()["rules"]][:2] == ["looking", "automatic"]
