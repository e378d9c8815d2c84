"""Templates of file names, on the layouts of datasets that people have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.data import load_folder
from hf_dinoseg.data.sources.file_names import files_by_stem
from hf_dinoseg.errors import DataError


def write(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix in (".json", ".npy") else Image.new("L", (3, 2)).save(path)
    return root


def pairs(rows: object, root: Path) -> dict[str, tuple[str, str]]:
    return {
        row["id"]: tuple(Path(row[c]["path"]).relative_to(root).as_posix() for c in ("image", "mask"))  # type: ignore[misc]
        for row in rows  # type: ignore[attr-defined]
    }


def test_cityscapes(tmp_path: Path) -> None:
    frames = {
        "train": ["aachen/aachen_000000_000019", "ulm/ulm_000001_000019"],
        "val": ["munster/munster_000000_000019"],
    }
    for split, stems in frames.items():
        for stem in stems:
            write(tmp_path, [f"leftImg8bit/{split}/{stem}_leftImg8bit.png"])
            endings = ["labelIds.png", "color.png", "instanceIds.png", "polygons.json"]
            write(tmp_path, [f"gtFine/{split}/{stem}_gtFine_{ending}" for ending in endings])
    data = load_folder(
        tmp_path,
        "leftImg8bit/{split}/{stem}_leftImg8bit.png",
        "gtFine/{split}/{stem}_gtFine_labelIds.png",
        "train",
        "val",
    )
    assert {split: rows["id"][:] for split, rows in data.items()} == {
        "train": frames["train"],
        "validation": frames["val"],
    }
    assert pairs(data["train"], tmp_path)["ulm/ulm_000001_000019"] == (
        "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png",
        "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png",
    )


def test_retinas_whose_split_stands_in_folder_and_name(tmp_path: Path) -> None:
    for split, numbers in {"training": ["21", "22"], "test": ["01"]}.items():
        write(tmp_path, [f"{split}/images/{n}_{split}.tif" for n in numbers])
        write(tmp_path, [f"{split}/1st_manual/{n}_manual1.gif" for n in numbers])
        write(tmp_path, [f"{split}/mask/{n}_{split}_mask.gif" for n in numbers])
    data = load_folder(
        tmp_path, "{split}/images/{stem}_{split}.tif", "{split}/1st_manual/{stem}_manual1.gif", "training", "test"
    )
    assert pairs(data["train"], tmp_path) == {
        "21": ("training/images/21_training.tif", "training/1st_manual/21_manual1.gif"),
        "22": ("training/images/22_training.tif", "training/1st_manual/22_manual1.gif"),
    }
    assert data["validation"]["id"][:] == ["01"]


def test_voc_lists_its_splits_in_files(tmp_path: Path) -> None:
    write(tmp_path, [f"JPEGImages/2007_00000{i}.jpg" for i in range(6)])
    write(tmp_path, [f"SegmentationClass/2007_00000{i}.png" for i in range(4)])
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000002\n")
    (lists / "val.txt").write_text("2007_000003\n")
    data = load_folder(
        tmp_path,
        "JPEGImages",
        "SegmentationClass",
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/val.txt",
    )
    assert pairs(data["train"], tmp_path) == {
        f"2007_00000{i}": (f"JPEGImages/2007_00000{i}.jpg", f"SegmentationClass/2007_00000{i}.png") for i in (0, 2)
    }


def test_images_and_masks_in_one_folder(tmp_path: Path) -> None:
    """`{stem}.png` fits the masks as well: a file belongs to the template that says more about it."""
    write(tmp_path, [f"{eye}{kind}.png" for eye in ("01L", "01R", "02L", "02R") for kind in ("", "_1stHO", "_2ndHO")])
    with pytest.raises(DataError, match=r"4 of 8 images have no mask .*: 01L_2ndHO"):
        load_folder(tmp_path, "{stem}.png", "{stem}_1stHO.png", None, 0.25)
    for path in tmp_path.glob("*_2ndHO.png"):
        path.unlink()
    data = load_folder(tmp_path, "{stem}.png", "{stem}_1stHO.png", None, 0.25)
    found = pairs(data["train"], tmp_path) | pairs(data["validation"], tmp_path)
    assert found == {eye: (f"{eye}.png", f"{eye}_1stHO.png") for eye in ("01L", "01R", "02L", "02R")}
    assert [len(data["train"]), len(data["validation"])] == [3, 1]


def test_a_folder_goes_with_a_template_and_a_star_stands_for_anything_in_a_name(tmp_path: Path) -> None:
    write(tmp_path, ["images/train/a.jpg", "images/train/b.tif", "images/val/c.png"])
    write(tmp_path, ["masks/train/a_m1.png", "masks/train/b_m2.gif", "masks/val/c_m1.npy"])
    data = load_folder(tmp_path, "images/{split}", "masks/{split}/{stem}_m*.*", "train", "val")
    assert pairs(data["train"], tmp_path)["b"] == ("images/train/b.tif", "masks/train/b_m2.gif")
    assert pairs(data["validation"], tmp_path)["c"][1] == "masks/val/c_m1.npy"
    write(tmp_path, ["masks/train/a_m2.png"])
    with pytest.raises(DataError, match=r"a_m1\.png and .*a_m2\.png have the same stem 'a'"):
        load_folder(tmp_path, "images/{split}", "masks/{split}/{stem}_m*.*", "train", "val")


def test_characters_of_regular_expressions_mean_themselves(tmp_path: Path) -> None:
    write(tmp_path, ["a+b (1).png", "aXb (1).png", "sub/a.png"])
    assert list(files_by_stem(tmp_path, "image", "{stem}+b (1).png")) == ["a"]
    assert list(files_by_stem(tmp_path, "image", "*/{stem}.png")) == ["a"]
    assert sorted(files_by_stem(tmp_path, "image", "{stem}.png")) == ["a+b (1)", "aXb (1)", "sub/a"]


def test_a_template_that_nothing_fits_is_told_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, ["images/train/a.jpg", "masks/train/a_manual1.gif"])
    with pytest.raises(
        DataError, match=r"data\.mask: no file in .*masks/train is named like \{stem\}_manual\.gif\. It "
    ):
        load_folder(tmp_path, "images/{split}", "masks/{split}/{stem}_manual.gif", "train", "val")


def test_numpy_masks_are_masks_and_no_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path, [f"images/{split}/a.png", f"masks/{split}/a.npy"])
    np.save(tmp_path / "images/train/b.npy", np.zeros((2, 3)))
    data = load_folder(tmp_path, "images/{split}", "masks/{split}", "train", "val")
    assert pairs(data["train"], tmp_path) == {"a": ("images/train/a.png", "masks/train/a.npy")}


def test_a_share_is_held_out_the_same_way_whatever_else_is_there(tmp_path: Path) -> None:
    """Nested: a larger share holds out the same images and more. Neighbours in order do not go together."""
    write(tmp_path, [f"{kind}/{i:03d}.png" for kind in ("images", "masks") for i in range(60)])
    held = {}
    for share in (0.1, 0.3):
        data = load_folder(tmp_path, "images", "masks", None, share)
        held[share] = set(data["validation"]["id"])
        assert not held[share] & set(data["train"]["id"]) and len(data["train"]) + len(held[share]) == 60
        assert data["train"]["id"][:] == sorted(data["train"]["id"])
    assert [len(held[0.1]), len(held[0.3])] == [6, 18] and held[0.1] < held[0.3]
    numbers = sorted(int(name) for name in held[0.3])
    assert numbers[0] < 15 and numbers[-1] > 45
    again = load_folder(tmp_path, "images", "masks", None, 0.1)
    assert set(again["validation"]["id"]) == held[0.1]


def test_one_image_cannot_be_divided(tmp_path: Path) -> None:
    write(tmp_path, ["images/a.png", "masks/a.png"])
    with pytest.raises(DataError, match=r"data\.validation: 1 images cannot be divided"):
        load_folder(tmp_path, "images", "masks", None, 0.5)
