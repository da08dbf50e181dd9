"""Settings of `[experts]`: who answers what edge models escalate, and how gates are calibrated from the answers."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_hub.settings.inference import RequestClass


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(_Table):
    """An inference server with the open inference protocol (KServe v2), which runs the model of the bundle.

    `model` is its name there (default: that of the bundle); `version` may be empty. With `binary` tensors travel as
    bytes, by the protocol's binary tensor extension, in place of JSON numbers.
    """

    url: str = Field(pattern=r"^https?://")
    model: str = ""
    version: str = ""
    binary: bool = False
    key_file: str = ""
    ca_file: str = ""
    timeout_s: float = Field(default=10.0, gt=0, le=600)


class Vision(_Table):
    """A large model with vision: `pool` of [[inference.pools]] is shown the frame, and answers one of `labels`.

    `parallel` frames are asked at one time, as requests of `request_class` with the deadline `timeout_s`. A frame that
    was received longer ago than that is asked for in class low.
    """

    pool: str
    labels: list[str] = Field(min_length=2, max_length=200)
    question: str = "What does the image show?"
    parallel: int = Field(default=4, ge=1, le=64)
    request_class: RequestClass = "normal"
    timeout_s: float = Field(default=60.0, gt=0, le=600)
    max_tokens: int = Field(default=200, ge=16)


class Experts(_Table):
    """`bundles` maps a device's model name to the folder of the expert's bundle that answers for it.

    A model that is in `servers` too runs there; one in `vision` is answered by a large model. At most `max_batch`
    frames are answered at once; a run waits `max_wait_s` for more of them.

    A gate promises at most `alpha` disagreement among kept answers, with confidence 1 - `delta`, from `frames` answered
    frames; `audit` is the share of kept answers that is checked all the same.
    """

    bundles: dict[str, str] = {}
    servers: dict[str, Server] = {}
    vision: dict[str, Vision] = {}
    max_batch: int = Field(default=64, ge=1, le=1024)
    max_wait_s: float = Field(default=0.0, ge=0, le=10)
    alpha: float = Field(default=0.02, gt=0, lt=0.5)
    delta: float = Field(default=0.1, gt=0, lt=0.5)
    frames: int = Field(default=300, ge=20)
    audit: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _one_expert_each(self) -> Self:
        if lost := sorted(self.servers.keys() - self.bundles.keys()):
            raise ValueError(f"servers.{lost[0]}: name its bundle in bundles too, which says how frames become tensors")
        if twice := sorted(self.vision.keys() & self.bundles.keys()):
            raise ValueError(f"vision.{twice[0]}: bundles has that model too")
        return self
