from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize import class_colors, color_image, colorize, overlay

SPACE = LabelSpace({0: "background", 1: "artery", 2: "vein"}, ignore=(255,))


def photo(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_background_leaves_the_image_alone_and_void_is_hatched():
    image = photo(40, 60)
    ids = np.zeros((40, 60), np.uint8)
    ids[20:] = 255
    drawn, given = np.asarray(overlay(image, ids, SPACE)).astype(int), np.asarray(image).astype(int)
    assert np.array_equal(drawn[:20], given[:20])
    # stripes of two greys, four pixels wide, half over the image
    row, column = np.mgrid[20:40, 0:60]
    grey = np.where((row + column) % 8 < 4, 70, 170)[..., None]
    assert np.abs(drawn[20:] - (given[20:] + grey) / 2).max() <= 1


def test_pixels_without_an_answer_are_hatched_in_every_image_of_a_prediction():
    ids = np.zeros((40, 60), np.uint8)
    ids[:, 30:] = 1
    ids[20:] = SPACE.void_id
    plain = color_image(ids, SPACE)
    assert plain.mode == "RGB"
    assert {tuple(c) for c in np.asarray(plain)[20:].reshape(-1, 3).tolist()} == {(70, 70, 70), (170, 170, 170)}
    assert np.array_equal(np.asarray(plain)[:20], colorize(ids, SPACE)[:20])
    clear = np.asarray(color_image(ids, SPACE, transparent=True))
    assert np.array_equal(clear[..., :3], np.asarray(plain))
    assert np.array_equal(clear[..., 3], np.where(ids == 0, 0, 255))


def test_stripes_grow_with_the_image():
    image = Image.new("RGB", (1500, 1200))
    drawn = np.asarray(overlay(image, np.full((1200, 1500), 255), SPACE, alpha=1))[0, :, 0]
    assert np.flatnonzero(np.diff(drawn.astype(int)))[:3].tolist() == [9, 19, 29]


def test_inside_a_class_image_and_colour_are_mixed():
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


def test_alpha_zero_is_the_image():
    image = photo(3, 4)
    ids = np.array([[1, 2, 0, 255]] * 3)
    assert np.array_equal(np.asarray(overlay(image, ids, SPACE, alpha=0)), np.asarray(image))


def test_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match="label map has shape \\(4, 3\\), the image is 3 high and 4 wide"):
        overlay(photo(3, 4), np.zeros((4, 3), int), SPACE)
