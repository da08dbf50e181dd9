"""Mergeable quantile sketches: t-digests of Apache DataSketches, single precision, at most K centroids. No I/O.

T. Dunning, O. Ertl: Computing extremely accurate quantiles using t-digests (arXiv:1902.04023). Chosen over KLL and
REQ of the same library because equal samples give equal bytes (those two are randomised), so that an hour rolled up
twice is the same, and because at 99 % it is more accurate than KLL of its size. KLL is more accurate in the middle
(docs/benchmarks.md).
A value keeps 24 bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from datasketches import tdigest_float

from cloud_hub.telemetry.rollups.core.buckets import Floats

K = 200
_LARGEST = float(np.finfo(np.float32).max)


class Sketch:
    """The distribution of the added values."""

    __slots__ = ("_digest",)

    def __init__(self, packed: bytes | None = None) -> None:
        self._digest = tdigest_float(K) if packed is None else tdigest_float.deserialize(packed)

    def add(self, values: Floats) -> None:
        """Add finite values."""
        self._digest.update(np.clip(values, -_LARGEST, _LARGEST).astype(np.float32))

    def merge(self, other: Sketch) -> None:
        """Add all values of another sketch."""
        self._digest.merge(other._digest)

    @property
    def count(self) -> int:
        """The number of values."""
        return int(self._digest.get_total_weight())

    def quantile(self, share: float) -> float:
        """The value below which `share` (0 to 1) of all values are; ValueError if there are none."""
        if self._digest.is_empty():
            raise ValueError("no values, and so no quantile")
        return float(self._digest.get_quantile(share))

    def pack(self) -> bytes:
        """Serialise for `Sketch(packed)`."""
        return bytes(self._digest.serialize())


def merge_sketches(packed: Iterable[bytes]) -> Sketch:
    """All of them as one, in this order."""
    whole = Sketch()
    for content in packed:
        whole.merge(Sketch(content))
    return whole
