"""The settings of actions."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloud_hub.settings.channels import address


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ActionWebhook(_Table):
    """An address that actions may post to; requests are signed with the secret in `secret_file`.

    With `private`, it may be within a private network or on this machine.
    """

    url: str
    secret_file: str = ""
    ca_file: str = ""
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    private: bool = False

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        return address(url)


class Actions(_Table):
    """What the hub may do. `policy` is the policy file; without one, verbs of `automatic` need no person, and
    `cooldown_s` and `per_day` bound them on one device. The twin must show an effect within `verify_s`; a script may
    take `script_s`.
    """

    policy: str = ""
    automatic: list[Literal["diagnose", "restart", "capture"]] = ["diagnose", "restart"]
    cooldown_s: float = Field(default=600.0, ge=0)
    per_day: int = Field(default=6, ge=0)
    verify_s: float = Field(default=30.0, gt=0)
    script_s: float = Field(default=300.0, gt=0)
    webhooks: dict[str, ActionWebhook] = {}
