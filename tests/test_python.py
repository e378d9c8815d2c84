"""The doors from Python: train, evaluate and check, by keywords and with data that is an object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import hf_dinoseg
from hf_dinoseg.cli import app
from hf_dinoseg.data import draw_fundus
from hf_dinoseg.errors import DataError, RunError
from hf_dinoseg.recipe import load_recipe, recipe_of
from hf_dinoseg.testing.dry_run import dry_run

CLASSES = ["background", "artery", "vein", "disc"]
Pairs = list[tuple[Image.Image, np.ndarray]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    drawn = [draw_fundus(number, 0, 96) for number in range(6)]
    return [(Image.fromarray(np.asarray(image)), np.asarray(mask)) for image, mask in drawn]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_tiny_recipe: Callable[[Path], Path]) -> dict[str, Any]:
    """Keywords that make training a matter of seconds."""
    recipe = yaml.safe_load(write_tiny_recipe(tmp_path_factory.mktemp("recipe")).read_text())
    training = {**recipe["training"], "max_steps": 1, "eval_steps": 1, "save_steps": 1}
    del training["output_dir"]
    return {"model": recipe["model"], **training, "window": 64, "stride": 42, "crop_size": 64, "panels": 0}


@pytest.fixture(scope="module")
def from_memory(pairs: Pairs, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory") / "run"
    splits = {"train": pairs[:4], "val": pairs[4:]}
    metrics = hf_dinoseg.train(dataset=splits, classes=CLASSES, ignore=[255], output_dir=folder, **small)
    assert metrics["num_images"] == 2 and metrics["train_images"] == 4
    return folder


def test_a_run_on_an_object_says_so_and_is_measured_with_one(from_memory: Path, pairs: Pairs) -> None:
    recipe = load_recipe(from_memory / "recipe.yaml")
    fields = recipe.data.source_fields()
    assert fields["source"] == "memory" and fields["kind"] == "dict of train, val" and fields["fingerprint"]
    with pytest.raises(DataError, match=r"given in Python \(dict of train, val\).*dataset=…") as raised:
        hf_dinoseg.evaluate(from_memory)
    assert "\n" not in str(raised.value)
    stored = yaml.safe_load((from_memory / "metrics.json").read_text())
    again = hf_dinoseg.evaluate(from_memory, dataset=pairs[4:])  # all of what has no splits
    assert again["num_images"] == 2 and again["mean_iou"] == pytest.approx(stored["mean_iou"], abs=1e-9)


def test_a_run_goes_on_with_the_same_object_only(
    from_memory: Path, pairs: Pairs, small: dict[str, Any], tmp_path: Path
) -> None:
    keywords = {"classes": CLASSES, "ignore": [255], "output_dir": from_memory, **small}
    other = [(image, np.zeros_like(mask)) for image, mask in pairs]
    with pytest.raises(RunError, match="another mask"):
        hf_dinoseg.train(dataset={"train": other[:4], "val": other[4:]}, resume=True, **keywords)
    with pytest.raises(RunError, match=r"overwrite=True"):
        hf_dinoseg.train(dataset={"train": pairs[:4], "val": pairs[4:]}, **keywords)


def test_its_recipe_is_rehearsed_and_repeated_with_the_object(from_memory: Path, pairs: Pairs, tmp_path: Path) -> None:
    recipe = load_recipe(from_memory / "recipe.yaml")
    assert dry_run(recipe)["steps"] == 2  # on generated images, as any recipe
    named = recipe_of(recipe, {"data": {"image_column": "photo", "mask_column": "ids"}})
    again = recipe_of(named, in_memory=True).data.source_fields()
    assert (again["image_column"], again["train"], again["validation"]) == ("photo", None, None)
    assert "`hf_dinoseg.train('recipe.yaml', dataset=…)`" in (from_memory / "README.md").read_text(encoding="utf-8")
    (tmp_path / "memory.yaml").write_text(recipe.to_yaml())
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "memory.yaml")])
    assert result.exit_code == 1 and "given in Python" in result.output and "Traceback" not in result.output


def test_folders_by_keywords_train_and_are_measured(pairs: Pairs, small: dict[str, Any], tmp_path: Path) -> None:
    for number, (image, mask) in enumerate(pairs):
        for kind in ("photos", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        image.save(tmp_path / f"photos/{number}.jpg")
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    places = {"images": tmp_path / "photos", "masks": tmp_path / "masks"}
    model = {"head": "linear", "backbone": small["model"]["backbone"]}
    metrics = hf_dinoseg.train(**places, classes=CLASSES, output_dir=tmp_path / "run", **{**small, "model": model})
    assert (metrics["train_images"], metrics["num_images"]) == (5, 1)  # a fifth held out
    assert hf_dinoseg.evaluate(tmp_path / "run")["num_images"] == 1
    everything = hf_dinoseg.evaluate(tmp_path / "run", **places, mode="whole")
    assert everything["num_images"] == 6 and everything["inference"]["mode"] == "whole"


def test_the_doctor_finds_in_objects_what_it_finds_in_files(pairs: Pairs, tmp_path: Path) -> None:
    """Two ids that are not declared, one of a pair's masks of another size."""
    wrong = [*pairs[:5], (pairs[5][0], pairs[5][1][:50])]
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number, (image, mask) in enumerate(wrong):
        image.save(tmp_path / f"images/{number}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    keywords = {"classes": CLASSES[:2], "validation": 0.4}
    reports = [
        hf_dinoseg.check(images=tmp_path / "images", masks=tmp_path / "masks", **keywords),
        hf_dinoseg.check(images=[i for i, _ in wrong], masks=[m for _, m in wrong], **keywords),
    ]
    assert {"unknown-ids", "size-mismatch"} <= reports[0].codes and reports[1].codes == reports[0].codes
    assert hf_dinoseg.check(dataset=pairs, classes=CLASSES, validation=0.4).errors == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"dataset": [1], "images": "a", "masks": "b"}, "given twice"),
        ({"images": ["a"], "masks": "b"}, "images: a list; images and masks are two lists"),
        ({"images": 3, "masks": 4}, "images: a int; give a folder or a list"),
        ({"recipe": 3}, "a int is no recipe"),
        ({}, "data: missing; name folders by images="),
    ],
)
def test_calls_that_contradict_themselves_are_told(arguments: dict[str, Any], told: str) -> None:
    for door in (hf_dinoseg.train, hf_dinoseg.check):
        with pytest.raises(ValueError, match=f"^{door.__name__}.*") as raised:
            door(**arguments)
        assert told in str(raised.value)
