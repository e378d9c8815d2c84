from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize import VOID_COLOR, class_colors, colorize, legend, palette_image, with_palette

# Viénot, Brettel and Mollon 1999 (https://doi.org/10.1002/(SICI)1520-6378(199908)24:4<243::AID-COL5>3.0.CO;2-3), for
# linear sRGB. The palette is made with another model, that of Machado and others.
DICHROMATS = {
    "protanope": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranope": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    "everybody else": np.eye(3),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def least_difference(colors: list[tuple[int, int, int]], seen: np.ndarray) -> float:
    """The smallest CIE 1976 difference (ΔE*ab) of two colours; about 2 can just be told apart side by side."""
    channel = np.array(colors) / 255
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4) @ seen.T
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = linear.clip(0, 1) @ to_xyz.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return float(distance[~np.eye(len(colors), dtype=bool)].min())


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


def test_ids_above_255_go_to_16_bit_grey_whatever_the_image_holds():
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


@pytest.mark.parametrize("eye", DICHROMATS)
@pytest.mark.parametrize(("count", "least"), [(8, 16), (12, 16), (20, 10), (30, 7)])
def test_colour_blind_eyes_tell_the_palette_apart(eye, count, least):
    # ids 0 to count - 1, with the reds and greens of a dataset that cares for nobody
    space = LabelSpace(
        {i: f"c{i}" for i in range(count)}, colors={i: (40 + 5 * i, 180 - 4 * i, 30) for i in range(count)}
    )
    chosen = list(class_colors(with_palette(space, "colorblind")).values())
    assert least_difference(chosen, DICHROMATS[eye]) >= least
    assert least_difference([*chosen, (0, 0, 0), VOID_COLOR], DICHROMATS[eye]) >= least / 2


def test_without_the_palette_twenty_colours_are_not_told_apart():
    plain = list(class_colors(LabelSpace({i: f"c{i}" for i in range(20)})).values())
    assert least_difference(plain, DICHROMATS["protanope"]) < 4


def test_a_palette_changes_how_things_are_drawn_and_nothing_else():
    given = {0: (9, 9, 9), 1: (200, 0, 0), 2: (0, 140, 0), 3: (0, 141, 0), 255: (255, 255, 255)}
    names = {0: "Background", 1: "a", 2: "b"}
    space = LabelSpace(names, ignore=(255,), merge={3: 1}, encoding="rgb", colors=given)
    assert with_palette(space, "dataset") is space
    drawn = with_palette(space, "colorblind")
    assert class_colors(drawn) == {0: (0, 0, 0), 1: (230, 159, 0), 2: (86, 180, 233), 3: (230, 159, 0)}
    ids = np.array([[0, 1, 2, 3, 255]])
    assert colorize(ids, drawn)[0, 4].tolist() == list(VOID_COLOR)
    assert np.array_equal(np.asarray(palette_image(ids, drawn)), ids)
    assert (drawn.train_ids, drawn.id2label, drawn.void_id) == (space.train_ids, space.id2label, space.void_id)
    with pytest.raises(ValueError, match="one of dataset, colorblind"):
        with_palette(space, "rainbow")


@pytest.mark.parametrize("count", [1, 150, 1000])
def test_colour_blind_palette_has_a_colour_for_every_class(count):
    colors = list(class_colors(with_palette(LabelSpace({i: f"c{i}" for i in range(count)}), "colorblind")).values())
    assert len(set(colors)) == count and not {(0, 0, 0), (255, 255, 255), VOID_COLOR} & set(colors)


def test_clear_background_keeps_the_ids():
    space = LabelSpace({0: "background", 1: "artery"}, ignore=(255,))
    ids = np.array([[0, 1, 255]])
    stream = io.BytesIO()
    palette_image(ids, space, transparent=True).save(stream, "PNG")
    read = Image.open(stream)
    assert np.array_equal(np.asarray(read), ids)
    assert np.asarray(read.convert("RGBA"))[0, :, 3].tolist() == [0, 255, 255]


def test_legend_has_every_class_once():
    space = LabelSpace({i: f"c{i}" for i in range(150)}, colors={3: (1, 2, 3)})
    drawn = legend(space, width=700)
    pixels = {tuple(p) for p in np.asarray(drawn).reshape(-1, 3).tolist()}
    assert drawn.width == 700 and set(class_colors(space).values()) <= pixels
