"""Folders of files to rows, and every way in which such folders are wrong."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.data import load_folder, load_synthetic_retina
from hf_dinoseg.errors import DataError
from hf_dinoseg.images import read_image, read_mask

LAYOUT = {"image": "images/{split}", "mask": "masks/{split}", "train": "train", "validation": "val"}
FLAT = {"image": "images", "mask": "masks", "train": "train.txt", "validation": "val.txt"}


def write(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(path)


def make(root: Path) -> Path:
    for split, names in (("train", "abc"), ("val", "de")):
        write(root / "images" / split, [f"{n}.jpg" for n in names])
        write(root / "masks" / split, [f"{n}.png" for n in names])
    return root


def make_flat(root: Path) -> Path:
    write(root / "images", [f"{n}.jpg" for n in "abcde"])
    write(root / "masks", [f"{n}.png" for n in "abcde"])
    (root / "train.txt").write_text("c\na\n")
    (root / "val.txt").write_text("\ufeffb.jpg\r\n\r\n d \r\n", encoding="utf-8")
    return root


def test_pairs_by_stem_in_order(tmp_path: Path) -> None:
    data = load_folder(make(tmp_path), **LAYOUT)
    assert {split: rows["id"][:] for split, rows in data.items()} == {
        "train": ["a", "b", "c"],
        "validation": ["d", "e"],
    }
    row = data["train"][1]
    assert row["image"] == {"path": str(tmp_path / "images/train/b.jpg"), "bytes": None}
    assert row["mask"] == {"path": str(tmp_path / "masks/train/b.png"), "bytes": None}
    assert list(row) == ["id", "image", "mask"]


def test_any_image_type_in_any_depth_of_folder(tmp_path: Path) -> None:
    names = ["a.JPG", "city/b.png", "city/north/b.tif", "c.v2.bmp", "d.webp", "e.gif", "f.jpeg"]
    stems = ["a", "c.v2", "city/b", "city/north/b", "d", "e", "f"]
    for split in ("train", "val"):
        write(tmp_path / "images" / split, names)
        write(tmp_path / "masks" / split, [f"{stem}.png" for stem in stems])
        (tmp_path / "images" / split / "notes.txt").write_text("passed over")
        (tmp_path / "images" / split / ".hidden.png").write_text("passed over")
    assert load_folder(tmp_path, **LAYOUT)["train"]["id"][:] == stems


def test_the_root_may_be_relative_and_cells_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    path = load_folder("data", **LAYOUT)["train"][0]["image"]["path"]
    assert os.path.isabs(path) and os.path.samefile(path, tmp_path / "data/images/train/a.jpg")


def test_split_files_divide_one_folder(tmp_path: Path) -> None:
    data = load_folder(make_flat(tmp_path), **FLAT)
    assert {split: rows["id"][:] for split, rows in data.items()} == {"train": ["a", "c"], "validation": ["b", "d"]}


def test_a_stem_with_a_dot_in_a_split_file_is_not_cut(tmp_path: Path) -> None:
    make_flat(tmp_path)
    write(tmp_path / "images", ["x.v2.jpg"])
    write(tmp_path / "masks", ["x.v2.png"])
    (tmp_path / "train.txt").write_text("x.v2")
    assert load_folder(tmp_path, **FLAT)["train"]["id"][:] == ["x.v2"]


def test_split_files_that_share_images_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (make_flat(tmp_path) / "val.txt").write_text("a\nd")
    with caplog.at_level(logging.WARNING, logger="hf_dinoseg"):
        load_folder(tmp_path, **FLAT)
    assert "1 images are in training and in validation: a" in caplog.text


def test_missing_folders_are_named_with_what_is_there(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=r"data\.root: there is no folder .*nowhere"):
        load_folder(tmp_path / "nowhere", **LAYOUT)
    with pytest.raises(
        DataError, match=r"data\.image: there is no folder .*images/valid\. .* holds the folders train, val"
    ):
        load_folder(tmp_path, **{**LAYOUT, "validation": "valid"})
    with pytest.raises(DataError, match=r"data\.mask: there is no folder .*labels/train"):
        load_folder(tmp_path, **{**LAYOUT, "mask": "labels/{split}"})
    with pytest.raises(DataError, match="in both .* or in neither"):
        load_folder(tmp_path, **{**LAYOUT, "mask": "masks"})


def test_an_image_without_mask_and_a_mask_without_image_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    write(tmp_path / "images/train", [f"lone{i}.jpg" for i in range(7)])
    message = r"data\.train \(train\): 7 of 10 images have no mask .*: lone0, lone1, lone2, lone3, lone4 and 2 more"
    with pytest.raises(DataError, match=message):
        load_folder(tmp_path, **LAYOUT)
    write(tmp_path / "masks/train", [f"lone{i}.png" for i in range(7)])
    write(tmp_path / "masks/val", ["extra.png"])
    with pytest.raises(DataError, match=r"data\.validation \(val\): 1 of 3 masks have no image of .*: extra\."):
        load_folder(tmp_path, **LAYOUT)


def test_a_suffix_that_all_masks_share_is_pointed_out(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "images" / split, ["a.jpg", "a1.jpg", "b.jpg"])
        write(tmp_path / "masks" / split, ["a_mask.png", "a1_mask.png", "b_mask.png"])
    with pytest.raises(DataError, match=r"plus '_mask': say so by adding /\{stem\}_mask\.\* to data\.mask"):
        load_folder(tmp_path, **LAYOUT)
    write(tmp_path / "masks/train", ["other.png"])
    with pytest.raises(DataError) as raised:
        load_folder(tmp_path, **LAYOUT)
    assert "plus" not in str(raised.value)


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    write(make(tmp_path) / "images/train", ["a.png"])
    with pytest.raises(DataError, match=r"data\.image: .*a\.jpg and .*a\.png have the same stem 'a'"):
        load_folder(tmp_path, **LAYOUT)


def test_empty_splits_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    for path in (tmp_path / "images/val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"data\.image: no image files in .*images/val\. It is empty"):
        load_folder(tmp_path, **LAYOUT)
    (tmp_path / "images/val/scan.svs").touch()
    with pytest.raises(DataError, match=r"other types: \.svs"):
        load_folder(tmp_path, **LAYOUT)


def test_split_files_that_are_wrong(tmp_path: Path) -> None:
    make_flat(tmp_path)
    with pytest.raises(DataError, match=r"data\.train: there is no file .*none\.txt"):
        load_folder(tmp_path, **{**FLAT, "train": "none.txt"})
    for text, message in [
        ("a\nzz\n", r"data\.train \(train\.txt\): 1 of 2 listed stems have no image in .*images: zz"),
        (" \n", "lists no stems"),
        ("a\nb\na.jpg\n", "more than once: a"),
    ]:
        (tmp_path / "train.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            load_folder(tmp_path, **FLAT)
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        load_folder(tmp_path, **FLAT)
    (tmp_path / "train.txt").write_text("a\nb")
    (tmp_path / "masks/b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 listed stems have no mask in .*masks: b"):
        load_folder(tmp_path, **FLAT)


def test_synthetic_splits_are_encoded_files_that_never_repeat() -> None:
    data = load_synthetic_retina(num_train=3, num_validation=3, size=64, seed=1)
    assert [len(data["train"]), len(data["validation"])] == [3, 3]
    seen = {bytes(row["image"]["bytes"]) for split in data.values() for row in split}
    assert len(seen) == 6
    row = data["validation"][0]
    assert read_image(row["image"]).size == (64, 64)
    assert set(np.unique(read_mask(row["mask"])).tolist()) <= {0, 1, 2, 3}


def test_a_synthetic_image_does_not_depend_on_how_many_are_drawn() -> None:
    few = load_synthetic_retina(2, 1, size=32, seed=5)
    many = load_synthetic_retina(3, 2, size=32, seed=5)
    other = load_synthetic_retina(2, 1, size=32, seed=6)
    for split in ("train", "validation"):
        assert many[split][0] == few[split][0]
        assert other[split][0]["image"] != few[split][0]["image"]
    with pytest.raises(DataError, match="0 images for validation"):
        load_synthetic_retina(1, 0, size=32)


@pytest.mark.parametrize("folder", ["images/train", "masks/val", "masks/train/deep"])
def test_a_folder_that_may_not_be_read_is_not_called_empty(
    tmp_path: Path, folder: str, forbid: Callable[[Path], None]
) -> None:
    make(tmp_path)
    write(tmp_path / "images/train/deep", ["x.jpg"])
    write(tmp_path / "masks/train/deep", ["x.png"])
    forbid(tmp_path / folder)
    with pytest.raises(DataError, match=f"{folder}: the folder may not be read"):
        load_folder(tmp_path, **LAYOUT)


NFC, NFD = unicodedata.normalize("NFC", "café-Å"), unicodedata.normalize("NFD", "café-Å")


@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC)])
def test_names_in_two_unicode_forms_are_pairs(tmp_path: Path, image: str, mask: str) -> None:
    """macOS stores e + accent where others store é: the names look the same and are not equal."""
    make(tmp_path)
    write(tmp_path / "images/train", [f"{image}.jpg"])
    write(tmp_path / "masks/train", [f"{mask}.png"])
    rows = load_folder(tmp_path, **LAYOUT)["train"]
    assert rows["id"][:] == ["a", "b", "c", image]  # the image's own spelling
    assert (tmp_path / "images/train" / f"{image}.jpg").samefile(rows[3]["image"]["path"])
    assert (tmp_path / "masks/train" / f"{mask}.png").samefile(rows[3]["mask"]["path"])


def test_a_template_and_a_split_file_find_names_in_another_unicode_form(tmp_path: Path) -> None:
    make_flat(tmp_path)
    write(tmp_path / "images", [f"{NFD}.jpg"])
    (tmp_path / "train.txt").write_text(f"c\n{NFC}.jpg\n", encoding="utf-8")
    for name in "abcde":
        (tmp_path / "masks" / f"{name}.png").rename(tmp_path / "masks" / f"{name}_{NFD}.png")
    write(tmp_path / "masks", [f"{NFC}_{NFD}.png"])
    rows = load_folder(tmp_path, "images", f"masks/{{stem}}_{NFC}.png", "train.txt", "val.txt")["train"]
    assert rows["id"][:] == ["c", NFD]
    assert Path(rows[1]["mask"]["path"]).name == f"{NFC}_{NFD}.png"


def test_two_masks_of_one_name_in_two_unicode_forms_are_told(tmp_path: Path) -> None:
    make(tmp_path)
    write(tmp_path / "images/train", [f"{NFC}.jpg"])
    write(tmp_path / "masks/train", [f"{NFC}.png", f"{NFD}.png"])
    if len(list((tmp_path / "masks/train").iterdir())) == 4:
        pytest.skip("this file system takes them for one name")
    with pytest.raises(DataError, match="have the same stem"):
        load_folder(tmp_path, **LAYOUT)
    write(tmp_path / "images/train", [f"{NFD}.jpg"])  # a pair each
    assert len(load_folder(tmp_path, **LAYOUT)["train"]) == 5


@pytest.mark.parametrize(("stored", "written"), [(NFC, NFD), (NFD, NFC)])
def test_folders_and_split_files_are_found_in_another_unicode_form(tmp_path: Path, stored: str, written: str) -> None:
    for split in ("train", "val"):
        write(tmp_path / f"{stored}/images {stored}/{split}", ["a.jpg", f"{stored}.jpg"])
        write(tmp_path / f"{stored}/masks/{split}", ["a.png", f"{stored}.png"])
    layout = {"image": f"images {written}/{{split}}", "mask": "masks/{split}", "train": "train", "validation": "val"}
    assert load_folder(tmp_path / written, **layout)["train"]["id"][:] == sorted(["a", stored])
    (tmp_path / stored / f"{stored}.txt").write_text(f"a\n{written}\n", encoding="utf-8")
    layout = {"image": f"images {written}/train", "mask": "masks/train", "train": f"{written}.txt", "validation": 0.5}
    rows = load_folder(tmp_path / written, **layout)
    assert {*rows["train"]["id"], *rows["validation"]["id"]} == {"a", stored}
    with pytest.raises(DataError, match="there is no folder"):
        load_folder(tmp_path / f"{written}x", **layout)


def test_a_link_back_up_has_an_end(tmp_path: Path) -> None:
    make(tmp_path)
    for folder in ("images", "masks"):
        (tmp_path / folder / "train" / "again").symlink_to("..", target_is_directory=True)
    write(tmp_path / "elsewhere/images", ["x.jpg"])
    write(tmp_path / "elsewhere/masks", ["x.png"])
    for folder in ("images", "masks"):  # a link to another place is followed
        (tmp_path / folder / "train" / "linked").symlink_to(tmp_path / "elsewhere" / folder, target_is_directory=True)
    assert load_folder(tmp_path, **LAYOUT)["train"]["id"][:] == ["a", "b", "c", "linked/x"]
