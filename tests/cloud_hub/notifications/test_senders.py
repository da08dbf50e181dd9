"""Each kind of channel against a strict fake of its server: form, signature, size, errors in a 200, no secret shown."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from simulators.receivers import Answer, Asked, receiver
from simulators.robots import KEY, SECRET, StrictAlertmanager, robot

from cloud_hub.clock import now_us
from cloud_hub.notifications import Page, PageAlarm, PageIncident, Sender, wecom
from cloud_hub.notifications.core import markdown, templates
from cloud_hub.notifications.senders import open_sender
from cloud_hub.security.core.webhook_signature import sign
from cloud_hub.settings import channels
from shared.errors import ConfigError, NotReady

T = 1_800_000_000_000_000
EVIL = 'a\n# b [click](http://evil.example) <@all> <font color="info">ok</font> ![x](//e) `c` **d** \u202e www.evil.org'
ROBOTS = ("wecom", "dingtalk", "feishu")
Evil = st.text(max_size=300) | st.just(EVIL)


def page(number: int = 1, *, alarms: int = 1, resolved: bool = False, **more: Any) -> Page:
    devices: tuple[str, ...] = more.pop("devices", (f"press-{number}",))
    rest: dict[str, Any] = {name: more.pop(name) for name in ("joined", "message") if name in more}
    fields: dict[str, Any] = {
        "subject": "cpu", "path": "acme/site-a/hall-2", "opened_us": T,
        "resolved_us": T + 421_000_000 if resolved else None,
    }  # fmt: skip

    def incident(device: str, count: int) -> PageIncident:
        made = tuple(
            PageAlarm(device=device, metric=f"cpu.load_{one}", kind="high", priority="high", value=97.25, limit=90.0,
                      raised_us=T, cleared_us=T if resolved else None)
            for one in range(count)
        )  # fmt: skip
        return PageIncident(**{"device": device, "alarms": made} | fields | more)

    incidents = tuple(incident(device, 1 if n else alarms) for n, device in enumerate(devices))
    return Page(id=f"01a1fc6b-a98f-7b80-b3e0-{number:012d}", incidents=incidents, **rest)


def opened(folder: Path, kind: str, url: str, **more: Any) -> Sender:
    """A sender whose address and secret stand in files."""
    (folder / "url").write_text(f"{url}\n")
    (folder / "secret").write_text(f"{SECRET}\n")
    signed = {"secret_file": str(folder / "secret")} if kind in ("dingtalk", "feishu", "webhook") else {}
    raw = {"kind": kind, "url_file": str(folder / "url"), **signed, **more}
    settings: channels.Channel = TypeAdapter(channels.AnyChannel).validate_python(raw)
    return open_sender("ops", settings, "plant-1")


@pytest.mark.parametrize("kind", ROBOTS)
@pytest.mark.parametrize("pages", [[page()], [page(resolved=True)], [page(n) for n in range(100)]])
def test_robots_accept_the_messages(kind: str, pages: list[Page], tmp_path: Path) -> None:
    with robot(kind) as (taker, url):
        opened(tmp_path, kind, url).send(pages, now_us())
        assert (len(taker.taken), taker.refused) == (1, [])
        text = json.dumps(taker.taken[0], ensure_ascii=False)
    assert "press-" in text
    assert "高" in text or "已恢复" in text


@pytest.mark.parametrize("kind", ROBOTS)
def test_the_largest_page_stays_within_the_robots_limits(kind: str, tmp_path: Path) -> None:
    long = "测" * 5000
    devices = tuple(f"{'d' * 50}-{n}" for n in range(500))
    huge = page(alarms=500, diagnosis=long, devices=devices, path="/".join(["x" * 64] * 5))
    with robot(kind) as (taker, url):
        opened(tmp_path, kind, url).send([huge], now_us())
        opened(tmp_path, kind, url).send([page(n, subject="s" * 100, device="d" * 60) for n in range(100)], now_us())
        assert (len(taker.taken), taker.refused) == (2, [])


@pytest.mark.parametrize("kind", ROBOTS)
def test_a_refusal_inside_a_200_is_a_refusal(kind: str, tmp_path: Path) -> None:
    with robot(kind) as (taker, url):
        (tmp_path / "other").write_text("not the secret")
        wrong = {"secret_file": str(tmp_path / "other")} if kind != "wecom" else {}
        sender = opened(tmp_path, kind, url.replace(KEY, "0") if kind == "wecom" else url, **wrong)
        with pytest.raises(ConfigError, match="refused") as told:
            sender.send([page()], now_us())
        assert taker.taken == []
        assert taker.refused == [{"wecom": 93000, "dingtalk": 310000, "feishu": 19021}[kind]]
    assert str(taker.refused[0]) in str(told.value)
    assert SECRET not in str(told.value)
    assert KEY not in str(told.value)


@pytest.mark.parametrize("kind", ROBOTS)
def test_rate_limited_messages_are_retried_and_none_is_lost(kind: str, tmp_path: Path) -> None:
    with robot(kind, lambda: now_us() / 1e6) as (taker, url):
        sender = opened(tmp_path, kind, url)
        for _ in range({"wecom": 20, "dingtalk": 20, "feishu": 100}[kind]):
            sender.send([page()], now_us())
        with pytest.raises(NotReady) as told:
            sender.send([page()], now_us())
        assert told.value.wait_s >= 60
        assert len(taker.taken) == {"wecom": 20, "dingtalk": 20, "feishu": 100}[kind]


@pytest.mark.parametrize("kind", ROBOTS)
def test_a_signature_of_yesterday_is_refused(kind: str, tmp_path: Path) -> None:
    if kind == "wecom":
        return
    with robot(kind) as (_, url), pytest.raises(ConfigError):
        opened(tmp_path, kind, url).send([page()], now_us() - 86400 * 1_000_000)


@pytest.mark.parametrize("kind", [*ROBOTS, "webhook", "alertmanager"])
def test_an_unreachable_receiver_is_retried_without_showing_its_address(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiver(lambda _: (502, b"")) as url:
        sender = opened(tmp_path, kind, f"{url}/{KEY}?key={KEY}")
        with pytest.raises(NotReady) as told:
            sender.send([page()], now_us())
    with pytest.raises(NotReady) as gone:
        sender.send([page()], now_us())
    assert "502" in told.value.reason
    assert "cannot be reached" in gone.value.reason
    everything = f"{told.value} {gone.value} {caplog.text}"
    assert KEY not in everything
    assert SECRET not in everything


@pytest.mark.parametrize("kind", [*ROBOTS, "webhook", "alertmanager"])
def test_a_redirect_is_not_followed(kind: str, tmp_path: Path) -> None:
    seen: list[Asked] = []

    def taken(asked: Asked) -> Answer:
        seen.append(asked)
        return 200, b'{"errcode": 0, "code": 0}'

    with (
        receiver(taken) as elsewhere,
        receiver(lambda _: (302, b"", {"Location": elsewhere})) as url,
        pytest.raises(ConfigError),
    ):
        opened(tmp_path, kind, url).send([page()], now_us())
    assert seen == []


@given(Evil)
def test_device_text_cannot_inject_chat_markup(text: str) -> None:
    message = wecom.text([page(device="d", subject=text, diagnosis=text)], "en")
    inner = message.replace('<font color="warning">', "", 1).replace("</font>", "", 1)
    assert not re.search(r"[<>\[\]`*]|://|www\.", re.sub(r"^> ", "", inner, flags=re.M))
    assert all(line.startswith(("<font", "> ")) for line in message.split("\n"))
    assert len(message.encode()) <= wecom.MAX_BYTES


def test_the_injection_check_detects_unescaped_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wecom, "escape", markdown.strip_control)
    message = wecom.text([page(subject=EVIL)], "en")
    assert "[click](http://evil.example)" in message
    assert markdown.escape("line_camera/ok_score (5)") == "line_camera/ok_score (5)"


@given(st.text(max_size=200), st.integers(4, 100))
def test_truncation_keeps_whole_characters_within_the_byte_limit(text: str, most: int) -> None:
    cut = markdown.truncate(text, most)
    assert len(cut.encode()) <= most
    assert cut == text or cut.endswith("…")


# -- webhook ---------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_json(tmp_path: Path) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        seen.append(asked)
        return 204, b""

    at = now_us()
    with receiver(answer) as url:
        opened(tmp_path, "webhook", f"{url}/in").send([page(), page(2, resolved=True)], at)
    (asked,) = seen
    assert asked.headers["tidegate-signature"] == sign(SECRET, asked.body, at // 1_000_000)
    assert asked.headers["tidegate-signature"] != sign(SECRET, asked.body + b" ", at // 1_000_000)
    body = json.loads(asked.body)
    assert (body["version"], body["hub"], body["sent_us"]) == (1, "plant-1", at)
    assert [(one["state"], one["device"]) for one in body["incidents"]] == [
        ("open", "press-1"),
        ("resolved", "press-2"),
    ]
    assert body["incidents"][0]["alarms"][0]["value"] == 97.25


def test_the_documented_signature_check_accepts_only_our_requests() -> None:
    page_text = (Path(__file__).parents[3] / "docs" / "notifications.md").read_text("utf-8")
    names: dict[str, Any] = {"hmac": hmac, "hashlib": hashlib}
    exec(re.findall(r"^```python webhook\n(.*?)^```$", page_text, re.M | re.S)[0], names)
    genuine, header = names["genuine"], sign(SECRET, b"{}", 1000)
    assert genuine(SECRET.encode(), header, b"{}", 1100.0)
    assert not genuine(SECRET.encode(), header, b"{ }", 1100.0)
    assert not genuine(SECRET.encode(), header, b"{}", 9999.0)
    assert not genuine(b"other", header, b"{}", 1100.0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ConfigError), (401, ConfigError), (404, ConfigError), (429, NotReady), (408, NotReady), (500, NotReady)],
)
def test_transient_errors_are_retried_and_permanent_ones_reported(
    status: int, kind: type[Exception], tmp_path: Path
) -> None:
    with receiver(lambda _: (status, b"")) as url, pytest.raises(kind, match=str(status)):
        opened(tmp_path, "webhook", url).send([page()], now_us())


def test_a_key_can_be_changed_while_the_hub_runs(tmp_path: Path) -> None:
    with robot("wecom") as (taker, url):
        sender = opened(tmp_path, "wecom", url.replace(KEY, "old"))
        with pytest.raises(ConfigError):
            sender.send([page()], now_us())
        (tmp_path / "url").write_text(url)
        sender.send([page()], now_us())
        assert len(taker.taken) == 1


# -- Alertmanager ----------------------------------------------------------------------------------------


def test_alerts_are_one_a_page_and_end(tmp_path: Path) -> None:
    strict = StrictAlertmanager()
    with receiver(strict) as url:
        sender = opened(tmp_path, "alertmanager", url)
        sender.send([page(alarms=5), page(2, diagnosis=EVIL, path="")], T + 60_000_000)
        sender.send([page(alarms=5, resolved=True)], T + 500_000_000)
    first, second = strict.alerts.values()
    assert first["labels"]["severity"] == "high"
    assert first["endsAt"] == "2027-01-15T08:07:01.000Z"
    assert first["startsAt"] == "2027-01-15T08:00:00.000Z"
    assert second["endsAt"] == "2027-01-15T08:05:00.000Z", "it ends by itself after four repetitions"
    assert "site" not in second["labels"]


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": "pigeon"}, {"kind": "wecom"}, {"kind": "wecom", "url": "https://a", "url_file": "b"},
        {"kind": "webhook", "url": "http://10.0.0.1/"}, {"kind": "webhook", "url": "https://u:p@a/"},
        {"kind": "webhook", "url": "ftp://a"}, {"kind": "wecom", "url_file": "a", "per_minute": 21},
        {"kind": "dingtalk", "url_file": "a", "per_minute": 21}, {"kind": "webhook", "url": "https://a", "secret": "x"},
        {"kind": "webhook", "url": "https://a", "hours": ["always"]},
        {"kind": "webhook", "url": "https://a", "time_zone": "Mars/Olympus"},
        {"kind": "webhook", "url": "https://a", "priority": "urgent"},
        {"kind": "email", "host": "h", "sender": "a@b", "to": []},
        {"kind": "email", "host": "h", "sender": "a@b", "to": ["x@y\nBcc: z@w"]},
        {"kind": "email", "host": "10.1.1.1", "sender": "a@b", "to": ["c@d"], "tls": "none", "user": "u"},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(channels.AnyChannel).validate_python(raw)


@pytest.mark.parametrize("content", ["", "ftp://a", "http://10.0.0.1/hook", "https://user:hunter2@host/", "two words"])
def test_a_url_file_without_a_usable_address_is_refused_without_showing_it(content: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"notify\.ops\.url_file") as told:
        opened(tmp_path, "wecom", content)
    assert "hunter2" not in str(told.value)


def test_a_channel_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"notify\.ops: no sender for settings of kind Common"):
        open_sender("ops", channels.Common(), "hub")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_both_languages_have_every_phrase(language: templates.Language) -> None:
    many = tuple(f"d{n}" for n in range(20))
    for pages in ([page(alarms=20, devices=many, diagnosis="x")], [page(resolved=True)], [page(n) for n in range(30)]):
        assert templates.title(pages, language)
        assert all(text for _, text in templates.lines(pages, language))
    assert templates.translate(language, "test")


def told(kind: str) -> Callable[[Asked], Answer]:
    return lambda asked: (200, kind.encode())


@pytest.mark.parametrize("kind", ROBOTS)
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"errcode": "0", "code": "0"}', "<html>", "null"])
def test_a_response_without_a_result_code_is_a_failure(kind: str, content: str, tmp_path: Path) -> None:
    with receiver(told(content)) as url, pytest.raises(ConfigError):
        opened(tmp_path, kind, url).send([page()], now_us())
