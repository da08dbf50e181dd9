"""Sharpness of frames is what its definition says."""

from __future__ import annotations

import numpy as np
import pytest

from shared.tasks.images import _laplacian


@pytest.mark.parametrize("shape", [(3, 3), (3, 9), (9, 3), (17, 32), (32, 32)])
def test_sharpness_is_the_mean_second_difference_of_inner_pixels(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random(shape, np.float32)
    rows, columns = range(1, shape[0] - 1), range(1, shape[1] - 1)
    wanted = [
        abs(4 * image[y, x] - image[y - 1, x] - image[y + 1, x] - image[y, x - 1] - image[y, x + 1])
        for y in rows
        for x in columns
    ]
    assert _laplacian(image) == pytest.approx(np.mean(wanted), rel=1e-4)


def test_an_image_without_an_inner_pixel_has_no_sharpness() -> None:
    assert _laplacian(np.ones((2, 9), np.float32)) == 0.0
