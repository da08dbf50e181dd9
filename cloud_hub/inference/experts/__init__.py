"""Experts: larger models that answer frames which edge models escalate.

`registry` opens them; `onnx` (here or by `kserve`) and `vision` (a large model) are the kinds. `worker` answers
escalations from the database; `calibration` computes the gates of devices from the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.protocol.messages import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """An expert's answer; `confidence` in 0..1. `values` are numeric outputs by name, such as counts of a detector.

    `cost` is in the currency of the pool's prices. An empty label without values: it could not judge the input.
    """

    label: str
    confidence: float
    values: dict[str, float] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)
    cost: float = 0.0


NO_OPINION = Opinion(label="", confidence=0.0)
"""Of an input that an expert could not judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a frame comes from: the device, its assigned path, the trace of its message; received `age_s` ago."""

    device: str = ""
    sites: tuple[str, ...] = ()
    trace: str = ""
    age_s: float = 0.0


class Expert(Protocol):
    """A model that answers escalated frames."""

    name: str

    def answer(
        self, shape: tuple[int, ...], frames: Sequence[bytes], *, dtype: str = "uint8", color: str = "gray",
        origins: Sequence[Origin] = (),
    ) -> list[Opinion]:  # fmt: skip
        """Return an opinion for each frame: uint8 pixels [height, width] or [height, width, channels] in the order
        that `color` names, or a window of metrics, float32 [samples, metrics]. Raises ModelError on a misfit.

        `origins` are where the frames come from, or empty.
        """
        ...
