"""The contact sheet, by the colours of its pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import LabelSpace
from hf_dinoseg.doctor import contact_sheet, examine
from hf_dinoseg.doctor.label_histogram import UNKNOWN_COLOR, draw_histogram

WHITE = np.full((40, 60, 3), 255, np.uint8)
COLORS = {1: (255, 0, 0), 2: (0, 0, 255)}
LEFT, TOP = 12, 58  # of the first tile; images of 60 by 40 pixels are drawn at 360 by 240


def drawn(rows, labels, samples=12):
    return np.asarray(contact_sheet(rows, labels, examine({"train": rows}, labels), samples))


def tile(sheet, number=0):
    left = LEFT + number * 372
    return sheet[TOP : TOP + 240, left : left + 360]


def has(pixels, color):
    return bool((pixels == color).all(axis=-1).any())


def test_it_shows_classes_unknown_ids_void_and_faults(row, quarters):
    labels = LabelSpace({0: "background", 1: "b", 2: "c"}, colors=COLORS, ignore=(255,))
    rows = [row(quarters(), "known", WHITE), row(quarters((255, 1, 255, 1)), "void", WHITE)]
    rows += [row(b"", "broken", WHITE), row(quarters()[:9], "small", WHITE), row(quarters(), "gone", b"")]
    sheet = drawn(rows[:4], labels)
    known, void, broken, small = (tile(sheet, number) for number in range(4))
    assert tuple(known[40, 40]) == (255, 255, 255)  # background leaves the image
    assert tuple(known[40, 290]) == (255, 128, 128)  # half red
    assert tuple(known[210, 40]) == (128, 128, 255)
    assert tuple(known[210, 290]) == UNKNOWN_COLOR  # id 3
    stripes = {tuple(pixel) for pixel in void[:100, :150].reshape(-1, 3).tolist()}
    assert len(stripes) == 2 and all(r == g == b for r, g, b in stripes)  # void is hatched
    assert tuple(void[40, 290]) == (255, 128, 128)
    assert has(broken[:60], (25, 25, 25)) and has(small[:60], (25, 25, 25))  # notes
    assert sheet.shape[1] == 4 * 372 + 12
    assert drawn(rows[-1:], labels).shape[0] > 300 and drawn([], labels).shape[0] > 100


@pytest.mark.parametrize(("encoding", "mask"), [("binary", (0, 255, 255, 0)), ("index", (0, 1, 1, 0))])
def test_it_reads_masks_by_their_encoding(row, quarters, encoding, mask):
    labels = LabelSpace({0: "background", 1: "b"}, encoding=encoding, colors={1: (255, 0, 0)})
    one_bit = Image.fromarray(quarters((0, 255, 255, 0))).convert("1")
    for stored in (quarters(mask), one_bit):
        sheet = tile(drawn([row(stored, "a", WHITE)], labels))
        assert tuple(sheet[40, 290]) == (255, 128, 128) and tuple(sheet[40, 40]) == (255, 255, 255)


@pytest.mark.parametrize(("size", "expected"), [((64, 64), 270), ((32, 64), 180), ((90, 60), 270)])
def test_tiles_have_the_shape_of_the_images(row, size, expected):
    """As wide and as high as 360 by 270 allows, so the mask's last line is that far below the first."""
    mask = np.ones(size, np.uint8)
    labels = LabelSpace({1: "b"}, colors={1: (255, 0, 0)})
    sheet = drawn([row(mask, "a", np.full((*size, 3), 255, np.uint8))], labels)
    column = (sheet[TOP : TOP + 290, LEFT + 60] == (255, 128, 128)).all(axis=-1)
    assert abs(column.sum() - expected) <= 1 and column[: column.sum()].all()  # without a gap


def test_the_number_of_samples(row, quarters, space):
    rows = [row(quarters(), f"r{n}", WHITE) for n in range(9)]
    one, three = drawn(rows, space, 1), drawn(rows, space, 3)
    assert one.shape[1] == 900 and three.shape[1] == 3 * 372 + 12


def test_bars_are_in_proportion_and_absent_classes_stand_out():
    labels = LabelSpace({0: "a", 1: "b", 2: "c"}, colors={0: (200, 0, 0), 1: (0, 200, 0), 2: (0, 0, 200)})
    ids = [("0", "a", {"train": 0.6, "validation": 0.2}), ("1", "b", {"train": 0.3}), ("2", "c", {})]
    overview = {
        "splits": {"train": {}, "validation": {}},
        "ids": [{"id": i, "name": name, "shares": shares} for i, name, shares in ids],
    }
    pixels = np.asarray(draw_histogram(overview, labels, 900))
    longest = {color: (pixels == color).all(axis=-1).sum(axis=1).max() for color in ((200, 0, 0), (0, 200, 0))}
    # a row through bar and swatch: 16 pixels of the swatch are inside its outline, and two fewer than the bar's length
    assert longest[(200, 0, 0)] - 16 + 2 == pytest.approx(420, abs=1)
    assert longest[(0, 200, 0)] - 16 + 2 == pytest.approx(210, abs=1)
    pale = (pixels == (228, 128, 128)).all(axis=-1).sum(axis=1).max()
    assert pale + 2 == pytest.approx(140, abs=1)
    alarm = np.flatnonzero((pixels == (190, 0, 30)).all(axis=-1).any(axis=1)) // 26
    assert set(alarm) == {2, 3}  # "none" in validation for 1, in both for 2


def test_hundreds_of_classes_stay_of_a_size(row):
    labels = LabelSpace({i: f"class {i}" for i in range(300)})
    rows = [row(np.arange(2400, dtype=np.uint16).reshape(40, 60) % 300, "a")]
    assert drawn(rows, labels).shape[0] < 1500
