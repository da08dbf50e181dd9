"""People by OpenID Connect: who is let in, who is not, and what an administrator must show twice."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from simulators import databases
from simulators.oidc import AUDIENCE, Issuer, serving
from simulators.sites import MINE, THEIRS, Sites

from cloud_hub.access import oidc
from cloud_hub.access.oidc import Oidc
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError, WrongToken
from cloud_hub.settings import Oidc as OidcSettings
from shared.errors import ConfigError

NOW_S = 1_800_000_000
ROLES = {"plant-operator": "operator", "plant-security": "admin", "plant-all": "operator auditor"}


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def settings(issuer: Issuer, **more: Any) -> OidcSettings:
    return OidcSettings(**{"issuer": issuer.url, "audience": AUDIENCE, "jwks_url": "https://x", "roles": ROLES} | more)


def opened(issuer: Issuer, clock: Clock | None = None, **more: Any) -> Oidc:
    def fetch() -> str:
        issuer.fetched += 1
        if issuer.status != 200:
            raise ValueError("away")
        return issuer.jwks()

    return Oidc(settings(issuer, **more), fetch, clock or Clock())


def actor(door: Oidc, text: str, at_s: float = NOW_S) -> Any:
    return door.identity(text, int(at_s * 1e6))


def refused(door: Oidc, text: str, at_s: float = NOW_S) -> tuple[int, str]:
    with pytest.raises(HubError) as no:
        actor(door, text, at_s)
    return no.value.status, no.value.detail


# -- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kid", ["eddsa", "es256", "rs256"])
def test_a_good_token_is_a_person(issuer: Issuer, kid: str) -> None:
    found = actor(opened(issuer), issuer.token(NOW_S, kid))
    assert (found.actor, found.roles, found.scope, found.second_factor) == ("oidc:anna", "operator", None, False)


@pytest.mark.parametrize("attack", list(Issuer().forged(NOW_S)))
def test_a_forged_token_is_a_wrong_one(issuer: Issuer, attack: str) -> None:
    door = opened(issuer)
    actor(door, issuer.token(NOW_S))
    with pytest.raises(WrongToken) as no:
        actor(door, issuer.forged(NOW_S)[attack])
    assert no.value.status == 401
    assert no.value.detail.isprintable()


def test_it_begins_and_ends_on_the_second(issuer: Issuer) -> None:
    door, text = opened(issuer, leeway_s=0), issuer.token(NOW_S, nbf=NOW_S + 10)
    assert refused(door, text, NOW_S + 9.999) == (
        401, "the token is not valid yet: compare the clocks of issuer and hub"
    )  # fmt: skip
    assert actor(door, text, NOW_S + 10).actor == actor(door, text, NOW_S + 299.999).actor == "oidc:anna"
    assert refused(door, text, NOW_S + 300) == (401, "the token has expired: sign in again")
    assert actor(opened(issuer), text, NOW_S + 329).actor == "oidc:anna"  # the default leeway is 30 s


def test_an_expired_token_is_no_guess(issuer: Issuer) -> None:
    with pytest.raises(HubError) as no:
        actor(opened(issuer), issuer.token(NOW_S), NOW_S + 1000)
    assert not isinstance(no.value, WrongToken)


@pytest.mark.parametrize("name", ["configuration:x", "hub", "removed:bob", "press-3", "tg_x"])
def test_no_subject_passes_for_one_of_the_hubs_own_names(issuer: Issuer, name: str) -> None:
    assert actor(opened(issuer), issuer.token(NOW_S, sub=name)).actor == f"oidc:{name}"


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x00", "\u202eanna"])
def test_a_name_that_nobody_can_read_is_refused(issuer: Issuer, name: str) -> None:
    assert refused(opened(issuer, actor_claim="email"), issuer.token(NOW_S, email=name))[0] == 401
    assert refused(opened(issuer, actor_claim="email"), issuer.token(NOW_S))[0] == 401


def test_roles_come_from_the_claim_by_the_settings(issuer: Issuer) -> None:
    door = opened(issuer, roles_claim="realm_access.roles")
    token = issuer.token(NOW_S, realm_access={"roles": ["plant-security", "x", 1, "plant-all"]})
    assert actor(door, token).roles == "operator auditor admin"
    door = opened(issuer, roles_claim="https://plant.example/roles")
    assert actor(door, issuer.token(NOW_S, **{"https://plant.example/roles": "plant-operator"})).roles == "operator"
    for none in (["admin"], [], "operator", 7, None, {"plant-operator": 1}):
        assert refused(opened(issuer), issuer.token(NOW_S, roles=none))[0] == 403


def test_a_scope_comes_from_the_claim_and_must_then_be_there(issuer: Issuer) -> None:
    door = opened(issuer, scope_claim="sites")
    assert actor(door, issuer.token(NOW_S, sites=["acme/b", "acme/a"])).scope == ("acme/a", "acme/b")
    for none in (None, [], "", ["/"], ["acme/a", ""], 7):
        assert refused(door, issuer.token(NOW_S, sites=none))[0] == 403


@pytest.mark.parametrize(("shown", "second"), [
    ({"acr": "mfa"}, True), ({"amr": ["pwd", "mfa"]}, True), ({"amr": ["pwd"]}, False), ({"acr": "1"}, False),
    ({"acrs": ["c9", "mfa"]}, True),
    ({"amr": "mfamfa"}, False), ({"amr": {"mfa": 1}}, False), ({"amr": [["mfa"]]}, False), ({}, False),
])  # fmt: skip
def test_a_second_factor_is_in_acr_or_amr(issuer: Issuer, shown: dict[str, Any], second: bool) -> None:
    assert actor(opened(issuer), issuer.token(NOW_S, **shown)).second_factor is second


# -- keys ------------------------------------------------------------------------------------------


def test_keys_are_fetched_once_and_anew_for_an_unknown_one(issuer: Issuer, clock: Clock) -> None:
    door = opened(issuer, clock)
    for _ in range(5):
        actor(door, issuer.token(NOW_S))
    assert issuer.fetched == 1
    issuer.add("new")
    assert refused(door, issuer.token(NOW_S, "new"))[0] == 401
    clock.now_s += oidc.FETCH_EVERY_S
    assert actor(door, issuer.token(NOW_S, "new")).actor == "oidc:anna"
    assert issuer.fetched == 2


def test_a_flood_of_unknown_keys_asks_the_issuer_once(issuer: Issuer, clock: Clock) -> None:
    door = opened(issuer, clock)
    actor(door, issuer.token(NOW_S))
    clock.now_s += oidc.FETCH_EVERY_S
    for n in range(100):
        refused(door, issuer.token(NOW_S, header={"kid": f"k{n}"}))
    assert issuer.fetched == 2


def test_a_key_that_is_withdrawn_counts_no_more_after_an_hour(issuer: Issuer, clock: Clock) -> None:
    door, text = opened(issuer, clock), issuer.token(NOW_S)
    actor(door, text)
    issuer.published.remove("eddsa")
    clock.now_s += oidc.MAX_AGE_S
    actor(door, text)
    clock.now_s += 1
    assert refused(door, text)[0] == 401


def test_while_the_issuer_is_away_known_keys_count_and_without_any_the_hub_is_not_ready(
    issuer: Issuer, clock: Clock
) -> None:
    door, issuer.status = opened(issuer, clock), 500
    assert refused(door, issuer.token(NOW_S))[0] == 503
    issuer.status = 200
    clock.now_s += oidc.FETCH_EVERY_S
    actor(door, issuer.token(NOW_S))
    issuer.status = 500
    clock.now_s += 10 * oidc.MAX_AGE_S
    assert actor(door, issuer.token(NOW_S)).actor == "oidc:anna"


def test_weak_and_foreign_keys_are_passed_over() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm

    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    other = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
    good = json.loads(Issuer().jwks())["keys"][0]
    rows = [
        good, weak | {"kid": "weak"}, other | {"kid": "p384"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        good | {"kid": "enc", "use": "enc"}, good | {"kid": 5}, good | {"kid": "hs", "alg": "HS256"}, 7, {},
        good | {"kid": "short", "x": "AA"},
    ]  # fmt: skip
    assert set(oidc.parse_jwks(json.dumps({"keys": rows}))) == {"eddsa"}


@pytest.mark.parametrize("bad", ["", "[]", "{}", '{"keys": 1}', '{"keys": []}', '{"keys": [1]}', "[" * 100_000])
def test_what_is_no_key_set_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"key|JSON|Expecting"):
        oidc.parse_jwks(bad)


def test_keys_are_fetched_over_the_network(issuer: Issuer) -> None:
    with serving(issuer) as url:
        door = Oidc(settings(issuer, jwks_url=url))
        assert actor(door, issuer.token(NOW_S)).actor == "oidc:anna"
        assert issuer.fetched == 1
        for status, padding in ((302, ""), (500, ""), (200, "x" * oidc.MAX_JWKS)):
            issuer.status, issuer.padding = status, padding
            assert refused(Oidc(settings(issuer, jwks_url=url)), issuer.token(NOW_S))[0] == 503
        assert issuer.fetched == 4  # no redirect was followed
    assert refused(Oidc(settings(issuer, jwks_url=url)), issuer.token(NOW_S))[0] == 503


def test_keys_from_a_file_need_no_network(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(issuer.jwks(), "utf-8")
    door = Oidc(settings(issuer, jwks_url="", jwks_file=str(file)))
    monkeypatch.setattr(socket, "socket", None)
    assert actor(door, issuer.token(NOW_S)).actor == "oidc:anna"
    issuer.add("new")
    assert refused(door, issuer.token(NOW_S, "new"))[0] == 401


@pytest.mark.parametrize(("more", "place"), [
    ({"jwks_url": ""}, "oidc"), ({"jwks_file": "x"}, "oidc"), ({"jwks_url": "http://login.plant.example"}, "jwks_url"),
    ({"jwks_url": "file:///etc/passwd"}, "jwks_url"), ({"roles": {"a": "king"}}, "oidc.roles.a"),
    ({"jwks_url": "", "jwks_file": "/nowhere"}, "jwks_file"), ({"jwks_url": "", "jwks_file": "/dev/null"}, "jwks_file"),
])  # fmt: skip
def test_settings_that_cannot_work_stop_the_start(issuer: Issuer, more: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        Oidc(settings(issuer, **more))


def test_a_second_factor_cannot_be_set_to_nothing(issuer: Issuer) -> None:
    with pytest.raises(ValidationError):
        settings(issuer, mfa=[])


# -- REST ------------------------------------------------------------------------------------------


@pytest.fixture
def sites(tmp_path: Path, issuer: Issuer) -> Iterator[Sites]:
    one = Sites(tmp_path, databases.sqlite(tmp_path), oidc=opened(issuer, scope_claim=""))
    yield one
    one.close()


def test_a_person_changes_devices_under_the_own_name(sites: Sites, issuer: Issuer) -> None:
    token = issuer.token(now_us() / 1e6, sub="anna@plant.example")
    assert sites.ask("PATCH", "/api/v1/devices/{device}/tags", MINE, token).status_code == 200
    with sites.db.read() as session:
        assert trail.rows(session, limit=1)[0].actor == "oidc:anna@plant.example"
    assert sites.ask("DELETE", "/api/v1/devices/{device}", MINE, token).status_code == 403


def test_administrative_changes_need_a_second_factor(sites: Sites, issuer: Issuer) -> None:
    now_s = now_us() / 1e6
    one = issuer.token(now_s, roles=["plant-security"])
    two = issuer.token(now_s, roles=["plant-security"], amr=["pwd", "mfa"])
    changes = [
        ("POST", "/api/v1/tokens"), ("PUT", "/api/v1/devices/{device}/asset-path"),
        ("DELETE", "/api/v1/devices/{device}"),
    ]  # fmt: skip
    for method, path in changes:
        for weak in (one, sites.whole):
            answer = sites.ask(method, path, THEIRS, weak)
            assert (answer.status_code, answer.json()["title"]) == (403, "Second factor needed")
            assert "mfa" in answer.json()["detail"]
        assert sites.ask(method, path, THEIRS, two).status_code in {200, 201, 204}
    assert sites.ask("GET", "/api/v1/tokens", MINE, one).status_code == 200  # looking needs one


def test_tokens_of_the_hub_go_on_beside_it(sites: Sites) -> None:
    assert sites.ask("GET", "/api/v1/devices", MINE, sites.whole).status_code == 200


def test_a_forged_token_counts_as_a_guess_and_an_expired_one_does_not(sites: Sites, issuer: Issuer) -> None:
    now_s = now_us() / 1e6
    late = issuer.token(now_s - 1000)
    assert {sites.ask("GET", "/api/v1/devices", MINE, late).status_code for _ in range(9)} == {401}
    forged = issuer.forged(now_s)["alg none"]
    answers = [sites.ask("GET", "/api/v1/devices", MINE, forged).status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]


def test_a_scope_of_a_person_holds(tmp_path: Path, issuer: Issuer) -> None:
    door = opened(issuer, scope_claim="sites")
    sites = Sites(tmp_path, databases.sqlite(tmp_path), oidc=door)
    token = issuer.token(now_us() / 1e6, sites=["acme/a"])
    assert [row["id"] for row in sites.ask("GET", "/api/v1/devices", MINE, token).json()] == [MINE]
    assert sites.ask("GET", "/api/v1/devices/{device}", THEIRS, token).status_code == 404
    sites.close()
