"""Settings of the inference gateway: pools of engines, budgets, cache, privacy, and webhooks of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cloud_hub.settings.channels import address

RequestClass = Literal["emergency", "normal", "low"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pool(_Table):
    """Engines with one model at several addresses. `engine` is the plug-in, `options` are its own further options.

    A pool serves `classes`, and data of `sites` (asset paths; empty: every site). At most `max_concurrent` requests
    run at once for each address. A request that got nothing for `first_token_s`, or a stream that paused for `idle_s`,
    has failed; an emergency without an answer after `hedge_s` is sent to a second address too. Prices are of a million
    tokens.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    engine: str = "openai"
    addresses: list[str] = []
    model: str = ""
    key_file: str = ""
    options: dict[str, Any] = {}
    classes: list[RequestClass] = Field(default=["emergency", "normal", "low"], min_length=1)
    sites: list[str] = []
    max_concurrent: int = Field(default=32, ge=1, le=4096)
    context: int = Field(default=0, ge=0)
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    redact: bool = True
    first_token_s: float = Field(default=60.0, gt=0)
    idle_s: float = Field(default=30.0, gt=0)
    hedge_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.name == "auto":
            raise ValueError("'auto' stands for the choice by class: take another name")
        if len(set(self.addresses)) != len(self.addresses):
            raise ValueError("addresses holds one twice")
        return self


class InferenceBudget(_Table):
    """What a subject may use in a day (UTC); 0 is no limit. `name` "*" is each subject without a budget of its own."""

    kind: Literal["hub", "tenant", "device"]
    name: str = "*"
    tokens: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    money: float = Field(default=0.0, ge=0)


class TaskWebhook(_Table):
    """An address that is told when a task has ended; requests are signed with the secret in `secret_file`."""

    url: str
    secret_file: str = ""
    ca_file: str = ""
    timeout_s: float = Field(default=10.0, gt=0, le=60)

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        return address(url)


class Inference(_Table):
    """The gateway. `keep` is what is stored of each request: nothing, its `usage`, or prompts and answers (`texts`).

    Only callers with a role of `emergency_roles` and devices below the asset paths of `emergency_devices` may ask with
    class `emergency`, which goes before all others.
    """

    pools: list[Pool] = []
    budgets: list[InferenceBudget] = []
    max_queued: int = Field(default=1000, ge=1, le=100_000)
    cache_bytes: int = Field(default=64 << 20, ge=0)
    cache_s: float = Field(default=3600.0, ge=0)
    keep: Literal["nothing", "usage", "texts"] = "usage"
    keep_days: float = Field(default=30.0, ge=0)
    words_file: str = ""
    max_tool_rounds: int = Field(default=50, ge=1)
    device_prompt_bytes: int = Field(default=65_536, ge=1024)
    emergency_roles: list[Literal["operator", "inference"]] = ["operator"]
    emergency_devices: list[str] = []
    webhooks: dict[str, TaskWebhook] = {}

    @field_validator("pools")
    @classmethod
    def _names(cls, pools: Sequence[Pool]) -> Sequence[Pool]:
        names = [pool.name for pool in pools]
        if len(set(names)) != len(names):
            raise ValueError("two pools have one name")
        return pools
