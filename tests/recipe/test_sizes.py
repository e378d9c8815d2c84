"""Sizes that do not fit are told before anything is loaded; the model itself, run on the CPU, is the oracle."""

import itertools

import pytest
import torch

from hf_dinoseg import load_recipe
from hf_dinoseg.builders import _new_model, check_sizes
from hf_dinoseg.errors import RecipeError, RunError
from hf_dinoseg.recipe.schema import model_section
from hf_dinoseg.run import train
from hf_dinoseg.testing.dry_run import dry_run


def _told(path, overrides):
    """What a user is told of these sizes before training; None if nothing."""
    try:
        check_sizes(load_recipe(path, overrides))
    except (RecipeError, RunError) as error:
        return str(error)
    return None


def _runs(recipe):
    try:
        model = _new_model(recipe)
        model(pixel_values=torch.zeros(2, 3, 64, 64))
    except (RuntimeError, ValueError, ZeroDivisionError, TypeError):
        return False
    return True


@pytest.mark.parametrize("kind", ["dinov3_vit", "dinov2"])
@pytest.mark.parametrize(
    "head",
    ["model.head=mask2former", "model.adapter=pyramid", "model.head=linear", "model.head=eomt", "model.head=pmt"],
)
def test_what_is_said_of_widths_and_heads_is_what_the_model_does(tmp_path, write_tiny_recipe, monkeypatch, kind, head):
    path = write_tiny_recipe(tmp_path)
    for width, heads in itertools.product((32, 40, 48), (2, 3, 4, 5, 8, 16)):
        overrides = [
            f"model.backbone={{model_type: {kind}, hidden_size: {width}, num_hidden_layers: 4, "
            f"num_attention_heads: {heads}, intermediate_size: 64, patch_size: 16}}"
            if kind == "dinov3_vit"
            else f"model.backbone={{model_type: {kind}, hidden_size: {width}, num_hidden_layers: 4, "
            f"num_attention_heads: {heads}, mlp_ratio: 2, patch_size: 16, image_size: 64}}",
            head,
        ]
        told = _told(path, overrides)
        with monkeypatch.context() as unchecked:
            unchecked.setattr("hf_dinoseg.recipe.schema.backbone_faults", lambda config: [])
            assert (told is None) == _runs(load_recipe(path, overrides)), (width, heads, told)
        if told and kind == "dinov3_vit" and width % (4 * heads):
            assert "hidden_size" in told and "num_attention_heads" in told


def test_five_heads_for_width_64_are_told_with_the_recipe_and_in_a_dry_run(tmp_path, write_tiny_recipe):
    path = write_tiny_recipe(tmp_path)
    for field, good in {"num_attention_heads": "4, 8", "num_hidden_layers": ""}.items():
        with pytest.raises(RecipeError, match=rf"{field}.*{good}"):
            load_recipe(path, [f"model.backbone.{field}={5 if good else 0}", "model.backbone.hidden_size=64"])
    # a size that only the parts together tell: six layers asked of four
    recipe = load_recipe(path, ["model.out_layers=[1, 2, 3, 6]"])
    for start in (train, dry_run):
        with pytest.raises(RunError, match=r"out_layers.*between 1 and 4"):
            start(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "backbone",
    [
        "{model_type: dinov3_convnext, hidden_sizes: [16, 16, 32], depths: [1, 1, 1, 1]}",
        "{model_type: dinov3_vit, hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 2}",
        "{model_type: dinov3_vit, hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, patch_size: 0}",
    ],
)
def test_other_backbones_whose_sizes_make_no_model(tmp_path, write_tiny_recipe, backbone):
    assert _told(write_tiny_recipe(tmp_path), [f"model.backbone={backbone}"])


def test_every_size_of_the_head_that_the_recipe_accepts_makes_a_model(tmp_path, write_tiny_recipe):
    path = write_tiny_recipe(tmp_path)
    for dim, heads in itertools.product((32, 48, 64), (1, 3, 4, 5, 8, 32, 64)):
        try:
            recipe = load_recipe(path, [f"model.hidden_dim={dim}", f"model.num_attention_heads={heads}"])
        except RecipeError as error:
            assert "model.hidden_dim" in str(error)
            continue
        assert _runs(recipe), (dim, heads)
    sizes = [n for n, f in model_section().model_fields.items() if f.annotation is int]
    assert "pixel_decoder_ffn_dim" in sizes
    for name in sizes:
        with pytest.raises(RecipeError, match=f"model.{name}"):
            load_recipe(path, [f"model.{name}=0"])


@pytest.mark.parametrize("steps", [0, -2, -5])
def test_max_steps_that_mean_nothing_are_refused(tmp_path, write_tiny_recipe, steps):
    path = write_tiny_recipe(tmp_path)
    with pytest.raises(RecipeError, match=rf"training\.max_steps: {steps}.*num_train_epochs"):
        load_recipe(path, [f"training.max_steps={steps}"])
    assert load_recipe(path, ["training.max_steps=-1", "training.num_train_epochs=2"]).training["max_steps"] == -1


def test_a_logger_that_is_not_installed_is_told_before_anything_is_written(tmp_path, write_tiny_recipe, monkeypatch):
    import transformers.integrations.integration_utils as integrations

    monkeypatch.setattr(integrations, "is_wandb_available", lambda: False)
    monkeypatch.setattr(integrations, "is_comet_available", lambda: False)
    monkeypatch.setattr("hf_dinoseg.run.build_source", lambda recipe: pytest.fail("data was loaded"))
    path = write_tiny_recipe(tmp_path)
    for name, package in {"wandb": "wandb", "comet_ml": "comet-ml"}.items():
        with pytest.raises(RunError, match=rf"training\.report_to: {name}.*pip install {package}"):
            train(load_recipe(path, [f"training.report_to=[tensorboard, {name}]"]))
    assert not (tmp_path / "run").exists()
