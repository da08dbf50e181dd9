"""Defines the settings of notification channels, one class for each kind. Secrets are paths of files."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cloud_hub.settings import week_hours
from shared.messages import Priority

LOCAL = ("127.0.0.1", "::1", "localhost")


class Common(BaseModel):
    """What every channel has. Notified is what has at least `priority`, of devices below one of `sites` (all when
    empty), within `hours` (always when empty); what begins outside of them is notified when they begin, if it lasts.

    A page waits `group_wait_s`, so that alarms which come together are one message; what joins it later, and its end,
    wait `group_interval_s`; what stands unacknowledged is notified again each `repeat_interval_s` (0: never). At most
    `per_minute` messages leave in a minute, and `burst` within `group_interval_s`: after them only what is worse (0: no
    such bound). One that is refused is tried again for `give_up_s` seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    most_per_minute: ClassVar[int] = 600

    priority: Priority = "low"
    sites: list[str] = []
    hours: list[str] = []
    time_zone: str = "UTC"
    group_wait_s: float = Field(default=10.0, ge=0, le=3600)
    group_interval_s: float = Field(default=300.0, ge=0, le=86400)
    repeat_interval_s: float = Field(default=0.0, ge=0, le=7 * 86400)
    burst: int = Field(default=3, ge=0)
    resolved: bool = True
    language: Literal["en", "zh"] = "en"
    per_minute: int = Field(default=15, ge=1)
    give_up_s: float = Field(default=86400.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0, le=60)

    @field_validator("hours")
    @classmethod
    def _hours(cls, value: list[str]) -> list[str]:
        for text in value:
            week_hours.parse_hours(text)
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        week_hours.parse_time_zone(value)
        return value

    @model_validator(mode="after")
    def _rate(self) -> Common:
        if self.per_minute > self.most_per_minute:
            raise ValueError(f"per_minute: its server takes at most {self.most_per_minute} a minute")
        return self


class Web(Common):
    """A channel that is an address: in `url`, or in `url_file` where the address itself is the secret."""

    url: str = ""
    url_file: str = ""
    ca_file: str = ""
    proxy: str = ""

    @model_validator(mode="after")
    def _address(self) -> Web:
        if bool(self.url) == bool(self.url_file):
            raise ValueError("give url, or url_file where the address is secret, and just one of them")
        if self.url:
            address(self.url)
        return self


def address(url: str) -> str:
    """An address that may be sent to: https, or http on this machine; raises ValueError, which does not show it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.password
        plain = parts.scheme == "http" and parts.hostname not in LOCAL
    except ValueError:
        good, plain = False, False
    if not good:
        raise ValueError("url must be https://host[:port]/path without user and password")
    if plain:
        raise ValueError("url must be https: alarms would travel readable to everyone")
    return url


class Alertmanager(Web):
    """A Prometheus Alertmanager, API v2; `url` is that below which /api/v2 is. What stands is said again every
    `resend_s` seconds, and ends by itself after four of them without a word.
    """

    kind: Literal["alertmanager"]
    group_interval_s: float = Field(default=0.0, ge=0, le=86400)
    burst: int = Field(default=0, ge=0)
    per_minute: int = Field(default=120, ge=1)
    token_file: str = ""
    user: str = ""
    password_file: str = ""
    resend_s: float = Field(default=60.0, ge=1, le=3600)


class Webhook(Web):
    """A POST of JSON to any address, signed with the secret in `secret_file` where there is one."""

    kind: Literal["webhook"]
    per_minute: int = Field(default=60, ge=1)
    secret_file: str = ""
    token_file: str = ""


class Mail(Common):
    """E-mail by SMTP."""

    kind: Literal["email"]
    host: str = Field(min_length=1)
    port: int = Field(default=587, ge=1, le=65535)
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password_file: str = ""
    ca_file: str = ""
    sender: str = Field(min_length=3)
    to: list[str] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _mail(self) -> Mail:
        if self.tls == "none" and self.user and self.host not in LOCAL:
            raise ValueError("tls must not be none where a password is sent: it would travel readable to everyone")
        for text in (self.sender, *self.to):
            if text.count("@") != 1 or not text.isprintable() or set(text) & set(' ,;<>"'):
                raise ValueError(f"'{text[:100]}' is no mail address such as ops@plant.example")
        return self


class WeCom(Web):
    """A robot of a WeCom (企业微信) group; its address holds its key."""

    kind: Literal["wecom"]
    most_per_minute: ClassVar[int] = 20
    language: Literal["en", "zh"] = "zh"


class DingTalk(Web):
    """A robot of a DingTalk (钉钉) group, with the secret of its signature."""

    kind: Literal["dingtalk"]
    most_per_minute: ClassVar[int] = 20
    language: Literal["en", "zh"] = "zh"
    secret_file: str = ""


class Feishu(Web):
    """A robot of a Feishu (飞书) group, with the secret of its signature."""

    kind: Literal["feishu"]
    most_per_minute: ClassVar[int] = 100
    language: Literal["en", "zh"] = "zh"
    secret_file: str = ""


Channel = Alertmanager | Webhook | Mail | WeCom | DingTalk | Feishu
AnyChannel = Annotated[Channel, Field(discriminator="kind")]
