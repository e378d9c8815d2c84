"""A recipe from keywords: each where the sections have it, and every fault told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hf_dinoseg.errors import RecipeError
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.recipe import Recipe, load_recipe, recipe_of

CLASSES = ["background", "vessel"]


def test_keywords_are_the_recipe_that_they_stand_for(tmp_path: Path) -> None:
    """The call of the pages, and beside it the recipe as one would write it."""
    written = tmp_path / "recipe.yaml"
    written.write_text(
        """
        labels: {classes: {0: background, 1: vessel}}
        data: {source: folder, root: ., image: photos, mask: masks, validation: 0.2, crop_size: 256}
        model: {backbone: facebook/dinov3-vitb16-pretrain-lvd1689m}
        training: {output_dir: trainer_output, max_steps: 2000, seed: 7}
        evaluation: {panels: 0}
        hub: {private: true}
        """
    )
    keywords = {"classes": tuple(CLASSES), "backbone": "facebook/dinov3-vitb16-pretrain-lvd1689m", "seed": 7}
    keywords |= {"max_steps": np.int64(2000), "crop_size": 256, "panels": 0, "private": True}
    assert recipe_of(keywords=keywords, images="photos", masks=Path("masks")) == load_recipe(written)


def test_keywords_change_a_recipe_before_its_defaults_are_derived(
    tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]
) -> None:
    path = write_tiny_recipe(tmp_path)
    assert recipe_of(path) == load_recipe(path)
    changes = {"max_steps": 4000, "training": {"logging_steps": 9}, "window": 48}
    changed = recipe_of(str(path), changes)
    assert changed == load_recipe(path, ["training.max_steps=4000", "training.logging_steps=9", "evaluation.window=48"])
    assert changed.training["warmup_steps"] == 200  # a twentieth of the steps that the keyword asks for
    same = recipe_of(load_recipe(path))
    assert recipe_of(same.to_dict()) == same and recipe_of(same, {"head": "linear"}).model.head == "linear"


def test_other_data_takes_the_place_of_the_recipes(tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]) -> None:
    path = write_tiny_recipe(tmp_path)
    folder = recipe_of(path, images="a/images", masks="a/masks")
    assert (folder.data.source, folder.data.root, folder.data.image) == ("folder", "a", "images")  # type: ignore[union-attr]
    assert folder.data.crop_size == 64  # as the recipe says; only the place is another
    assert recipe_of(path, in_memory=True).data.source == "memory"
    listed = {"file": "pairs.csv", "root": "x", "validation": 0.2}
    assert recipe_of(keywords={"classes": CLASSES, **listed}).data.source == "table"
    table = recipe_of(path, {"data": {"source": "table", "file": "pairs.csv", "train": None, "validation": 0.1}})
    assert table.data.source == "table" and table.data.crop_size == 64


def test_labels_in_each_form() -> None:
    def space(**labels: object) -> LabelSpace:
        return recipe_of(keywords={"source": "synthetic-retina", **labels}).labels

    assert space(classes=CLASSES, ignore=[255]) == LabelSpace({0: "background", 1: "vessel"}, ignore=(255,))
    assert space(classes=["wall", "sky"], reduce_zero_label=True).classes == {1: "wall", 2: "sky"}
    own = LabelSpace({3: "a", 9: "b"}, merge={9: 3}, colors={3: (1, 2, 3)})
    assert space(labels=own) == own == space(label_space=own)
    assert space(labels="ade20k").num_labels == 150


def test_folders_divided_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def data(images: str | Path, masks: str | Path, **keywords: object) -> dict[str, object]:
        fields = recipe_of(keywords={"classes": CLASSES, **keywords}, images=images, masks=masks).data.source_fields()
        return {name: fields[name] for name in ("root", "image", "mask", "train", "validation")}

    monkeypatch.chdir(tmp_path)
    names = ("root", "image", "mask", "train", "validation")
    assert data("photos", "masks") == dict(zip(names, (".", "photos", "masks", None, 0.2), strict=True))
    assert data("photos", "masks", validation=0.5)["validation"] == 0.5
    for split in ("train", "valid"):
        for kind in ("photos", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
    divided = (".", "photos/{split}", "masks/{split}", "train", "valid")
    assert data("photos", "masks") == dict(zip(names, divided, strict=True))
    absolute = data(tmp_path / "photos", "masks")
    assert absolute == dict(zip(names, (str(tmp_path), *divided[1:]), strict=True))
    template = data("x/{split}/{stem}.jpg", "x/{split}/{stem}_m.png", train="a", validation="b")
    assert template == dict(zip(names, ("x", "{split}/{stem}.jpg", "{split}/{stem}_m.png", "a", "b"), strict=True))


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"bakbone": "x"}, ["bakbone: unknown", "Did you mean backbone?"]),
        ({"max_step": 3, "clases": 1}, ["Did you mean max_steps?", "Did you mean classes?"]),
        ({"batch_size": 4}, ["evaluation={'batch_size': 4}", "per_device_train_batch_size"]),
        ({"repo_id": "a/b"}, ["data={'repo_id': \"a/b\"}", "hub={'repo_id': \"a/b\"}"]),
        ({"training": 3}, ["training: 3 is not accepted", "a dict of its fields"]),
        ({"max_steps": "many"}, ["labels: missing; name the classes", "data: missing; name folders"]),
        ({"root": "x", "classes": ["a", "b"], "max_steps": "many"}, ['training.max_steps: "many" is not accepted']),
        ({"root": "x", "source": "folder", "classes": ["a"], "split_column": "s"}, ["belongs to source table"]),
        ({"hub_token": "secret", "classes": ["a"], "root": "x"}, ["training.hub_token", "hf auth login"]),
    ],
)
def test_what_cannot_be_placed_is_told(keywords: dict[str, object], told: list[str]) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe_of(keywords=keywords, where="train(…)")
    assert str(raised.value).startswith("train(…): ")
    assert not [words for words in told if words not in str(raised.value)]


def test_no_recipe_at_all() -> None:
    with pytest.raises(RecipeError, match="a list is no recipe; give a Recipe, the path"):
        recipe_of(["recipe.yaml"])  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="masks: missing"):
        recipe_of(keywords={"classes": CLASSES}, images="photos")
    assert isinstance(recipe_of(keywords={"classes": CLASSES}, in_memory=True), Recipe)
