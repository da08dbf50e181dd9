"""Frames as model inputs: size, colour, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from simulators.task_models import manifest

from shared.errors import ModelError
from shared.models.manifest import Preprocess
from shared.tasks import Array, from_frame, window_from
from shared.tasks.base import open_input
from shared.tasks.images import letterbox, letterboxed, resized

RNG = np.random.default_rng(3)


def tensor(frame: Array, shape: tuple[int, ...], layout: str, how: Preprocess, dtype: str = "float32") -> Array:
    """The input tensor that a model of this shape gets for a frame."""
    labels, outputs = ["a", "b"], [("out", (2,))]
    made = manifest("classification", outputs, labels, shape=shape, layout=layout, dtype=dtype, preprocess=how)
    return open_input(made).tensor([frame])[0]


@pytest.mark.parametrize(("old", "new"), [((6, 9), (13, 20)), ((5, 5), (10, 15)), ((1, 1), (4, 3))])
def test_enlarging_is_bilinear_as_in_pillow(old: tuple[int, int], new: tuple[int, int]) -> None:
    frame = RNG.integers(0, 256, (*old, 3), np.uint8)
    wanted = np.asarray(Image.fromarray(frame).resize(new[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resized(frame, *new).astype(int) - wanted).max() <= 1


def test_a_letterbox_centres_the_frame_between_grey_borders() -> None:
    assert letterbox((20, 40), 80, 80) == (20, 0, 40, 80)
    frame = np.full((20, 40, 3), 7, np.uint8)
    boxed = letterboxed(frame, 80, 80)
    assert (boxed[20:60] == 7).all()
    assert (boxed[:20] == 114).all()
    assert (boxed[60:] == 114).all()


def test_colours_reach_the_model_in_its_order() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert tensor(red, (3, 2, 2), "NCHW", Preprocess(color="rgb"))[:, 0, 0].tolist() == [200, 0, 0]
    assert tensor(red, (3, 2, 2), "NCHW", Preprocess(color="bgr"))[:, 0, 0].tolist() == [0, 0, 200]
    assert tensor(red, (1, 2, 2), "NCHW", Preprocess(color="gray"))[0, 0, 0] == 60  # 0.299 * 200
    assert tensor(red[..., :1], (2, 2, 3), "NHWC", Preprocess(color="rgb"))[0, 0].tolist() == [200, 200, 200]
    bgr = from_frame(red[..., ::-1].tobytes(), (2, 2, 3), "bgr")
    assert bgr[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (3, 5, 4)), ("NHWC", (5, 4, 3))])
def test_each_channel_is_scaled_shifted_and_divided(layout: str, shape: tuple[int, ...]) -> None:
    frame = RNG.integers(0, 256, (5, 4, 3), np.uint8)
    how = Preprocess(scale=1 / 255, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    wanted = (frame / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    found = tensor(frame, shape, layout, how)
    assert found.shape == shape
    assert np.allclose(found if layout == "NHWC" else found.transpose(1, 2, 0), wanted, atol=1e-5)


def test_integers_are_rounded_and_clipped_and_uint8_is_not_copied() -> None:
    frame = np.array([[[0, 130, 255]]], np.uint8)
    assert tensor(frame, (1, 1, 3), "NHWC", Preprocess(mean=[128.0]), "int8").ravel().tolist() == [-128, 2, 127]
    assert np.shares_memory(tensor(frame, (1, 1, 3), "NHWC", Preprocess(), "uint8"), frame)


def test_bytes_that_do_not_fit_their_shape_are_refused() -> None:
    with pytest.raises(ModelError, match="frame is 11 bytes"):
        from_frame(bytes(11), (2, 2, 3))
    with pytest.raises(ModelError, match="window is 11 bytes"):
        window_from(bytes(11), (3, 1))
    with pytest.raises(ModelError, match=r"preprocess\.std has 2 numbers for 3 channels"):
        tensor(np.zeros((2, 2, 3), np.uint8), (3, 2, 2), "NCHW", Preprocess(std=[1.0, 2.0]))
