"""Every recipe that the project ships is read, resolved and checked against what the package offers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from hf_dinoseg.builders import build_model, build_processor
from hf_dinoseg.recipe import FolderData, Recipe, load_recipe
from hf_dinoseg.recipe.yaml_format import read_yaml
from hf_dinoseg.run import evaluate
from hf_dinoseg.testing.dry_run import dry_run, rehearsal

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))
FILES = [path for path in FILES if path.parent.name != "accelerate"]  # those configure accelerate, not a run
BASES = [path for path in FILES if path.stem.startswith("base")]  # these are shared; they are no recipe by themselves
RECIPES = [path for path in FILES if path not in BASES]

FROM_SCRATCH = [path for path in RECIPES if path.stem.endswith("_tiny")]  # the others have their published shape

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT / "recipes")))


def test_there_are_recipes() -> None:
    assert {"synthetic_retina", "camvid", "ade20k", "cityscapes", "pascal_voc", "retina_vessels"} == {
        path.parent.name for path in RECIPES
    }
    sizes = ("vits16", "vitb16", "vitl16", "vit7b16")
    wanted = {f"{head}_{size}" for head in ("linear", "eomt", "mask2former") for size in sizes}
    wanted |= {"pmt_vits16", "pmt_vitb16", "pmt_vitl16"}
    assert {path.stem for path in RECIPES if path.parent.name == "ade20k"} == wanted


def test_what_recipes_share_is_called_base_and_every_base_is_used() -> None:
    named = {path: read_yaml(path).get("base") for path in FILES}
    assert {(path.parent / base).resolve() for path, base in named.items() if base} == {p.resolve() for p in BASES}


@every_recipe
def test_recipe_trains_and_evaluates_in_small(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path)
    did = dry_run(recipe)
    assert len(did["losses"]) == did["steps"] == 2 and all(math.isfinite(loss) for loss in did["losses"])
    assert 0 <= did["mean_iou"] <= 1 and did["num_labels"] == recipe.labels.num_labels
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@every_recipe
def test_a_checkpoint_of_the_recipe_is_evaluated_without_an_accelerator(path: Path, tmp_path: Path) -> None:
    """By the recipe beside it, whose `training` is the shipped one: most of them train in bfloat16."""
    recipe = load_recipe(path)
    small = rehearsal(recipe, tmp_path)
    checkpoint = tmp_path / "checkpoint"
    build_model(small).save_pretrained(checkpoint)
    build_processor(small).save_pretrained(checkpoint)
    own = Recipe.from_dict({**small.to_dict(), "training": recipe.training})
    assert own.training == recipe.training
    (checkpoint / "recipe.yaml").write_text(own.to_yaml(), encoding="utf-8")
    metrics = evaluate(str(checkpoint))
    assert 0 <= metrics["mean_iou"] <= 1 and metrics["num_images"] >= 1


@every_recipe
def test_recipe_says_what_it_is_and_keeps_to_its_folder(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    resolved = tmp_path / "recipe.yaml"
    resolved.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(resolved) == recipe

    head, _, size = path.stem.partition("_")
    assert head == recipe.model.head
    backbone = recipe.model.backbone
    assert size in backbone.replace("-", "") if isinstance(backbone, str) else size == "tiny"

    assert recipe.training["output_dir"].startswith("out/")
    assert not recipe.training.get("push_to_hub") and recipe.hub.repo_id is None
    assert not isinstance(recipe.data, FolderData) or not Path(recipe.data.root).is_absolute()

    labels = recipe.labels
    if labels.colors:
        assert set(labels.colors) >= set(labels.original_ids)
        twice = [name for i, name in labels.classes.items() if list(labels.colors.values()).count(labels.colors[i]) > 1]
        assert twice in ([], ["road", "skyscraper"])  # ADE20K publishes one colour for both


@every_recipe
def test_no_mask_has_fewer_pixels_than_points_are_drawn_of_it(path: Path) -> None:
    """Masks are at stride 4; further points would only repeat what their neighbours say."""
    recipe = load_recipe(path)
    if recipe.model.head != "linear":
        assert recipe.loss.num_points <= (recipe.data.crop_size // 4) ** 2


@pytest.mark.parametrize("path", FROM_SCRATCH, ids=lambda p: str(p.relative_to(ROOT / "recipes")))
def test_a_backbone_from_scratch_fits_adapter_and_position_encoding(path: Path) -> None:
    """The adapter's deformable attention has 16 heads over half the backbone's width; a head's rotary encoding turns
    pairs along two axes."""
    backbone = load_recipe(path).model.backbone
    assert isinstance(backbone, dict)
    config = CONFIG_MAPPING[backbone["model_type"]](**{k: v for k, v in backbone.items() if k != "model_type"})
    assert config.hidden_size % 32 == 0
    assert config.hidden_size % (4 * config.num_attention_heads) == 0


def test_the_table_lists_every_recipe_with_a_command_that_fits() -> None:
    table = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for path in RECIPES:
        name = path.relative_to(ROOT / "recipes").as_posix()
        assert f"]({name})" in table, name
    for command in re.findall(r"`accelerate launch train\.py (\S+) (\S+)`", table):
        load_recipe(ROOT / command[0], [command[1]])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_takes_its_configurations(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).num_processes == (2 if path.stem == "cpu" else 8)
