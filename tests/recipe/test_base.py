"""Recipes that share: what `base:` takes over, what wins, and what is said when it goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hf_dinoseg.errors import RecipeError
from hf_dinoseg.recipe import Recipe, load_recipe

WHOLE = """
labels: {classes: {0: background, 1: vessel}, ignore: [255], colors: {0: [0, 0, 0], 1: [9, 9, 9]}}
data: {source: folder, root: data/retina, scale: [0.75, 1.5], crop_size: 256}
model: {head: linear, num_queries: 20}
training: {output_dir: out/retina, max_steps: 70}
evaluation: {window: 300, tta: {scales: [0.5, 1.0], flip: true}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.yaml").write_text(WHOLE)
    return tmp_path


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def faults_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert str(path) in str(caught.value)
    return caught.value.faults


def test_a_base_alone_changes_nothing(folder: Path) -> None:
    one = load_recipe(write(folder, "base: shared/base.yaml"))
    assert one == load_recipe(folder / "shared" / "base.yaml")
    assert "base" not in one.to_dict() and "base:" not in one.to_yaml()
    assert Recipe.from_dict(one.to_dict()) == one


def test_fields_are_merged_at_every_depth_and_the_recipe_wins(folder: Path) -> None:
    text = "base: shared/base.yaml\ndata: {crop_size: 64}\nevaluation: {tta: {flip: false}}\nloss: {dice_weight: 3.0}"
    recipe = load_recipe(write(folder, text))
    assert (recipe.data.crop_size, recipe.data.scale) == (64, (0.75, 1.5))
    assert recipe.evaluation.tta is not None
    assert (recipe.evaluation.tta.flip, tuple(recipe.evaluation.tta.scales)) == (False, (0.5, 1.0))
    assert (recipe.loss.dice_weight, recipe.model.head) == (3.0, "linear")


def test_lists_classes_and_colors_are_replaced_as_a_whole(folder: Path) -> None:
    text = (
        "base: shared/base.yaml\n"
        "labels: {classes: {0: sky, 2: road}, ignore: [7, 8], colors: {2: [1, 2, 3]}}\ndata: {scale: [1.0, 2.0]}"
    )
    recipe = load_recipe(write(folder, text))
    assert dict(recipe.labels.classes) == {0: "sky", 2: "road"} and recipe.labels.ignore == (7, 8)
    assert recipe.labels.colors is not None and set(recipe.labels.colors) == {2}
    assert recipe.data.scale == (1.0, 2.0)


def test_null_takes_a_value_of_the_base_back(folder: Path) -> None:
    recipe = load_recipe(write(folder, "base: shared/base.yaml\nevaluation: {window: null}\nmodel: null"))
    assert recipe.evaluation.window == 256 and recipe.model.head == "mask2former"


def test_a_base_may_have_a_base_and_paths_start_from_the_file_that_names_them(folder: Path) -> None:
    write(folder / "shared", "base: base.yaml\ntraining: {max_steps: 80}\nmodel: {head: eomt}", "middle.yaml")
    (folder / "deep").mkdir()
    path = write(folder / "deep", "base: ../shared/middle.yaml\nmodel: {num_queries: 9}")
    recipe = load_recipe(path, ["training.eval_steps=40"])
    assert (recipe.model.head, recipe.model.num_queries, recipe.training["max_steps"]) == ("eomt", 9, 80)
    assert recipe.training["output_dir"] == "out/retina" and recipe.training["eval_steps"] == 40


def test_overrides_win_and_leave_the_files_alone(folder: Path) -> None:
    path = write(folder, "base: shared/base.yaml")
    assert load_recipe(path, ["model.num_queries=5"]).model.num_queries == 5
    assert load_recipe(path).model.num_queries == 20


def test_a_base_that_is_not_there_names_both_files(folder: Path) -> None:
    (fault,) = faults_of(write(folder, "base: shared/bass.yaml"))
    assert "shared/bass.yaml" in fault and "no such file" in fault and "base.yaml" in fault


def test_a_base_that_is_no_yaml_names_both_files(folder: Path) -> None:
    write(folder / "shared", "labels: {", "broken.yaml")
    (fault,) = faults_of(write(folder, "base: shared/broken.yaml"))
    assert "shared/broken.yaml" in fault and "line 1" in fault


@pytest.mark.parametrize("value", ["[shared/base.yaml]", "3", "{a: b}", "''"])
def test_a_base_is_one_path(folder: Path, value: str) -> None:
    (fault,) = faults_of(write(folder, f"base: {value}"))
    assert fault.startswith("base: ")


def test_loops_are_refused(folder: Path) -> None:
    path = write(folder, "base: recipe.yaml")
    (fault,) = faults_of(path)
    assert fault.startswith("base: ") and str(path) in fault
    write(folder, "base: b.yaml", "a.yaml")
    write(folder, "base: ./shared/../a.yaml", "b.yaml")
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "a.yaml")
    assert "a.yaml" in str(caught.value) and "b.yaml" in str(caught.value)


def test_a_fault_names_the_base_that_it_stands_in(folder: Path) -> None:
    write(folder / "shared", WHOLE.replace("head: linear", "head: lineal, nonsense: 3"), "wrong.yaml")
    path = write(folder, "base: shared/wrong.yaml\ndata: {crop_size: big}")
    by_name = {fault.partition(":")[0]: fault for fault in faults_of(path)}
    assert set(by_name) == {"model.head", "model.nonsense", "data.crop_size"}
    assert str(folder / "shared" / "wrong.yaml") in by_name["model.head"]
    assert str(folder / "shared" / "wrong.yaml") in by_name["model.nonsense"]
    assert "wrong.yaml" not in by_name["data.crop_size"]
    own = {fault.partition(":")[0]: fault for fault in faults_of(path, "model.head=other", "data.crop_size=64")}
    assert "wrong.yaml" not in own["model.head"] and "wrong.yaml" in own["model.nonsense"]


def test_a_base_is_no_override_and_no_part_of_a_resolved_recipe(folder: Path) -> None:
    (fault,) = faults_of(folder / "shared" / "base.yaml", "base=other.yaml")
    assert fault.startswith("base: ") and "recipe file" in fault
    with pytest.raises(RecipeError, match="base: .*recipe file"):
        Recipe.from_dict({**yaml.safe_load(WHOLE), "base": "other.yaml"})
