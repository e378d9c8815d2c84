"""Label zero, class coverage, void, imbalance, and the images' values."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import LabelSpace
from hf_dinoseg.doctor import examine
from hf_dinoseg.doctor.survey import zero_pattern


def finding(report, code):
    [found] = [f for f in report.findings if f.code == code]
    return found


def outlined() -> np.ndarray:
    """Four regions parted by seams of zeros, 2 pixels wide: (60 + 40 - 2) * 2 = 196 pixels of 2400."""
    mask = np.ones((40, 60), dtype=np.uint8)
    mask[:20, 30:], mask[20:, :30], mask[20:, 30:] = 2, 3, 1
    mask[19:21], mask[:, 29:31] = 0, 0
    return mask


# ---------------------------------------------------------------------- zero


def test_zero_pattern_counts_lines_and_rim_by_hand():
    seams = zero_pattern(outlined())
    assert (seams.thin, seams.frame, seams.frame_total) == (196, 8, 2 * 60 + 2 * 38)
    block = np.ones((40, 60), dtype=np.uint8)
    block[10:30, 10:40] = 0
    assert zero_pattern(block).thin == 0 and zero_pattern(block).frame == 0
    assert zero_pattern(np.zeros((40, 60), np.uint8)).thin == 0
    cut = np.ones((40, 60), dtype=np.uint8)
    cut[:4] = 0  # a region that the image's edge cuts off is no line
    assert zero_pattern(cut).thin == 0


def test_label_zero_is_told_with_the_number_of_classes_both_ways(splits, quarters, space):
    found = finding(examine(splits(quarters()), space), "label-zero")
    assert found.level == "info" and "25.0 % of all pixels" in found.seen
    assert "As a class there are 4 to learn, as void 3." in found.seen and "reduce_zero_label: true" in found.cure
    void = LabelSpace({1: "a", 2: "b", 3: "c"}, ignore=(0,))
    found = finding(examine(splits(quarters()), void), "label-zero")
    assert "As a class there are 4 to learn, as void 3." in found.seen and "0: background" in found.cure


def test_label_zero_is_not_mentioned_where_it_does_not_occur(splits, quarters):
    labels = LabelSpace({1: "a", 2: "b", 3: "c", 4: "d"})
    assert examine(splits(quarters((1, 2, 3, 4))), labels).findings == ()


def test_zero_drawn_as_outlines_looks_void(splits, space):
    found = finding(examine(splits(outlined()), space), "zero-looks-void")
    assert "8.2 % of all pixels" in found.seen and "100.0 % lines" in found.seen


def test_zero_named_void_but_learned(splits, quarters):
    labels = LabelSpace({0: "Unlabelled", 1: "a", 2: "b", 3: "c"})
    assert "zero-named-void" in examine(splits(quarters()), labels).codes


def test_zero_made_void_but_filling_the_images_looks_background(splits, quarters):
    labels = LabelSpace({1: "vessel", 2: "disc"}, reduce_zero_label=True)
    report = examine(splits(quarters((0, 0, 0, 1))), labels)
    found = finding(report, "zero-looks-background")
    assert "75.0 %" in found.seen and "As a class there are 3 to learn, as void 2." in found.seen
    assert "zero-looks-background" not in examine(splits(quarters((0, 1, 2, 1))), labels).codes


# ---------------------------------------------------------------------- classes


def test_classes_by_the_split_that_shows_them(row, quarters, space):
    data = {"train": [row(quarters((0, 1, 1, 0)), "t")], "validation": [row(quarters((0, 2, 2, 0)), "v")]}
    report = examine(data, space)
    assert "3 disc" in finding(report, "class-absent").seen
    assert "2 vein" in finding(report, "class-only-in-validation").seen
    assert "1 artery" in finding(report, "class-absent-in-validation").seen and "NaN" in report.text()


def test_a_class_that_was_merged_away_is_not_missing(splits, quarters):
    labels = LabelSpace({0: "background", 1: "artery", 2: "vein"}, merge={2: 1})
    assert examine(splits(quarters((0, 1, 1, 0))), labels).codes == {"label-zero"}


def test_absence_is_not_claimed_from_a_part_of_the_masks(row, quarters, space):
    rows = [row(quarters((0, 1, 2, 3) if n == 3 else (0, 1, 2, 2)), f"t{n}") for n in range(10)]
    assert "class-absent" not in examine({"train": rows}, space, samples=2).codes
    assert examine({"train": rows}, space, samples=2).overview["splits"]["train"] == {"rows": 10, "read": 2}


def test_void_shares(splits, row, quarters, space):
    assert "75.0 %" in finding(examine({"train": [row(quarters((0, 255, 255, 255)))]}, space), "much-void").seen
    report = examine({"train": [row(quarters((7,) * 4))]}, LabelSpace({0: "a", 1: "b"}, ignore=(7,)))
    part = examine({"train": [row(quarters((7,) * 4), f"{n}") for n in range(3)]}, LabelSpace({0: "a"}, ignore=(7,)), 2)
    assert finding(part, "all-void").level == "warning"  # the third mask may hold something
    assert finding(report, "all-void").level == "error" and "nothing to learn" in finding(report, "all-void").seen
    mixed = [row(quarters(), "full"), row(quarters((255,) * 4), "empty")]
    assert "empty_mask.png" in finding(examine({"train": mixed}, space), "void-masks").seen


def test_extreme_imbalance_and_a_class_that_is_nearly_all(row, space):
    mask = np.zeros((400, 600), dtype=np.uint8)
    mask[0, :20], mask[1, :400], mask[2, :240] = 1, 2, 3  # 20 of 240000 is 0.0083 %, 240 is 0.1 %
    report = examine({"train": [row(mask, image=np.zeros((400, 600, 3), np.uint8) + np.uint8(200))]}, space)
    found = finding(report, "extreme-imbalance")
    assert "1 artery (0.0083 %)" in found.seen and "3 disc" not in found.seen
    assert "99.7 %" in finding(report, "one-class-dominates").seen


# ---------------------------------------------------------------------- images


def test_sixteen_bit_images(row, quarters, space, encode):
    low = np.tile(np.arange(60, dtype=np.uint16) * 60, (40, 1))  # 12-bit values, up to 3540
    report = examine({"train": [row(quarters(), image=low)]}, space)
    found = finding(report, "sixteen-bit-image")
    assert found.level == "warning" and "3540" in found.seen and "nearly black" in found.seen
    full = np.tile(np.arange(60, dtype=np.uint16) * 1000, (40, 1))
    assert finding(examine({"train": [row(quarters(), image=full)]}, space), "sixteen-bit-image").level == "info"
    mixed = examine({"train": [row(quarters(), image=full), row(quarters(), "b")]}, space)
    assert finding(mixed, "sixteen-bit-image").level == "warning"


def test_files_of_which_a_part_is_read(row, quarters, space, encode):
    pages = [Image.fromarray(quarters()) for _ in range(3)]
    stack = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    report = examine({"train": [row(quarters(), "a", image=stack), row(stack, "b")]}, space)
    found = finding(report, "dropped-pages-or-bands")
    assert found.level == "warning" and "b_mask" not in found.seen
    assert "a.png (pages 2 to 3)" in found.seen
    found = finding(report, "paged-masks")
    assert found.level == "error" and "b_mask.png (pages 2 to 3 not read)" in found.seen


def test_float_images(row, quarters, space, encode):
    tiff = encode(Image.fromarray(np.random.default_rng(0).random((40, 60), dtype=np.float32)), "TIFF")
    assert finding(examine({"train": [row(quarters(), image=tiff)]}, space), "float-image").level == "error"


def test_images_of_zeros_and_ones(row, quarters, space):
    image = np.random.default_rng(0).integers(0, 2, (40, 60, 3), dtype=np.uint8)
    assert "is 1 of 255" in finding(examine({"train": [row(quarters(), image=image)]}, space), "dark-images").seen


def test_an_image_of_one_colour(row, quarters, space):
    blank = row(quarters(), "blank", np.full((40, 60, 3), 90, np.uint8))
    report = examine({"train": [blank, row(quarters(), "b")]}, space)
    assert "blank.png" in finding(report, "blank-images").seen and "dark-images" not in report.codes


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_ordinary_images_are_no_finding(row, quarters, space, encode, kind):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    report = examine({"train": [row(quarters(), image=encode(image, kind))]}, space)
    assert report.codes == {"label-zero"}
