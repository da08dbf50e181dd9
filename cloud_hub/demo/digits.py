"""The demo's images: scikit-learn's 8x8 scanned digits, with one fixed training/held-out split,
and how a model that reads them is measured at several brightnesses.

Images are uint8 with values 0..255 (the data set's 0..16 stretched by 255/16 and rounded), as a
camera would deliver them. The models take `to_input(images)`, that is uint8/255 as float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shared.models.gate import calibrate

Images = NDArray[np.uint8]  # [N, 8, 8], values 0..255
Labels = NDArray[np.int64]  # [N], values 0..9
Reader = Callable[[Images], NDArray[np.float32]]  # probabilities [N, 10]

INPUT_SCALE = 1.0 / 255.0
SPLIT_SEED = 7
HELD_OUT_SHARE = 0.4
BRIGHTNESS = (1.0, 0.8, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3)
GATE_FRAMES, GATE_ALPHA, GATE_DELTA = 300, 0.02, 0.1


def _load() -> tuple[Images, Labels]:
    """All 1,797 images, uint8 [N, 8, 8], and their labels, int64 [N]."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - only the demo needs scikit-learn

    data = load_digits()
    pixels = np.asarray(data.images, dtype=np.float64)  # [N, 8, 8], values 0..16
    return np.rint(pixels * (255.0 / 16.0)).astype(np.uint8), np.asarray(data.target, dtype=np.int64)


def stratified_split(labels: Labels, share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers (rest, part): `part` holds `share` of every class; both in shuffled order.

    RandomState and not default_rng: numpy promises never to change its streams, so the held-out
    rows stay the same rows whatever numpy is installed.
    """
    rng = np.random.RandomState(seed)
    in_part = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        in_part[rows[: round(len(rows) * share)]] = True
    order = rng.permutation(len(labels))
    return order[~in_part[order]], order[in_part[order]]


def training() -> tuple[Images, Labels]:
    """The training split: uint8 images [N, 8, 8] with values 0..255, and int64 labels [N]."""
    images, labels = _load()
    rest, _ = stratified_split(labels, HELD_OUT_SHARE, SPLIT_SEED)
    return images[rest], labels[rest]


def held_out() -> tuple[Images, Labels]:
    """The held-out split, never trained, tuned or calibrated on: as `training()`, other images."""
    images, labels = _load()
    _, part = stratified_split(labels, HELD_OUT_SHARE, SPLIT_SEED)
    return images[part], labels[part]


def with_brightness(images: Images, factor: float) -> Images:
    """The images times `factor`, rounded and clipped to 0..255, as a darker exposure would give."""
    return np.clip(np.rint(images * np.float64(factor)), 0, 255).astype(np.uint8)


def to_input(images: Images) -> NDArray[np.float32]:
    """The models' input for uint8 images [N, 8, 8]: float32 [N, 1, 8, 8], values 0..1."""
    return (images.astype(np.float32) * np.float32(INPUT_SCALE))[:, None, :, :]


def read(reader: Reader, images: Images) -> tuple[Labels, NDArray[np.float32]]:
    """The digits read, int64 [N], and their margins (largest minus second probability), float32 [N]."""
    probabilities = reader(images)
    ordered = np.sort(probabilities, axis=1)
    return probabilities.argmax(axis=1).astype(np.int64), ordered[:, -1] - ordered[:, -2]


def accuracies(reader: Reader, images: Images, labels: Labels) -> list[float]:
    """Accuracy in percent at each of BRIGHTNESS."""
    return [100.0 * float((read(reader, with_brightness(images, factor))[0] == labels).mean()) for factor in BRIGHTNESS]


def gate(edge: Reader, expert: Reader, images: Images) -> tuple[int, float]:
    """(k, margin) of the gate that the hub would calibrate on these uint8 images [N, 8, 8]."""
    answers, margins = read(edge, images)
    agrees = answers == read(expert, images)[0]
    return calibrate([float(m) for m in margins], [bool(a) for a in agrees], GATE_ALPHA, GATE_DELTA)


def gate_rates(edge: Reader, limit: float, images: Images, labels: Labels) -> tuple[list[float], list[float]]:
    """(escalated, kept but wrong) in percent of all images, each a list over BRIGHTNESS."""
    escalated, wrong = [], []
    for factor in BRIGHTNESS:
        answers, margins = read(edge, with_brightness(images, factor))
        kept = margins > limit
        escalated.append(100.0 * float((~kept).mean()))
        wrong.append(100.0 * float((kept & (answers != labels)).mean()))
    return escalated, wrong
