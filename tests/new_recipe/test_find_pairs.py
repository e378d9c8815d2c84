"""Images and masks are paired whatever the folders are called, and the recipe's own source finds the same pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hf_dinoseg.data.sources import load_folder
from hf_dinoseg.errors import DataError
from hf_dinoseg.new_recipe.find_pairs import find_pairs


def _files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / name)


LAYOUTS = {
    "two folders": (("photos/a.jpg", "photos/b.jpg", "masks/a.png", "masks/b.png"), ("photos", "masks")),
    "masks with an ending": (("x/a.jpg", "x/b.jpg", "y/a_mask.png", "y/b_mask.png"), ("x", "y")),
    "both with endings": (
        ("img/21_training.tif", "img/22_training.tif", "gt/21_manual1.gif", "gt/22_manual1.gif"),
        ("img", "gt"),
    ),
    "masks with a beginning": (("x/10.jpg", "x/20.jpg", "y/gt_10.png", "y/gt_20.png"), ("x", "y")),
    "one folder of two": (("set/images/a.jpg", "set/images/b.jpg", "set/labels/a.png", "set/labels/b.png"), ("set",)),
    "side by side": (("all/a.jpg", "all/b.jpg", "all/a_mask.png", "all/b_mask.png"), ("all",)),
    "deeper": (("x/p1/a.jpg", "x/p2/a.jpg", "y/p1/a.png", "y/p2/a.png"), ("x", "y")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_those_that_the_recipe_finds(tmp_path: Path, layout: str) -> None:
    names, given = LAYOUTS[layout]
    _files(tmp_path, *names)
    pairs = find_pairs(*(tmp_path / name for name in given))
    assert len(pairs.images) == len(pairs.masks) == 2
    for stem, image in pairs.images.items():
        wanted = names.index(Path(image).relative_to(tmp_path).as_posix()) + 2
        assert Path(pairs.masks[stem]).relative_to(tmp_path).as_posix() == names[wanted]
    splits = load_folder(pairs.root, pairs.image, pairs.mask, None, 0.5)
    rows = [row for split in splits.values() for row in split]
    assert {row["image"]["path"]: row["mask"]["path"] for row in rows} == {
        pairs.images[stem]: pairs.masks[stem] for stem in pairs.images
    }


def test_folders_of_splits_are_known(tmp_path: Path) -> None:
    _files(tmp_path, *(f"{k}/{s}/a.png" for k in ("images", "masks") for s in ("training", "validation")))
    pairs = find_pairs(tmp_path)
    assert (pairs.image, pairs.mask) == ("images/{split}", "masks/{split}")
    assert (pairs.train, pairs.validation) == ("training", "validation") and len(pairs.images) == 2


def test_what_is_alone_is_told(tmp_path: Path) -> None:
    _files(tmp_path, "x/a.jpg", "x/b.jpg", "x/c.jpg", "y/a.png", "y/b.png", "y/d.png")
    pairs = find_pairs(tmp_path / "x", tmp_path / "y")
    assert (pairs.without_mask, pairs.without_image) == (["c"], ["d"])


def test_where_nothing_pairs_both_names_are_shown(tmp_path: Path) -> None:
    _files(tmp_path, "x/eye.jpg", "y/other.png")
    with pytest.raises(DataError) as caught:
        find_pairs(tmp_path / "x", tmp_path / "y")
    assert "eye.jpg" in str(caught.value) and "other.png" in str(caught.value)
    with pytest.raises(DataError):
        find_pairs(tmp_path / "x")
    with pytest.raises(DataError):
        find_pairs(tmp_path / "nowhere", tmp_path / "y")
