"""Files that are broken, of the wrong size, lossy, or there twice. None of them may raise."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.doctor import examine, quick_checks
from hf_dinoseg.doctor import file_facts as files


def finding(report, code):
    [found] = [f for f in report.findings if f.code == code]
    return found


def with_tag(encode, orientation, size=(60, 40)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "JPEG", exif=exif)


def test_missing_empty_broken_and_cut_short_files_are_findings(row, quarters, space, encode, tmp_path):
    whole = encode(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    rows = [row(quarters(), "good")]
    for name, image in (("empty", b""), ("noise", b"not an image"), ("cut", whole[: len(whole) // 2])):
        rows.append(row(quarters(), name, image))
    rows.append(row(encode(quarters())[:60], "cutmask"))
    rows.append({**row(quarters(), "gone"), "image": {"path": str(tmp_path / "gone.png"), "bytes": None}})
    report = examine({"train": rows}, space)
    assert {f.code for f in report.errors} == {"missing-file", "empty-file", "broken-file"}
    broken = finding(report, "broken-file").seen
    assert broken.startswith("3 files are") and all(name in broken for name in ("noise.png", "cut.png", "cutmask_mask"))
    assert "empty.png" in finding(report, "empty-file").seen and "gone.png" in finding(report, "missing-file").seen
    assert {f.code for f in quick_checks({"train": rows}, space).errors} == {
        "missing-file",
        "empty-file",
        "broken-file",
    }


def test_cells_of_bytes_without_a_file_name_are_named_by_their_row(row, quarters, space):
    rows = [row(quarters(), "good"), row(quarters(), "empty", b""), row(b"torn", "torn"), row(quarters()[:9], "small")]
    rows.append({**rows[0], "id": "twin"})
    for each in rows:
        each["image"], each["mask"] = ({**each[kind], "path": None} for kind in ("image", "mask"))
    for look in (examine, quick_checks):
        report = look({"train": rows}, space)
        assert "empty (image)" in finding(report, "empty-file").seen
        assert "torn (mask) (cannot be read as an image (it is broken" in finding(report, "broken-file").seen
        assert "small (image) 60×40, its mask small (mask) 60×9" in finding(report, "size-mismatch").seen
        assert "good (image) = twin (image)" in finding(report, "duplicate-in-split").seen
        assert "without a file name" not in report.text()


def test_an_empty_file_is_found_though_it_is_not_in_the_sample(row, quarters, space):
    rows = [row(quarters(), f"r{n}", b"" if n == 5 else None) for n in range(9)]
    report = examine({"train": rows}, space, samples=2)
    assert report.overview["splits"]["train"]["read"] == 2 and "r5.png" in finding(report, "empty-file").seen


def test_sizes_that_differ(row, quarters, space):
    image = np.random.default_rng(0).integers(0, 256, (41, 60, 3), dtype=np.uint8)
    for look in (examine, quick_checks):
        found = finding(look({"train": [row(quarters(), "x", image)]}, space), "size-mismatch")
        assert found.level == "error" and "x.png 60×41, its mask x_mask.png 60×40" in found.seen


def test_an_image_turned_by_its_tag_over_an_unturned_mask(row, quarters, space, encode):
    for look in (examine, quick_checks):
        report = look({"train": [row(quarters(), "x", with_tag(encode, 6))]}, space)
        assert "x.png 40×60, its mask x_mask.png 60×40" in finding(report, "orientation-mismatch").seen
    upright = row(np.ascontiguousarray(quarters().T), "x", with_tag(encode, 6))
    assert "orientation-mismatch" not in examine({"train": [upright]}, space).codes


def test_a_tag_that_turns_one_of_two_files_of_equal_size(row, quarters, space, encode):
    report = examine({"train": [row(quarters(), "x", with_tag(encode, 3))]}, space)
    assert "(tag 3, its mask 1)" in finding(report, "exif-turns-one").seen
    report = examine({"train": [row(quarters(), "x", with_tag(encode, 1))]}, space)
    assert report.codes == {"label-zero"}


@pytest.mark.parametrize("late", [False, True])
def test_the_tag_of_a_png_is_found_before_and_after_its_pixels(row, quarters, space, encode, late):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)), exif=exif)
    if late:  # the chunk moved from the pixels' front to the file's end
        start = turned.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(turned[start : start + 4], "big")
        turned = turned[:start] + turned[end:-12] + turned[start:end] + turned[-12:]
    for look in (examine, quick_checks):
        report = look({"train": [row(quarters(), "x", turned)]}, space)
        assert "x.png 40×60, its mask x_mask.png 60×40" in finding(report, "orientation-mismatch").seen


def test_jpeg_masks(splits, quarters, space):
    rng = np.random.default_rng(0)
    speckled = rng.choice(np.array([0, 1, 2, 3], np.uint8), (40, 60)) * 1
    speckled[10:20] = 255
    report = examine(splits(speckled, kind="JPEG"), space)
    assert (
        finding(report, "jpeg-mask").level == "error" and "6 of them with values" in finding(report, "jpeg-mask").seen
    )
    assert {found.code for found in report.errors} == {"jpeg-mask"}  # its stray values are no ids
    flat = examine(splits(np.zeros((40, 60), np.uint8), kind="JPEG"), space)
    assert finding(flat, "jpeg-mask").level == "warning"


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_pages_after_the_first_are_told_and_ids_not_guessed_from_it(row, quarters, space, encode, kind):
    pages = [Image.fromarray(np.where(quarters() == i, 255, 0).astype(np.uint8)) for i in (1, 2, 3)]
    paged = row(encode(pages[0], kind, save_all=True, append_images=pages[1:]), "x")
    for look in (examine, quick_checks):
        report = look({"train": [paged]}, space)
        found = finding(report, "paged-masks")
        assert found.level == "error" and "only the first is read: x_mask.png" in found.seen and "2 to 3" in found.seen
        assert "binary" not in " ".join(f.cure for f in report.findings if f.level == "error")
    read = np.stack([np.asarray(page) for page in pages])  # what the cure makes of the pages is right
    assert "numpy.where(pages.any(0), pages.argmax(0) + 1, 0)" in found.cure
    assert (np.where(read.any(0), read.argmax(0) + 1, 0) == quarters()).all()


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float32])
@pytest.mark.parametrize("axis", [2, 0])
@pytest.mark.parametrize("classes", [3, 4])
def test_one_hot_arrays_are_known_and_the_line_told_makes_ids_of_them(row, space, tmp_path, dtype, axis, classes):
    ids = np.random.default_rng(0).permutation(np.arange(2400) % classes).reshape(40, 60)
    path = tmp_path / "x mask.npy"
    np.save(path, np.moveaxis(np.eye(classes, dtype=dtype)[ids], 2, axis))
    rows = {"train": [{**row(np.zeros((40, 60), np.uint8), "x"), "mask": {"path": str(path), "bytes": None}}]}
    for look in (examine, quick_checks):
        found = finding(look(rows, space), "one-hot-mask")
        assert found.level == "error" and f"axis {axis} counts the classes" in found.seen
    line = found.cure.partition("`")[2].rstrip("`.")
    exec(line, {"numpy": np})
    assert (np.load(path) == ids).all() and not examine(rows, space).errors


def test_colours_in_arrays_are_not_called_one_hot(row, space, tmp_path):
    np.save(tmp_path / "x.npy", 255 * np.eye(3, dtype=np.uint8)[np.arange(2400).reshape(40, 60) % 3])
    rows = {
        "train": [{**row(np.zeros((40, 60), np.uint8), "x"), "mask": {"path": str(tmp_path / "x.npy"), "bytes": None}}]
    }
    assert {f.code for f in examine(rows, space).errors} == {"colour-masks"}


def test_huge_images(row, quarters, space, encode):
    assert files.HUGE_PIXELS < Image.MAX_IMAGE_PIXELS
    sizes = {"x": (8000, 6251), "y": (8000, 6250)}  # 50.008 and 50 million pixels
    rows = [row(quarters(), name, encode(Image.new("L", size), compress_level=1)) for name, size in sizes.items()]
    found = finding(quick_checks({"train": rows}, space), "huge-image")
    assert found.level == "warning" and "x.png (8000×6251)" in found.seen and "y.png" not in found.seen


def test_a_file_of_too_many_pixels_is_refused_and_told(row, quarters, space):
    rows = {"train": [row(quarters(), "x")]}
    for look in (examine, quick_checks):
        found = finding(look(rows, space, max_pixels=2399), "refused-file")
        assert found.level == "error" and "x.png" in found.seen and "2400 pixels" in found.seen
        assert "refused-file" not in look(rows, space, max_pixels=2400).codes


def test_the_same_bytes_in_both_splits(row, quarters, space, tmp_path, encode):
    shared = encode(np.random.default_rng(7).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    (tmp_path / "v.png").write_bytes(shared)
    copy = {**row(quarters(), "v"), "image": {"path": str(tmp_path / "v.png"), "bytes": None}}
    data = {"train": [row(quarters(), "a"), row(quarters(), "b", shared)], "validation": [row(quarters(), "c"), copy]}
    for look in (examine, quick_checks):
        found = finding(look(data, space), "duplicate-across-splits")
        assert found.seen.startswith("1 validation image is in train too, byte for byte: ")
        assert f"b.png = {tmp_path / 'v.png'}" in found.seen
    data["train"].pop()
    assert "duplicate-across-splits" not in examine(data, space).codes


def test_the_same_bytes_twice_in_one_split(row, quarters, space):
    rows = [row(quarters(), name) for name in "abc"]
    rows.append({**rows[1], "id": "d", "image": {**rows[1]["image"], "path": "d.png"}})
    for look in (examine, quick_checks):
        report = look({"train": rows, "validation": [row(quarters(), "v")]}, space)
        found = finding(report, "duplicate-in-split")
        assert found.level == "warning"
        assert "1 train image is there already, byte for byte: b.png = d.png" in found.seen
        assert report.codes == {"label-zero", "duplicate-in-split"}
        assert look({"train": rows[:3]}, space).codes == {"label-zero"}


def test_one_image_saved_in_two_ways(row, quarters, space, encode):
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data = {
        "train": [row(quarters(), "a", encode(pixels, compress_level=1)), row(quarters(), "b")],
        "validation": [
            row(quarters(), "c", encode(pixels, compress_level=9)),
            row(quarters(), "d", encode(np.ascontiguousarray(pixels[::-1, ::3].repeat(3, axis=1)))),
        ],
    }
    report = examine(data, space)
    assert (
        "saved again (or resized, mirrored or turned): a.png = c.png."
        in finding(report, "duplicate-across-splits").seen
    )
    assert "duplicate-masks-differ" not in report.codes
    jpeg = encode(pixels, "JPEG"), with_tag(encode, 1)  # of other pixels
    tagged = encode(pixels, "JPEG", exif=Image.Exif())
    data = {"train": [row(quarters(), name, image) for name, image in zip("abc", (*jpeg, tagged), strict=True)]}
    assert "a.png = c.png" in finding(examine(data, space), "duplicate-in-split").seen


def test_twins_with_different_masks(row, quarters, space):
    twin = row(quarters((0, 1, 3, 2)), "b", row(quarters(), "a")["image"]["bytes"])
    report = examine({"train": [row(quarters(), "a"), twin]}, space)
    told = finding(report, "duplicate-masks-differ").seen
    assert told == "1 of these have another mask than their twin: a.png = b.png."


def test_images_of_one_colour_are_blank_not_twins(row, quarters, space, encode):
    blanks = [row(quarters(), str(n), encode(np.full((40, 60, 3), 99, np.uint8), compress_level=n)) for n in (1, 9)]
    assert "duplicate-in-split" not in examine({"train": [*blanks, row(quarters(), "a")]}, space).codes
