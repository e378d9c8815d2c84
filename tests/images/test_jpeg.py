"""The upper rows of JPEG files against the same rows of the whole, pixel by pixel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.data import SegmentationDataset, TrainTransform, prepare_targets
from hf_dinoseg.data.dataset import training_item
from hf_dinoseg.data.label_maps import read_label_map
from hf_dinoseg.data.sources import load_folder
from hf_dinoseg.errors import DataError, TooLargeError
from hf_dinoseg.images import read_image, read_upper
from hf_dinoseg.images.reading import upper_part
from hf_dinoseg.labels import LabelSpace

WIDTH, HEIGHT = 83, 150


def photo(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
    return Image.fromarray(noise[..., 0] if mode == "L" else noise, mode)


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def cell(data: bytes) -> dict[str, Any]:
    return {"path": "a.jpg", "bytes": data}


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    "mode, options",
    [
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"subsampling": "4:2:2"}),
        ("RGB", {"subsampling": "4:2:0", "quality": 90}),
        ("RGB", {"subsampling": "4:2:0", "optimize": True, "comment": "rows"}),
        ("RGB", {"restart_marker_rows": 1}),
        ("RGB", {"restart_marker_blocks": 3}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"exif": turned(1), "icc_profile": b"x" * 70_000}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_upper_rows_are_those_of_the_whole_and_no_others_are_decoded(mode: str, options: dict[str, Any]) -> None:
    data = saved(photo(mode), **options)
    whole = np.asarray(read_image(cell(data)))
    for rows in (1, 2, 15, 16, 17, 31, 64, 95, 127, 146):
        upper = read_upper(cell(data), rows, (WIDTH, HEIGHT))
        assert upper.mode == "RGB" and upper.width == WIDTH and rows <= upper.height <= rows + 2
        assert (np.asarray(upper)[:rows] == whole[:rows]).all()
    for rows in (HEIGHT - 2, HEIGHT - 1, HEIGHT):
        assert (np.asarray(read_upper(cell(data), rows, (WIDTH, HEIGHT))) == whole).all()


def test_the_height_of_the_file_is_told_from_that_of_its_thumbnail() -> None:
    exif = turned(1)
    exif[0x010E] = "thumbnail"
    data = saved(photo(), exif=b"Exif\x00\x00" + exif.tobytes()[6:] + saved(photo(size=(40, HEIGHT))))
    assert data.count(b"\xff\xc0") >= 2
    assert read_upper(cell(data), 20, (WIDTH, HEIGHT)).size == (WIDTH, 22)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_comes_whole_and_upright(orientation: int) -> None:
    data = saved(photo(), exif=turned(orientation))
    whole = read_image(cell(data))
    assert (np.asarray(read_upper(cell(data), 20, whole.size)) == np.asarray(whole)).all()


def test_other_files_come_whole(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.jpg").write_bytes(saved(photo(), progressive=True))
    for name in ("a.png", "a.jpg"):
        for form in (str(tmp_path / name), {"path": str(tmp_path / name), "bytes": None}):
            assert (np.asarray(read_upper(form, 20, (WIDTH, HEIGHT))) == np.asarray(read_image(form))).all()
    (tmp_path / "b.jpg").write_bytes(saved(photo()))
    assert read_upper(str(tmp_path / "b.jpg"), 20, (WIDTH, HEIGHT)).size == (WIDTH, 22)


def test_heads_cut_anywhere_are_left_to_the_decoder() -> None:
    data = saved(photo())
    frame = data.index(b"\xff\xc0")
    for length in range(frame + 7):
        assert upper_part(data[:length], 20, HEIGHT) is None
    assert upper_part(data, 20, HEIGHT + 1) is None and upper_part(data, 20, HEIGHT) is not None


def test_a_file_cut_short_gives_the_rows_that_it_has_and_never_others() -> None:
    data = saved(photo())
    whole = np.asarray(read_image(cell(data)))
    cut = cell(data[:-3000])
    assert (np.asarray(read_upper(cut, 60, (WIDTH, HEIGHT)))[:60] == whole[:60]).all()
    for rows in (100, 140, HEIGHT):
        with pytest.raises(DataError, match=r"a\.jpg: cannot be read"):
            read_upper(cut, rows, (WIDTH, HEIGHT))


def test_broken_missing_and_exchanged_files_are_named(tmp_path: Path) -> None:
    for form, reason in [
        (cell(b""), "0 bytes"),
        (cell(b"\xff\xd8text"), "cannot be read"),
        (str(tmp_path / "none.jpg"), "no such file"),
        ({"path": None, "bytes": None}, "neither a path nor bytes"),
        (cell(saved(photo(size=(WIDTH, 200)))), r"a\.jpg is 83×200 .*, but was 83×150"),
        (cell(saved(photo(size=(90, HEIGHT)))), r"a\.jpg is 90×150 .*, but was 83×150"),
    ]:
        with pytest.raises(DataError, match=reason):
            read_upper(form, 20, (WIDTH, HEIGHT))
    with pytest.raises(TooLargeError):
        read_upper(cell(saved(photo())), 20, (WIDTH, HEIGHT), max_pixels=WIDTH * HEIGHT - 1)


@pytest.mark.parametrize("rotation", [0.0, 40.0])
def test_training_samples_are_those_of_whole_images(rotation: float, tmp_path: Path) -> None:
    for folder, kind in (("images", "jpg"), ("masks", "png")):
        for split in ("train", "validation"):
            (tmp_path / folder / split).mkdir(parents=True)
            image = photo() if kind == "jpg" else Image.fromarray(np.asarray(photo("L")) % 5)
            image.save(tmp_path / folder / split / f"a.{kind}")
    rows = load_folder(tmp_path, "images/{split}", "masks/{split}", "train", "validation")["train"]
    data = prepare_targets(rows, LabelSpace({i: str(i) for i in range(5)}))
    transform = TrainTransform(40, scale=(0.2, 2.0), rotation=rotation, vertical_flip=True)
    samples = SegmentationDataset(data, transform, seed=3)
    whole, label_map = read_image(data[0]["image"]), read_label_map(data[0]["label_map"])
    for epoch in range(30):
        samples.set_epoch(epoch)
        item = samples[0]
        expected = training_item(transform, whole, label_map, (3, epoch, int(samples.keys[0]), 0))
        assert all((item[name] == expected[name]).all() for name in expected)
