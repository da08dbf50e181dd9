"""Whole numbers that equipment can hold, for values that are written."""

from __future__ import annotations

FLOAT32 = 1e-6
"""Relative error of a value that came as a 32-bit float."""


def whole(raw: float, kind: str) -> int:
    """`raw` as a whole number of the equipment; raises ValueError for one between two of its steps.

    It is not rounded: that could carry a value over the limit that was checked before.
    """
    nearest = round(raw)
    if abs(raw - nearest) > FLOAT32 * max(1.0, abs(raw)):
        raise ValueError(
            f"it would be {raw:g} in the equipment, whose {kind} holds whole numbers alone; write a full step"
        )
    return nearest
