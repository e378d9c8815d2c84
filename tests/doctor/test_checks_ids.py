"""What the numbers and colours in masks mean: each confusion planted, and named as what it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import LabelSpace
from hf_dinoseg.doctor import examine, quick_checks

COLORS = {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 255, 0), 3: (0, 0, 255)}


def finding(report, code):
    [found] = [f for f in report.findings if f.code == code]
    return found


def test_clean_masks_of_every_encoding_give_no_error_and_no_warning(splits, quarters, space):
    binary = LabelSpace({0: "background", 1: "vessel"}, encoding="binary")
    rgb = LabelSpace(space.classes, encoding="rgb", colors=COLORS)
    painted = np.array([COLORS[i] for i in range(4)], dtype=np.uint8)[quarters()]
    reduced = LabelSpace({1: "a", 2: "b", 3: "c"}, reduce_zero_label=True)
    one_bit = Image.fromarray(quarters((0, 255, 0, 255))).convert("1")
    for mask, labels in (
        (quarters(), space),
        (quarters((0, 255, 255, 0)), binary),
        (one_bit, binary),
        (painted, rgb),
        (quarters(), reduced),
        (quarters((0, 1, 2, 300), np.uint16), LabelSpace({0: "a", 1: "b", 2: "c", 300: "d"})),
    ):
        for look in (examine, quick_checks):
            report = look(splits(mask), labels)
            assert report.codes <= {"label-zero"}, report.text()


def test_undeclared_ids_are_named_with_counts_shares_and_a_file(splits, quarters, space):
    report = examine(splits(quarters((0, 1, 2, 9))), space)
    found = finding(report, "unknown-ids")
    assert found.level == "error"
    assert "9 (3600 pixels, 25.0 %) in 6 of 6 masks" in found.seen and "train0_mask.png" in found.seen
    assert "never found: 3, 255" in found.seen and "classes: {9: …}" in found.cure


@pytest.mark.parametrize("ignore", [(), (255,)])
def test_zero_and_255_are_binary_masks_even_where_255_would_silently_be_void(splits, quarters, ignore):
    labels = LabelSpace({0: "background", 1: "vessel"}, ignore=ignore)
    report = examine(splits(quarters((0, 0, 0, 255))), labels)
    found = finding(report, "masks-0-255")
    assert (
        found.level == "error"
        and "encoding: binary" in found.cure
        and "255 (3600 pixels, 25.0 %), such as train0_mask.png" in found.seen
    )
    assert "unknown-ids" not in report.codes and ("is void in the recipe" in found.seen) == bool(ignore)


def test_a_part_of_the_masks_does_not_prove_that_255_is_a_class(row, quarters):
    rows = {"train": [row(quarters((0, 0, 0, 255)), f"{n}") for n in range(3)]}
    levels = {
        (void, samples): finding(examine(rows, LabelSpace({0: "a", 1: "b"}, ignore=void), samples), "masks-0-255").level
        for void in ((), (255,))
        for samples in (2, 3)
    }
    assert levels.pop(((255,), 2)) == "warning" and set(levels.values()) == {"error"}


def test_zero_and_one_under_binary(splits, quarters):
    labels = LabelSpace({0: "background", 1: "vessel"}, encoding="binary")
    assert "encoding: index" in finding(examine(splits(quarters((0, 1, 1, 0))), labels), "masks-0-1").cure


def test_other_values_under_binary(splits, quarters):
    labels = LabelSpace({0: "background", 1: "vessel"}, encoding="binary")
    assert (
        "128 (3600 pixels, 25.0 %)"
        in finding(examine(splits(quarters((0, 128, 255, 255))), labels), "unknown-ids").seen
    )


def test_ids_one_too_high(splits, quarters, space):
    found = finding(examine(splits(quarters((1, 2, 3, 4))), space), "ids-off-by-one")
    assert found.level == "error" and "declares ids 0 to 3" in found.seen and "hold 1 to 4" in found.seen
    assert "{1: background, 2: artery, 3: vein, …}" in found.cure


def test_ids_one_too_high_with_void_moved_along_or_in_place(splits, quarters):
    labels = LabelSpace({0: "a", 1: "b", 2: "c"}, ignore=(3,))
    assert "ids-off-by-one" in examine(splits(quarters((1, 2, 3, 4))), labels).codes
    labels = LabelSpace({0: "a", 1: "b", 2: "c"}, ignore=(255,))
    assert "ids-off-by-one" in examine(splits(quarters((1, 2, 3, 255))), labels).codes


def test_ids_one_too_high_where_zero_is_unlabelled_as_in_ade20k(splits, quarters):
    labels = LabelSpace({0: "wall", 1: "building", 2: "sky"}, ignore=(255,))
    seams = quarters((1, 2, 3, 1))
    seams[19:22] = seams[:, 29:32] = 0
    cure = finding(examine(splits(seams), labels), "ids-off-by-one").cure
    assert "If each name belongs to the id one higher and 0 means 'not labelled'" in cure
    assert "reduce_zero_label: true" in cure.partition("ignore:")[0]
    # where 0 is a region like others, nothing speaks for that more than for a void id at the end
    cure = finding(examine(splits(quarters((0, 1, 2, 3))), labels), "unknown-ids").cure
    assert cure.index("ignore: [3, 255]") < cure.index("classes: {3: …}") < cure.index("reduce_zero_label: true")


def test_ids_one_too_low(splits, quarters):
    labels = LabelSpace({1: "a", 2: "b", 3: "c", 4: "d"})
    assert "hold 0 to 3" in finding(examine(splits(quarters()), labels), "ids-off-by-one").seen


@pytest.mark.parametrize("ignore", [(), (255,)])
@pytest.mark.parametrize("greys", [(0, 85, 170, 255), (0, 85, 255, 0), (0, 50, 100, 150), (0, 64, 128, 192)])
def test_ids_stretched_to_greys(splits, quarters, space, greys, ignore):
    labels = LabelSpace(space.classes, ignore=ignore)
    for look in (examine, quick_checks):
        report = look(splits(quarters(greys)), labels)
        found = finding(report, "masks-stretched")
        assert found.level == "error" and {f.code for f in report.errors} == {"masks-stretched"}
        assert f"multiplied by {greys[1]}" in found.seen and f"{{0: background, {greys[1]}: artery" in found.cure
    cured = LabelSpace(dict(zip(greys[: len(set(greys))], "abcd", strict=False)))  # as the cure says
    assert examine(splits(quarters(greys)), cured).codes == {"label-zero"}


def test_stretched_ids_of_many_classes_and_other_roundings(splits, quarters):
    labels = LabelSpace({i: f"class {i}" for i in range(12)})
    found = finding(examine(splits(quarters((23, 46, 70, 255))), labels), "masks-stretched")  # 11 * 255/11 = 255
    assert "multiplied by 23.18" in found.seen
    assert "masks-stretched" not in examine(splits(quarters((0, 50, 101, 255))), LabelSpace({0: "a", 1: "b"})).codes
    sparse = LabelSpace({0: "a", 7: "b", 24: "c", 33: "d"})  # ids far apart that are declared are no stretching
    assert examine(splits(quarters((0, 7, 24, 33))), sparse).codes == {"label-zero"}
    assert "masks-stretched" not in examine(splits(quarters((0, 7, 24, 40))), sparse).codes


def test_more_classes_than_8_bits_hold(splits, row, quarters):
    labels = LabelSpace({i: f"class {i}" for i in range(300)})
    wide = quarters((0, 1, 256, 299), np.uint16)
    for look in (examine, quick_checks):
        found = finding(look(splits(wide.astype(np.uint8)), labels), "masks-8-bit")  # 256 has become 0, 299 has 43
        assert found.level == "error" and "up to 299" in found.seen and "16-bit" in found.cure
        assert not look(splits(wide), labels).errors
        low = quarters((0, 1, 2, 3))  # a program may save a mask without high ids in 8 bits
        assert not look({"train": [row(wide, "a"), row(low, "b")]}, labels).errors


def test_an_id_far_off_is_not_called_off_by_one(splits, quarters, space):
    assert "ids-off-by-one" not in examine(splits(quarters((0, 1, 2, 5))), space).codes
    three = LabelSpace({0: "a", 1: "b", 2: "c"}, ignore=(3,))  # moved up, 3 would occur; 4 alone is no sign of it
    assert "unknown-ids" in examine(splits(quarters((1, 2, 2, 4))), three).codes


def test_labels_reduced_twice(splits, quarters):
    labels = LabelSpace({1: "a", 2: "b", 3: "c"}, ignore=(255,), reduce_zero_label=True)
    assert "zero-reduced-twice" in examine(splits(quarters((0, 1, 2, 255))), labels).codes
    assert "zero-reduced-twice" not in examine(splits(quarters((0, 1, 3, 255))), labels).codes


def test_many_values_are_smoothed_masks(splits, space):
    ramp = np.tile(np.arange(60, dtype=np.uint8), (40, 1))
    report = examine(splits(ramp), space)
    assert "nearest neighbour" in finding(report, "masks-smoothed").cure and "unknown-ids" not in report.codes


def test_colour_masks_read_as_ids(splits, quarters, space):
    painted = np.array([COLORS[i] for i in range(4)], dtype=np.uint8)[quarters()]
    found = finding(examine(splits(painted), space), "colour-masks")
    assert found.level == "error" and "6 of 6" in found.seen and "(255, 0, 0) 25.0 %" in found.seen
    assert "encoding: rgb" in found.cure


def test_images_in_the_mask_folder(splits, space):
    noise = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert "data.mask" in finding(examine(splits(noise), space), "colour-masks").cure


def test_an_unknown_colour_is_named_with_its_share(splits, quarters, space):
    rgb = LabelSpace(space.classes, encoding="rgb", colors=COLORS)
    table = np.array([*list(COLORS.values())[:3], (1, 2, 3)], dtype=np.uint8)
    found = finding(examine(splits(table[quarters()]), rgb), "unknown-colours")
    assert "(1, 2, 3) 25.0 %" in found.seen and "labels.colors" in found.cure


def test_colours_that_are_read_as_the_nearest_one(splits, quarters, space):
    rgb = LabelSpace(space.classes, encoding="rgb", colors=COLORS, unknown_colors="nearest")
    table = np.array([*list(COLORS.values())[:3], (1, 2, 3)], dtype=np.uint8)
    report = examine(splits(table[quarters()]), rgb)
    found = finding(report, "nearest-colours")
    assert found.level == "warning" and found.seen.startswith("25.0 % of pixels") and "(1, 2, 3)" in found.seen
    assert not report.errors
    table[3] = COLORS[3]
    assert "nearest-colours" not in examine(splits(table[quarters()]), rgb).codes


def test_grey_masks_under_rgb(splits, quarters, space):
    rgb = LabelSpace(space.classes, encoding="rgb", colors=COLORS)
    assert "encoding: index" in finding(examine(splits(quarters()), rgb), "unknown-colours").cure
    wide = examine(splits(quarters(dtype=np.uint16)), rgb)
    assert "masks-not-colour" in wide.codes


def test_palettes_that_give_one_index_two_colours(row, quarters, space):
    rows = []
    for number, color in enumerate(((255, 0, 0), (0, 255, 0))):
        mask = Image.fromarray(quarters())
        mask.putpalette([0, 0, 0, *color, 9, 9, 9, 8, 8, 8])
        rows.append(row(mask, f"p{number}"))
    assert mask.mode == "P"
    found = finding(examine({"train": rows}, space), "palettes-differ")
    assert "index 1 is (255, 0, 0) in the palette of p0_mask.png and (0, 255, 0)" in found.seen
    assert "palettes-differ" not in examine({"train": [rows[0], rows[0]]}, space).codes


def test_unknown_ids_of_palette_masks_hint_at_their_colours(splits, quarters, space):
    mask = Image.fromarray(quarters((0, 1, 2, 9)))
    mask.putpalette([9] * 30)
    assert "encoding: rgb" in finding(examine(splits(mask), space), "unknown-ids").cure
    assert "encoding: rgb" not in finding(examine(splits(quarters((0, 1, 2, 9))), space), "unknown-ids").cure
