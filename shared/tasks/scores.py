"""Scores and margins that several tasks share."""

from __future__ import annotations

import math

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


def bounded(margin: float) -> float:
    """`margin` within 0..1; INVALID if it is no number."""
    return min(max(margin, 0.0), 1.0) if math.isfinite(margin) else INVALID


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Values with six digits after the point; those that are no numbers are left out: JSON has none."""
    return {name: round(float(value), 6) for name, value in values.items() if math.isfinite(value)}
