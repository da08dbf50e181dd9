"""Alarms leave to real servers: Debian's Alertmanager, SMTP over TLS; and the command that tries a channel."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from pydantic import TypeAdapter
from simulators import databases
from simulators.alertmanager import alertmanager
from simulators.brokers import free_port, until
from simulators.certificates import certificates
from simulators.robots import robot

from cloud_hub import __main__, clock
from cloud_hub.database.sessions import Database
from cloud_hub.incidents import service as incidents
from cloud_hub.notifications import Page, PageAlarm, PageIncident
from cloud_hub.notifications.delivery import ChannelWorker
from cloud_hub.notifications.senders import open_sender
from cloud_hub.settings import channels
from shared.errors import ConfigError, NotReady
from shared.protocol.messages import Alarm


def settings(**raw: Any) -> Any:
    return TypeAdapter(channels.AnyChannel).validate_python(raw)


def alarm(number: str, state: Any, t_us: int) -> Alarm:
    return Alarm(id=number, metric="cpu.load", kind="high", state=state, priority="high", t_us=t_us, value=97, limit=90)


def test_the_alertmanager_shows_a_page_until_it_is_over(tmp_path: Path) -> None:
    db = Database(databases.sqlite(tmp_path))
    with alertmanager(tmp_path / "am") as url:
        channel_settings = settings(kind="alertmanager", url=url, group_wait_s=0)
        sender = open_sender("am", channel_settings, "plant-1")
        channel = ChannelWorker(db, "am", channel_settings, sender, lambda: 0.5)

        def alerts() -> list[dict[str, Any]]:
            channel.run_once()
            found: list[dict[str, Any]] = httpx.get(f"{url}/api/v2/alerts", timeout=60).json()
            return found

        channel.run_once()
        now = clock.now_us()
        for number in ("a1", "a2", "a3"):
            with db.write() as session:
                incidents.handle_alarm(session, "press-3", alarm(number, "raised", now), now, "")
        (found,) = until("the alert is there", alerts)
        assert found["labels"] | {"incident": ""} == {
            "alertname": "TidegateIncident", "device": "press-3", "subject": "cpu", "severity": "high",
            "hub": "plant-1", "incident": "",
        }  # fmt: skip
        assert found["status"]["state"] == "active"
        assert "cpu.load high 97 (limit 90)" in found["annotations"]["description"]
        for number in ("a1", "a2", "a3"):
            with db.write() as session:
                incidents.handle_alarm(session, "press-3", alarm(number, "cleared", now), clock.now_us(), "")
        until("the alert is gone", lambda: not alerts())
    db.close()


# -- mail ------------------------------------------------------------------------------------------------


class Mailbox:
    """Keeps mails; refuses the recipient `gone@` for good and `full@` for now."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address.startswith("gone@"):
            return "550 no such user"
        if address.startswith("full@"):
            return "452 mailbox full"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        from email import message_from_bytes, policy

        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 taken"


def _login(_server: Any, _session: Any, _envelope: Any, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"anna", b"p4ss word")
    return AuthResult(success=good, handled=good)


@pytest.fixture
def post(tmp_path: Path) -> Iterator[tuple[Mailbox, int, Path]]:
    """A mailbox behind STARTTLS and a password, its port, and the CA that signed its certificate."""
    certificates(tmp_path, "mail")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "mail.pem", tmp_path / "mail.key")
    mailbox = Mailbox()
    port = free_port()
    controller = Controller(
        mailbox, hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True, auth_required=True,
        authenticator=_login,
    )  # fmt: skip
    controller.start()
    yield mailbox, port, tmp_path / "ca.pem"
    controller.stop()


def mail(folder: Path, port: int, ca: Path, **more: Any) -> Any:
    (folder / "password").write_text("p4ss word\n")
    raw = {
        "kind": "email", "host": "localhost", "port": port, "user": "anna", "password_file": str(folder / "password"),
        "ca_file": str(ca), "sender": "hub@plant.example", "to": ["ops@plant.example"], **more,
    }  # fmt: skip
    return open_sender("mail", settings(**raw), "plant-1")


def page(**more: Any) -> Page:
    message = more.pop("message", 0)
    alarm = PageAlarm(device="press-3", metric="cpu.load", kind="high", priority="high", value=97.0, limit=90.0,
                      raised_us=1_800_000_000_000_000, cleared_us=None)  # fmt: skip
    fields: dict[str, Any] = {
        "device": "press-3", "subject": "cpu", "path": "", "opened_us": 1_800_000_000_000_000, "resolved_us": None,
        "alarms": (alarm,),
    }  # fmt: skip
    return Page(id="p1", incidents=(PageIncident(**fields | more),), message=message)


def test_a_mail_is_signed_in_over_tls_and_its_end_answers_it(post: tuple[Mailbox, int, Path], tmp_path: Path) -> None:
    mailbox, port, ca = post
    evil = "x\r\nBcc: all@plant.example\r\n\r\n<b>fine</b>"
    sender = mail(tmp_path, port, ca)
    sender.send([page(diagnosis=evil, subject=evil)], clock.now_us())
    sender.send([page(resolved_us=1_800_000_060_000_000)], clock.now_us())
    first, second = mailbox.mails
    assert (first["To"], first["Bcc"], first.get_content_type()) == ("ops@plant.example", None, "text/plain")
    assert first["Subject"].startswith("[high] press-3 x Bcc:")
    assert "Diagnosis: x Bcc: all@plant.example <b>fine</b>" in first.get_content()
    assert second["In-Reply-To"] == first["Message-ID"]
    assert second["Message-ID"] != first["Message-ID"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"to": ["gone@plant.example"]}, ConfigError), ({"to": ["full@plant.example"]}, NotReady),
        ({"user": "eve"}, ConfigError), ({"ca_file": ""}, ConfigError), ({"port": 9}, NotReady),
        ({"tls": "none", "user": ""}, ConfigError),
    ],
)  # fmt: skip
def test_what_a_mail_server_refuses_is_told_by_who_must_act(
    post: tuple[Mailbox, int, Path], tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    mailbox, port, ca = post
    with pytest.raises(error) as told:
        mail(tmp_path, change.pop("port", port), ca, **change).send([page()], clock.now_us())
    assert mailbox.mails == []
    assert "p4ss" not in str(told.value)


# -- the command -----------------------------------------------------------------------------------------


def test_the_command_tries_a_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "hub.toml"
    with robot("wecom") as (taker, url):
        (tmp_path / "url").write_text(url)
        config.write_text(f'[notify.ops]\nkind = "wecom"\nurl_file = "{tmp_path / "url"}"\n')
        assert __main__.main(["notify", "test", "ops", "--config", str(config)]) == 0
        assert __main__.main(["notify", "test", "ops", "--resolved", "--config", str(config)]) == 0
        first, second = (json.dumps(one, ensure_ascii=False) for one in taker.taken)
        assert "测试消息" in first
        assert "已恢复" in second
        taker.down = True
        assert __main__.main(["notify", "test", "ops", "--config", str(config)]) == 1
    (tmp_path / "url").write_text("http://127.0.0.1:9/robot?key=hunter2")
    assert __main__.main(["notify", "test", "ops", "--config", str(config)]) == 1
    assert __main__.main(["notify", "test", "other", "--config", str(config)]) == 78
    said = capsys.readouterr()
    assert "configured: ops" in said.err
    assert "hunter2" not in said.err + said.out


def test_settings_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_NOTIFY", '{"ops": {"kind": "webhook", "url": "http://127.0.0.1:9/in"}}')
    assert __main__.main(["notify", "test", "ops"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
