"""Experts answer what the edge would not keep: a larger model today, a GLM with vision where one is configured.

`desk` answers escalations from the database; `calibration` turns its answers into the gates of the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """An expert's answer; `confidence` in 0..1."""

    label: str
    confidence: float


class Expert(Protocol):
    """Answers frames."""

    name: str

    def answer(self, shape: tuple[int, int], frames: Sequence[bytes]) -> list[Opinion]:
        """One opinion a frame of uint8 grey values [height, width]; raises ModelError when they do not fit."""
        ...
