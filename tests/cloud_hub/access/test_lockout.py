"""Guessing tokens is locked out, for those who guess, for a while, and through a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulators.sites import MINE, Sites, TestClient

import cloud_hub.api.dependencies
from cloud_hub.access import lockout
from cloud_hub.access.lockout import FREE, LOCK_S, MAX_ADDRESSES, WINDOW_S, Lockout
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.errors import HubError

S = 1_000_000


def locked(one: Lockout, address: str, now_us: int) -> bool:
    try:
        one.check(address, now_us)
    except HubError as no:
        return no.status == 429 and 0 < int(no.extensions["retry_after_s"]) <= LOCK_S
    return False


def test_the_sixth_wrong_try_within_the_window_is_not_heard() -> None:
    one = Lockout()
    for n in range(FREE):
        assert not locked(one, "a", n * S)
        until = one.record_failure("a", n * S)
    assert until == (FREE - 1 + LOCK_S) * S
    assert locked(one, "a", FREE * S)
    assert not locked(one, "b", FREE * S)
    assert locked(one, "a", until - 1)
    assert not locked(one, "a", until)


def test_slow_tries_are_no_guessing() -> None:
    one = Lockout()
    step = WINDOW_S * S // (FREE - 1)
    assert [one.record_failure("a", n * step) for n in range(50)] == [None] * 50


def test_memory_is_bounded_and_forgets_who_tried_longest_ago() -> None:
    one = Lockout()
    for n in range(2 * MAX_ADDRESSES):
        one.record_failure(f"a{n}", 0)
    assert len(one._tries) == MAX_ADDRESSES
    assert "a0" not in one._tries


@pytest.mark.parametrize(("host", "address"), [
    ("10.0.0.5", "10.0.0.5"), ("::ffff:10.0.0.5", "10.0.0.5"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
    ("fe80::1%eth0", "fe80::/64"), ("testclient", "testclient"), (None, "unknown"), ("", "unknown"),
])  # fmt: skip
def test_one_customer_is_one_address(host: str | None, address: str) -> None:
    assert lockout.address_key(host) == address


def test_a_lock_outlives_a_restart_and_is_told(db: Database) -> None:
    with db.write() as session:
        lockout.save_lock(session, "10.0.0.5", 70 * S, 10 * S)
        lockout.save_lock(session, "10.0.0.5", 75 * S, 15 * S)
    with db.read() as session:
        assert lockout.active_locks(session, 20 * S) == {"10.0.0.5": 75 * S}
        assert lockout.active_locks(session, 75 * S) == {}
        assert [(row.actor, row.kind, row.subject) for row in trail.rows(session, limit=1)] == [
            ("hub", "address.locked", "10.0.0.5")
        ]
        assert locked(Lockout(lockout.active_locks(session, 20 * S)), "10.0.0.5", 20 * S)
    with db.write() as session:
        lockout.save_lock(session, "10.0.0.6", 300 * S, 200 * S)
    with db.read() as session:
        assert lockout.active_locks(session, 0) == {"10.0.0.6": 300 * S}


# -- REST ------------------------------------------------------------------------------------------


def test_over_rest(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = Sites(tmp_path, url)
    good, now = sites.whole, now_us()
    monkeypatch.setattr(cloud_hub.api.dependencies, "now_us", lambda: now)
    answers = [sites.ask("GET", "/api/v1/devices", MINE, f"tg_{n}") for n in range(FREE + 1)]
    assert [answer.status_code for answer in answers] == [401] * FREE + [429]
    assert (answers[-1].headers["retry-after"], answers[-1].json()["title"]) == (str(LOCK_S), "Locked out")
    assert sites.ask("GET", "/api/v1/devices", MINE, good).status_code == 429
    other = TestClient(sites.app, client=("10.0.0.9", 1))
    assert other.get("/api/v1/devices", headers={"Authorization": f"Bearer {good}"}).status_code == 200
    assert other.get("/healthz").status_code == 200
    with sites.db.read() as session:
        assert lockout.active_locks(session, now) == {"testclient": now + LOCK_S * S}
    monkeypatch.setattr(cloud_hub.api.dependencies, "now_us", lambda: now + LOCK_S * S)
    assert sites.ask("GET", "/api/v1/devices", MINE, good).status_code == 200
    sites.close()


def test_a_token_that_has_ended_is_no_guess(url: str, tmp_path: Path) -> None:
    sites = Sites(tmp_path, url)
    token = sites.ask("POST", "/api/v1/tokens", MINE, sites.whole).json()
    headers = {"Authorization": f"Bearer {sites.whole}"}
    assert sites.client.delete(f"/api/v1/tokens/{token['id']}", headers=headers).status_code == 204
    answers = {sites.ask("GET", "/api/v1/devices", MINE, token["token"]).status_code for _ in range(2 * FREE)}
    assert answers == {401}
    sites.close()
