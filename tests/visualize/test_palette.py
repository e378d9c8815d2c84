from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize import VOID_COLOR, class_colors, colorize, palette_image


@pytest.mark.parametrize("count", [1, 7, 8, 9, 150, 1000])
def test_generated_colours_are_distinct_and_reserved_ones_stay_free(count):
    colors = list(class_colors(LabelSpace({i: f"c{i}" for i in range(count)})).values())
    assert len(set(colors)) == count
    assert not {(0, 0, 0), (255, 255, 255), VOID_COLOR} & set(colors)
    assert all(isinstance(channel, int) and 0 <= channel <= 255 for color in colors for channel in color)


def test_first_hundred_colours_differ_visibly():
    colors = np.array(list(class_colors(LabelSpace({i: f"c{i}" for i in range(100)})).values()), dtype=int)
    distance = np.abs(colors[:, None] - colors[None]).sum(-1) + 999 * np.eye(100, dtype=int)
    assert distance.min() >= 20
    assert np.abs(colors - VOID_COLOR).max(1).min() >= 20


def test_colour_of_a_class_does_not_depend_on_how_many_follow():
    short = class_colors(LabelSpace({i: f"c{i}" for i in range(12)}))
    long = class_colors(LabelSpace({i: f"c{i}" for i in range(40)}))
    assert {i: long[i] for i in range(12)} == short


def test_background_is_black_and_no_other_class_moves():
    plain = class_colors(LabelSpace({1: "artery", 2: "vein"}))
    colors = class_colors(LabelSpace({0: "Background", 1: "artery", 2: "vein"}))
    assert colors[0] == (0, 0, 0)
    assert {1: colors[1], 2: colors[2]} == plain == {1: (230, 159, 0), 2: (86, 180, 233)}  # Okabe and Ito's first


def test_colours_of_the_data_set_win_and_generated_ones_avoid_them():
    space = LabelSpace({0: "a", 1: "b", 2: "c"}, colors={1: (230, 159, 0), 2: (10, 20, 30)})
    colors = class_colors(space)
    assert (colors[1], colors[2]) == ((230, 159, 0), (10, 20, 30))
    assert colors[0] == (86, 180, 233)


def test_merged_class_is_drawn_like_the_class_it_went_into():
    space = LabelSpace({0: "road", 1: "car", 2: "van"}, merge={2: 1})
    assert class_colors(space)[2] == class_colors(space)[1]
    assert np.array_equal(colorize(np.array([[2]]), space), colorize(np.array([[1]]), space))


def test_colorize_pixel_by_pixel():
    space = LabelSpace({3: "a", 40: "b", 7: "background"}, ignore=(5, 250))
    ids = np.array([[3, 40, 7], [5, 250, 3]], dtype=np.uint8)
    colors = class_colors(space) | {5: VOID_COLOR, 250: VOID_COLOR}
    assert [[tuple(p) for p in row] for row in colorize(ids, space).tolist()] == [
        [colors[i] for i in row] for row in ids.tolist()
    ]


def test_ids_the_label_space_does_not_know_are_refused():
    space = LabelSpace({1: "a"}, ignore=(9,))
    for draw in (colorize, palette_image):
        with pytest.raises(ValueError, match="ids 4, 6 are neither classes nor void"):
            draw(np.array([[1, 4], [6, 9]]), space)


def test_palette_file_holds_the_ids_and_shows_the_colours():
    space = LabelSpace({0: "background", 1: "artery", 200: "vein"}, ignore=(255,))
    ids = np.array([[0, 1], [200, 255]], dtype=np.int64)
    stream = io.BytesIO()
    palette_image(ids, space).save(stream, "PNG")
    read = Image.open(stream)
    assert read.mode == "P"
    assert np.array_equal(np.asarray(read), ids)
    assert np.array_equal(np.asarray(read.convert("RGB")), colorize(ids, space))


def test_ids_above_255_go_to_16_bit_grey_whatever_the_picture_holds():
    space = LabelSpace({i: f"c{i}" for i in range(300)})  # void is 65535
    for ids in (np.array([[0, 299]]), np.array([[1, 65535]]), np.array([[0, 1]])):
        stream = io.BytesIO()
        palette_image(ids, space).save(stream, "PNG")
        read = Image.open(stream)
        assert read.mode == "I;16"
        assert np.array_equal(np.asarray(read), ids)


def test_ids_that_no_png_holds_are_refused():
    with pytest.raises(ValueError, match="0 to 65535"):
        palette_image(np.array([[70000]]), LabelSpace({70000: "a"}))
