"""Signing in: a token is exchanged for a session cookie, which ends when idle, with the token, and by signing out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from simulators.pages_world import Pages, csrf, open_pages, sign_in

from cloud_hub.access import sessions, tokens
from cloud_hub.access.sessions import SessionStore
from cloud_hub.audit import trail
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with open_pages(tmp_path_factory.mktemp("login")) as one:
        yield one


def cookie_of(answer: Any, name: str) -> str:
    found = [value for value in answer.headers.get_list("set-cookie") if value.startswith(f"{name}=")]
    assert len(found) == 1, answer.headers
    return str(found[0])


def test_the_session_cookie_is_strict_and_follows_the_folder_of_the_page(hub: Pages) -> None:
    client = hub.client()
    cookie = cookie_of(sign_in(client, hub.tokens["anna"]), "tidegate_session")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path" not in cookie
    assert hub.tokens["anna"] not in cookie
    assert client.get("/ui/").status_code == 200


def test_over_https_the_cookie_is_secure(hub: Pages) -> None:
    client = hub.client()
    client.base_url = "https://hub"
    assert "Secure" in cookie_of(sign_in(client, hub.tokens["anna"]), "tidegate_session")


def test_without_a_session_a_page_leads_to_the_login_and_data_is_refused(hub: Pages) -> None:
    client = hub.client()
    answer = client.get("/ui/devices/press-3", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "../login")
    assert client.get("/ui/devices.json", headers={"accept": "*/*"}).status_code == 401
    fragment = client.get("/ui/", headers={"hx-request": "true"})
    assert (fragment.status_code, fragment.headers["hx-redirect"]) == (204, "login")


def test_a_bearer_token_opens_no_page_and_a_cookie_no_rest(hub: Pages) -> None:
    bearer = {"Authorization": f"Bearer {hub.tokens['anna']}"}
    assert hub.client().get("/ui/devices.json", headers=bearer | {"accept": "*/*"}).status_code == 401
    assert hub.client("anna").get("/api/v1/devices").status_code == 401


def test_wrong_tokens_lock_the_address_out_of_pages_and_rest(hub: Pages) -> None:
    client = hub.client()
    for _ in range(5):
        answer = sign_in(client, "tg_wrong")
        assert answer.status_code == 401
        assert "This token is not known" in answer.text
    locked = client.post("/ui/login", data={"csrf": "", "token": hub.tokens["anna"]})
    assert locked.status_code == 429
    assert client.get("/api/v1/devices", headers={"Authorization": "Bearer tg_x"}).status_code == 429


def test_a_program_that_may_not_read_cannot_sign_in(hub: Pages) -> None:
    answer = sign_in(hub.client(), hub.tokens["robot"])
    assert answer.status_code == 403
    assert "may not read" in answer.text


def test_a_revoked_token_ends_its_session_at_once(hub: Pages) -> None:
    client = hub.client("victor")
    with hub.db.write() as session:
        tokens.revoke_by_name(session, "victor", now_us(), "test")
    answer = client.get("/ui/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "login")


def test_signing_out_ends_the_session_for_every_copy_of_the_cookie(hub: Pages) -> None:
    client = hub.client("anna")
    cookies = dict(client.cookies)
    form = {"csrf": csrf(client.get("/ui/"))}
    assert client.post("/ui/logout", data=form, follow_redirects=False).headers["location"] == "login"
    copy = hub.client()
    copy.cookies.update(cookies)
    assert copy.get("/ui/", follow_redirects=False).status_code == 303


def test_sessions_are_in_the_audit_trail(hub: Pages) -> None:
    client = hub.client("anna")
    client.post("/ui/logout", data={"csrf": csrf(client.get("/ui/"))})
    with hub.db.read() as session:
        found = [(row.kind, row.actor) for row in trail.rows(session) if row.kind.startswith("session.")]
    assert found == [("session.ended", "anna"), ("session.started", "anna")]


def test_a_login_form_of_another_site_is_refused(hub: Pages) -> None:
    client = hub.client()
    client.get("/ui/login")
    assert client.post("/ui/login", data={"csrf": "guess", "token": hub.tokens["anna"]}).status_code == 403
    form = {"csrf": csrf(client.get("/ui/login")), "token": hub.tokens["anna"]}
    assert client.post("/ui/login", data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_preferences_lead_back_only_to_pages_of_the_hub(hub: Pages) -> None:
    client = hub.client()
    for back, expected in (
        ("devices?text=a", "devices?text=a"), ("//evil.example", "./"), ("https://evil.example", "./"),
        ("/\\evil", "./"), ("../../x", "./"), ("javascript:alert(1)", "./"), ("", "./"),
    ):  # fmt: skip
        form = {"csrf": csrf(client.get("/ui/login")), "language": "zh", "theme": "dark", "back": back}
        answer = client.post("/ui/preferences", data=form, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, expected)
    assert '<html lang="zh" data-theme="dark">' in client.get("/ui/login").text


# -- the store ---------------------------------------------------------------------------------------

MINUTE = 60_000_000


def test_a_session_ends_when_idle_and_after_its_longest_time() -> None:
    store = SessionStore()
    session_id = store.begin("digest", 0)
    store.get(session_id, 29 * MINUTE, 1800)
    store.get(session_id, 58 * MINUTE, 1800)
    store.get(session_id, 80 * MINUTE, 1800, use=False)
    with pytest.raises(HubError, match="Session ended"):
        store.get(session_id, 89 * MINUTE, 1800)
    with pytest.raises(HubError, match="Not signed in"):
        store.get(session_id, 0, 1800)
    session_id = store.begin("digest", 0)
    for now in range(0, sessions.LONGEST_US + 1, 20 * MINUTE):
        store.get(session_id, now, 1800)
    with pytest.raises(HubError, match="Session ended"):
        store.get(session_id, sessions.LONGEST_US + 1, 1800)


def test_the_session_that_was_not_used_for_the_longest_time_makes_room() -> None:
    store = SessionStore()
    ids = [store.begin("digest", 0) for _ in range(sessions.MAX_SESSIONS)]
    store.get(ids[0], 1, 1800)
    store.begin("digest", 2)
    store.get(ids[0], 3, 1800)
    with pytest.raises(HubError):
        store.get(ids[1], 3, 1800)


def test_streams_are_bounded_for_a_session_and_for_the_hub() -> None:
    store = SessionStore()
    found = [store.get(store.begin("digest", 0), 0, 1800) for _ in range(20)]
    held = []

    def opened(session: sessions.BrowserSession) -> bool:
        place = store.stream(session)
        try:
            place.__enter__()
        except HubError:
            return False
        held.append(place)
        return True

    assert [opened(found[0]) for _ in range(7)] == [True] * 6 + [False]
    assert sum(opened(one) for one in found[1:] for _ in range(6)) == sessions.MAX_STREAMS - 6
    held.pop().__exit__(None, None, None)
    assert opened(found[-1])
