from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize import class_colors, overlay

SPACE = LabelSpace({0: "background", 1: "artery", 2: "vein"}, ignore=(255,))


def photo(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_background_and_void_leave_the_photograph_alone():
    image = photo(4, 6)
    ids = np.zeros((4, 6), np.uint8)
    ids[2:] = 255
    assert np.array_equal(np.asarray(overlay(image, ids, SPACE)), np.asarray(image))


def test_inside_a_class_photograph_and_colour_are_mixed():
    image = photo(5, 5)
    drawn = np.asarray(overlay(image, np.full((5, 5), 1), SPACE, alpha=0.25)).astype(float)
    expected = 0.75 * np.asarray(image) + 0.25 * np.array(class_colors(SPACE)[1])
    assert np.abs(drawn - expected).max() <= 0.5


def test_border_of_a_region_is_opaque():
    ids = np.full((5, 6), 1)
    ids[:, 3:] = 2
    drawn = np.asarray(overlay(photo(5, 6), ids, SPACE))
    assert (drawn[:, 2] == class_colors(SPACE)[1]).all()
    assert not (drawn[:, 1] == class_colors(SPACE)[1]).all()


def test_alpha_zero_is_the_photograph():
    image = photo(3, 4)
    ids = np.array([[1, 2, 0, 255]] * 3)
    assert np.array_equal(np.asarray(overlay(image, ids, SPACE, alpha=0)), np.asarray(image))


def test_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match="label map has shape \\(4, 3\\), the image is 3 high and 4 wide"):
        overlay(photo(3, 4), np.zeros((4, 3), int), SPACE)
