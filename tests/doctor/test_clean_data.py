"""No warning and no error on data that are as they should be: images, drawn images, and each way to label."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import LabelSpace, load_recipe
from hf_dinoseg.builders import build_source
from hf_dinoseg.data import draw_fundus, load_folder, load_synthetic_retina
from hf_dinoseg.doctor import examine, quick_checks

RECIPES = Path(__file__).parents[2] / "recipes"


def silent(splits, space, samples=None):
    return [look(splits, space).codes <= {"label-zero"} for look in (examine, quick_checks)] == [True, True]


@pytest.mark.skipif("DINOSEG_TEST_DATA" not in os.environ, reason="needs images: DINOSEG_TEST_DATA, with camvid/")
def test_camvid():
    root = Path(os.environ["DINOSEG_TEST_DATA"]) / "camvid"
    recipe = load_recipe(RECIPES / "camvid" / "mask2former_tiny.yaml", [f"data.root={root}"])
    source = build_source(recipe)
    assert examine(source, recipe.labels, samples=60).codes == {"label-zero"}
    assert quick_checks(source, recipe.labels).codes <= {"label-zero"}


def test_the_drawn_retina():
    recipe = load_recipe(RECIPES / "synthetic_retina" / "mask2former_tiny.yaml")
    source = load_synthetic_retina(num_train=12, num_validation=4, size=128, seed=0)
    assert silent(source, recipe.labels)


def write(root, split, name, image, mask):
    for kind, pixels in (("images", image), ("masks", mask)):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / kind / split / f"{name}.png")


def folder(root):
    return load_folder(str(root), "images/{split}", "masks/{split}", "train", "val")


@pytest.mark.parametrize("kind", ["binary", "index"])
def test_vessels_and_background(tmp_path, kind):
    """As retina datasets come: thin vessels of 255, or of 1, on a background that is 0."""
    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            image, mask = draw_fundus(number, seed=len(split), size=128)
            vessel = ((mask == 1) | (mask == 2)).astype(np.uint8)
            write(tmp_path, split, number, np.asarray(image), vessel * (255 if kind == "binary" else 1))
    assert silent(folder(tmp_path), LabelSpace({0: "background", 1: "vessel"}, encoding=kind))


def test_scenes_with_unlabelled_zeros(tmp_path):
    """As ADE20K comes: 0 is what nobody labelled, at seams and in places, and classes run from 1."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 15)):
        for number in range(count):
            mask = np.kron(rng.permutation(np.arange(24) % 12 + 1).reshape(4, 6), np.ones((20, 20), int))
            mask[19::20] = mask[:, 19::20] = 0
            mask[40:60, 20:40] = 0
            image = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
            write(tmp_path, split, number, image, mask.astype(np.uint8))
    space = LabelSpace({i: f"class {i}" for i in range(1, 13)}, reduce_zero_label=True)
    assert silent(folder(tmp_path), space)
