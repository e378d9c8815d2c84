"""What undeclared ids mean: for each way to get a recipe wrong, the right way out is told first.

The ids are planted, so what they mean is known; shares are those that such datasets have.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import LabelSpace, load_recipe
from hf_dinoseg.builders import build_source
from hf_dinoseg.doctor import examine, quick_checks
from hf_dinoseg.doctor.readings import readings
from hf_dinoseg.inference import Segmenter
from hf_dinoseg.run import train


def named(*ids):
    return {i: f"class {i}" for i in ids}


def told(found, space, seams=False):
    return readings(Counter(found), space, seams)


def shares(*percent, first=0):
    return {first + place: 1000 * share for place, share in enumerate(percent)}


CAMVID = shares(16, 22, 1, 31, 4, 10, 1, 1, 6, 1, 1, 3)

CASES = {
    "void at the end": (CAMVID, named(*range(11)), (255,), "ignore: [11, 255]"),
    "void at the end, one class rare": ({**CAMVID, 10: 1}, named(*range(11)), (), "ignore: [11]"),
    "one class forgotten, in the middle": (shares(20, 20, 20, 20, 20), named(0, 1, 3, 4), (255,), "classes: {2: …}"),
    "several classes forgotten": (shares(30, 30, 20, 10, 10), named(0, 1), (), "classes: {2: …, 3: …, 4: …}"),
    "a large class forgotten, at the end": (shares(10, 20, 70), named(0, 1), (), "classes: {2: …}"),
    "void 255 as in Pascal VOC": ({**shares(70, 10, 10, 5), 255: 5000}, named(0, 1, 2, 3), (), "ignore: [255]"),
    "void 255 and a class": ({**shares(70, 10, 10, 5), 255: 5000}, named(0, 1, 3), (), "ignore: [255]"),
    "void 0": (shares(8, 40, 30, 20, 2), named(1, 2, 3, 4), (255,), "reduce_zero_label: true"),
    "background 0": (shares(80, 10, 10), named(1, 2), (255,), "classes: {0: …}"),
    "void -1": ({-1: 300, **shares(40, 40, 20)}, named(0, 1, 2), (), "ignore: [-1]"),
    "one too high": (shares(40, 30, 20, 10, first=1), named(0, 1, 2, 3), (), "classes: {1: class 0, 2: class 1"),
    "one too low": (shares(40, 30, 20, 10), named(1, 2, 3, 4), (), "classes: {0: class 1, 1: class 2"),
    "multiplied": ({0: 5, 85: 5, 170: 5, 255: 5}, named(0, 1, 2, 3), (), "classes: {0: class 0, 85: class 1"),
    "smoothed": (dict.fromkeys(range(90), 7), named(0, 1, 2), (), "nearest neighbour"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_likeliest_meaning_comes_first(case):
    found, classes, ignore, cure = CASES[case]
    best = told(found, LabelSpace(classes, ignore=ignore))[0]
    first_advice = best.cure.partition(" If ")[0] if best.cure.startswith("If") else best.cure
    assert cure in first_advice, best


def test_zero_drawn_as_seams_is_void_and_names_are_one_higher():
    """ADE20K with its 150 names counted from 0: only where 0 lies tells it from a void id at the end."""
    space = LabelSpace(named(*range(5)))
    found = shares(8, 30, 30, 20, 10, 2)
    assert [reading.code for reading in told(found, space)] == ["unknown-ids", "unknown-ids", "ids-off-by-one"]
    best = told(found, space, seams=True)[0]
    assert best.code == "ids-off-by-one" and "reduce_zero_label: true" in best.cure and "0 means" in best.cure


def test_classes_that_are_rare_anyway_do_not_make_ids_move():
    """A few masks of ADE20K, declared from 1 without `reduce_zero_label`: the last class is in none, as many are."""
    found = {0: 800, **{i: 100 for i in range(1, 150) if i % 3}}
    assert told(found, LabelSpace(named(*range(1, 151))))[0].code == "unknown-ids"


@pytest.mark.parametrize("seed", range(30))
def test_every_reading_explains_all_ids(seed):
    """What is told first is written into the recipe, as a user would: nothing is unknown then."""
    rng = np.random.default_rng(seed)
    declared = sorted(rng.choice(12, size=rng.integers(2, 8), replace=False).tolist())
    found = Counter({int(i): int(rng.integers(1, 999)) for i in rng.choice(14, size=rng.integers(2, 9), replace=False)})
    space = LabelSpace(named(*declared))
    if not set(found) - set(space.train_ids):
        return
    for reading in told(found, space):
        classes, ignore, zero = dict(space.classes), set(space.ignore), space.reduce_zero_label
        moved = re.search(r"each name belongs to the id one (higher|lower)", reading.cure)
        if moved:
            shift = 1 if moved[1] == "higher" else -1
            classes = {i + shift: name for i, name in classes.items()}
        elif reading.code != "unknown-ids":
            continue
        zero |= "reduce_zero_label: true" in reading.cure
        for listed in re.findall(r"ignore: \[([^\]]*)\]", reading.cure):
            ignore |= {int(i) for i in listed.split(",") if "…" not in i}
        if not moved:
            for listed in re.findall(r"classes: \{([^}]*)\}", reading.cure):
                classes |= {int(i): i for i in re.findall(r"(-?\d+):", listed)}
        if "…]" not in reading.cure and ", …" not in reading.cure:
            assert set(found) <= set(classes) | ignore | ({0} if zero else set()), reading


def test_a_factor_is_told_in_plain_figures():
    space = LabelSpace(named(0, 1, 2, 3))
    [best, *_] = told({0: 5, 21845: 5, 43690: 5, 65535: 5}, space)
    assert "multiplied by 21845" in best.seen and "e+" not in best.seen + best.cure
    assert "multiplied by 42.5:" in told({0: 5, 42: 5, 85: 5, 255: 5}, LabelSpace(named(*range(7))))[0].seen + ":"


@pytest.mark.skipif("DINOSEG_TEST_DATA" not in os.environ, reason="needs images: DINOSEG_TEST_DATA, with camvid/")
@pytest.mark.parametrize("look", [examine, quick_checks])
def test_camvid_with_its_void_id_left_out(look):
    recipes = Path(__file__).parents[2] / "recipes"
    root = Path(os.environ["DINOSEG_TEST_DATA"]) / "camvid"
    recipe = load_recipe(recipes / "camvid" / "mask2former_tiny.yaml", [f"data.root={root}"])
    space = LabelSpace(recipe.labels.classes, ignore=(255,))
    report = look(build_source(recipe), space)
    [found] = [f for f in report.findings if f.code in ("unknown-ids", "ids-off-by-one")]
    assert found.code == "unknown-ids"
    assert found.cure.startswith("If 11 means 'not labelled', write `labels.ignore: [11, 255]`.")
    assert not look(build_source(recipe), LabelSpace(space.classes, ignore=(11, 255))).errors


def test_the_cure_of_negative_ids_trains_and_predicts(tmp_path, write_tiny_recipe):
    """Masks of -1 for void, which a label image cannot hold; predictions are written as such images."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for name in range(6):
        mask = np.kron(rng.permutation(np.arange(9) % 4 - 1).reshape(3, 3), np.ones((32, 32), int)).astype(np.int32)
        np.save(tmp_path / "masks" / f"{name}.npy", mask)
        image = (60 * (mask[..., None] + 1) + rng.integers(0, 20, (96, 96, 3))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
    recipe, names = write_tiny_recipe(tmp_path), named(0, 1, 2)
    data = f"source: folder, root: {tmp_path}, image: images, mask: masks, validation: 0.4, crop_size: 64"
    text = re.sub(r"data: .*\n", f"data: {{{data}}}\n", recipe.read_text())
    recipe.write_text(re.sub(r"labels: .*\n", f"labels: {{classes: {names}, ignore: [-1]}}\n", text))
    rows = build_source(load_recipe(recipe))
    [found] = [f for f in examine(rows, LabelSpace(names)).findings if f.code == "unknown-ids"]
    assert found.cure.startswith("If -1 means 'not labelled', write `labels.ignore: [-1]`.")
    assert "save the masks again with ids from 0 to 65535" in found.cure and "classes: {-1" not in found.cure
    train(load_recipe(recipe))
    result = Segmenter.from_pretrained(tmp_path / "run", background_threshold=0.4)(tmp_path / "images" / "0.png")
    result.save(tmp_path / "answer.png")
    written = np.asarray(Image.open(tmp_path / "answer.png"))
    assert set(np.unique(written)) <= {0, 1, 2, 255} and (written == result.label_map).all()
