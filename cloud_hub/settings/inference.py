"""Settings of `[inference]`: pools of engines."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RequestClass = Literal["emergency", "normal", "low"]


class Pool(BaseModel):
    """Addresses that serve the same model by the same kind of engine. `options` are the engine's own.

    `sites` are asset paths whose data may go there (all when empty); prices are per 1,000,000 tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    engine: str = "openai"
    addresses: list[str] = []
    model: str = ""
    key_file: str = ""
    classes: list[RequestClass] = ["emergency", "normal", "low"]
    sites: list[str] = []
    max_concurrent: int = Field(default=32, ge=1)
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    options: dict[str, Any] = {}


class Inference(BaseModel):
    """Where large models are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: list[Pool] = []
