"""Packaged labels against what the datasets' own documents say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hf_dinoseg.errors import RecipeError
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.recipe import Recipe, label_preset, load_recipe
from hf_dinoseg.recipe.presets import presets

REST = "data: {source: folder, root: r}\ntraining: {output_dir: o}\n"


def test_ade20k_is_the_list_of_the_benchmark() -> None:
    if "DINOSEG_TEST_DATA" not in os.environ:
        pytest.skip("DINOSEG_TEST_DATA is not set: it names the folder that holds ade20k/classes.json")
    listed = json.loads((Path(os.environ["DINOSEG_TEST_DATA"]) / "ade20k/classes.json").read_text())
    classes = {entry["id"]: entry for entry in listed if entry["id"] > 0}
    labels = LabelSpace(**label_preset("ade20k"))
    assert labels.classes == {i: entry["name"] for i, entry in classes.items()} and labels.num_labels == 150
    assert labels.colors == {i: tuple(entry["color"]) for i, entry in classes.items()}
    assert labels.reduce_zero_label and labels.id2label[0] == "wall"


def test_cityscapes_knows_every_label_id_and_learns_nineteen_in_the_order_of_the_benchmark() -> None:
    labels = LabelSpace(**label_preset("cityscapes"))
    assert sorted([*labels.classes, *labels.ignore]) == list(range(34))
    train_ids = labels.encode(np.arange(34, dtype=np.uint8)[None])[0]
    expected = [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255] + [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    assert train_ids.tolist() == [*expected, 255, 255, 16, 17, 18]
    assert labels.id2label[0] == "road" and labels.id2label[18] == "bicycle"
    assert labels.colors[7] == (128, 64, 128) and labels.colors[33] == (119, 11, 32)


def test_pascal_voc_has_the_colours_of_its_colour_map() -> None:
    """The bits of an id, three at a time, are the high bits of red, green and blue."""
    labels = LabelSpace(**label_preset("pascal_voc"))
    assert list(labels.classes) == list(range(21)) and labels.ignore == (255,)
    for i, color in labels.colors.items():
        bits = f"{i:024b}"[::-1]
        assert color == tuple(int(bits[channel::3][:8], 2) for channel in range(3))


def test_a_preset_is_written_out_and_what_the_recipe_gives_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("labels: {preset: pascal_voc, ignore: [254, 255]}\n" + REST)
    recipe = load_recipe(path, ["labels.merge={20: 7}"])
    assert recipe.labels.ignore == (254, 255) and recipe.labels.merge == {20: 7}
    assert recipe.labels.classes == LabelSpace(**label_preset("pascal_voc")).classes
    assert "preset" not in recipe.to_yaml() and Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("name", ["ade", "ade20K", "7", "[a]", "../presets"])
def test_an_unknown_preset_is_told_with_those_that_there_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"labels: {{preset: {name}}}\n" + REST)
    with pytest.raises(RecipeError, match=r"labels\.preset: .* write one of ade20k, cityscapes, pascal_voc\."):
        load_recipe(path)
    assert presets() == ["ade20k", "cityscapes", "pascal_voc"]
