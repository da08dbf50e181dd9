"""Sends pages by e-mail (SMTP), as plain text. Later mails about a page are replies to its first one."""

from __future__ import annotations

import hashlib
import smtplib
import ssl
from collections.abc import Sequence
from datetime import datetime, timezone
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from cloud_hub.notifications import Page
from cloud_hub.notifications.core import templates
from cloud_hub.notifications.core.markdown import strip_control, truncate
from cloud_hub.security import secret_files
from cloud_hub.settings import channels
from shared.errors import ConfigError, NotReady

MAX_LINE = 900
"""SMTP allows lines of at most 998 bytes."""


class Mail:
    """Sends mails of at most 100 pages."""

    most = 100

    def __init__(self, place: str, settings: channels.Mail, hub: str) -> None:
        self._place, self._settings, self._hub = place, settings, hub
        try:
            self._trust = ssl.create_default_context(cafile=settings.ca_file or None)
        except OSError as error:
            raise ConfigError(f"{place}.ca_file", f"cannot be used ({error})", "Name a readable PEM file") from None
        self._password()

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """See `Sender`."""
        self._deliver(self._mail(pages, now_us))

    def send_text(self, subject: str, text: str, key: str, now_us: int) -> None:
        """Send one mail to the recipients of the channel; the same `key` makes the same Message-ID."""
        mail = self._addressed(subject, now_us)
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        mail["Message-ID"] = f"<{digest}.action@{self._settings.sender.partition('@')[2]}>"
        rows = [truncate(strip_control(line), MAX_LINE) for line in text.splitlines()]
        mail.set_content("\n".join([*rows, "", "-- ", f"Tidegate {self._hub}"]))
        self._deliver(mail)

    def _deliver(self, mail: EmailMessage) -> None:
        try:
            with self._connect() as smtp:
                if self._settings.tls == "starttls":
                    smtp.starttls(context=self._trust)
                if self._settings.user:
                    smtp.login(self._settings.user, self._password())
                smtp.send_message(mail)
        except ssl.SSLError as error:
            cure = "Check its certificate, or name its CA in ca_file"
            raise ConfigError(self._place, f"TLS failed ({error.reason or type(error).__name__})", cure) from None
        except smtplib.SMTPException as error:
            raise _refusal(self._place, error) from None
        except OSError as error:
            raise NotReady(f"cannot be reached ({error.strerror or type(error).__name__})", 5.0) from None

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        if settings.tls == "tls":
            return smtplib.SMTP_SSL(settings.host, settings.port, timeout=settings.timeout_s, context=self._trust)
        return smtplib.SMTP(settings.host, settings.port, timeout=settings.timeout_s)

    def _password(self) -> str:
        settings = self._settings
        return secret_files.read(f"{self._place}.password_file", settings.password_file) if settings.user else ""

    def _addressed(self, subject: str, now_us: int) -> EmailMessage:
        mail = EmailMessage(policy=SMTP)
        mail["Subject"] = truncate(strip_control(subject), 200)
        mail["From"], mail["To"] = self._settings.sender, ", ".join(self._settings.to)
        mail["Date"] = format_datetime(datetime.fromtimestamp(now_us / 1e6, timezone.utc))
        mail["Auto-Submitted"] = "auto-generated"
        return mail

    def _mail(self, pages: Sequence[Page], now_us: int) -> EmailMessage:
        settings = self._settings
        mail = self._addressed(templates.title(pages, settings.language), now_us)
        domain = settings.sender.partition("@")[2]
        if len(pages) == 1:  # the same mail sent twice has the same name
            thread = f"<{pages[0].id}.open@{domain}>"
            state, number = "open" if pages[0].open else "resolved", pages[0].message
            later = f".{number}" if number else ""  # servers drop a mail whose name they have seen
            mail["Message-ID"] = f"<{pages[0].id}.{state}{later}@{domain}>"
            if mail["Message-ID"] != thread:
                mail["In-Reply-To"] = mail["References"] = thread
        else:
            mail["Message-ID"] = f"<{pages[0].id}.{len(pages)}.{now_us}@{domain}>"
        rows = [
            truncate(f"{key}: {strip_control(text)}", MAX_LINE)
            for key, text in templates.lines(pages, settings.language)
        ]
        mail.set_content("\n".join([*rows, "", "-- ", f"Tidegate {self._hub}"]))
        return mail


def _refusal(place: str, error: smtplib.SMTPException) -> ConfigError | NotReady:
    """The error for an SMTP code: 4xx is temporary, 5xx permanent. Omits the server's text, which may hold secrets."""
    code = getattr(error, "smtp_code", 0)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code = max((smtp_code for smtp_code, _ in error.recipients.values()), default=0)
    if isinstance(error, smtplib.SMTPAuthenticationError) or 500 <= code < 600:
        return ConfigError(
            place, f"refused ({type(error).__name__} {code})", "Check user, password, sender and recipients"
        )
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return ConfigError(place, "does not offer STARTTLS or sign-in", "Set tls to what the server speaks")
    return NotReady(f"{type(error).__name__} {code}", 30.0)
