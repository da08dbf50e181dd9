"""Scores and margins that several tasks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from shared.tasks import Array

INVALID = -1.0
"""The margin of an answer that is no number; the gate escalates it."""


def softmax(scores: Array) -> Array:
    """Probabilities over the last axis."""
    grown = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def sigmoid(scores: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"none": np.asarray, "softmax": softmax, "sigmoid": sigmoid}


def bounded(margin: float) -> float:
    """`margin` within 0..1; INVALID if it is no number."""
    return min(max(margin, 0.0), 1.0) if math.isfinite(margin) else INVALID


def ratio_margin(value: float, threshold: float) -> float:
    """Distance of a value from a threshold, both 0 or above: 0 when equal, 1 when one is nothing beside the other."""
    larger = max(value, threshold)
    return bounded(1.0 - min(value, threshold) / larger) if larger else 0.0


def distance_margin(value: float, threshold: float, scale: float) -> float:
    """Distance of any value from a threshold as a share: 0.5 at a distance of `scale`."""
    distance = abs(value - threshold)
    return bounded(distance / (distance + scale))


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Values with six digits after the point; those that are no numbers are left out: JSON has none."""
    return {name: round(float(value), 6) for name, value in values.items() if math.isfinite(value)}
