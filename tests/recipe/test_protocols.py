"""Published protocols: values against a table written by hand, what a recipe changes, other schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.errors import RecipeError
from hf_dinoseg.hub import model_card
from hf_dinoseg.recipe import Recipe, deviations, load_recipe, protocols
from hf_dinoseg.recipe.protocols import share_of

REST: dict[str, Any] = {
    "labels": {"classes": {0: "a", 1: "b"}},
    "data": {"source": "folder", "root": "r"},
    "training": {"output_dir": "o"},
}
VITL = "facebook/dinov3-vitl16-pretrain-lvd1689m"

#: As read in the authors' code and configurations, not from the files that are tested.
TABLE: dict[str, dict[str, Any]] = {
    "dinov3_linear": {
        "model.head": "linear",
        "model.tune": "head",
        "model.dropout_place": "before_norm",
        "model.classifier_std": 0.01,
        "loss.pixel_ce_divisor": "all",
        "training.learning_rate": 1e-3,
        "training.weight_decay": 1e-3,
        "training.weight_decay_on": "all",
        "training.max_steps": 40000,
        "training.per_device_train_batch_size": 16,
        "training.warmup_steps": 1500,
        "training.lr_scheduler_type": "warmup_one_cycle",
        "training.max_grad_norm": 0,
        "training.bf16": False,
        "training.fp16": False,
        "data.crop_size": 512,
        "data.base_size": 512,
        "data.base_side": "shorter",
        "data.scale": (0.5, 2.0),
        "data.hue": 0.5,
        "data.max_class_share": 0.75,
        "evaluation.window": 512,
        "evaluation.stride": 341,
        "evaluation.shortest_edge": 512,
        "evaluation.join": "logits",
    },
    "dinov3_m2f": {
        "model.head": "mask2former",
        "model.hidden_dim": 2048,
        "model.num_attention_heads": 16,
        "model.pixel_decoder_ffn_dim": 4096,
        "model.decoder_ffn_dim": 4096,
        "evaluation.window": 896,
        "evaluation.stride": 596,
        "evaluation.shortest_edge": 896,
        "evaluation.join": "logits",
        "evaluation.tta.scales": [0.9, 0.95, 1.0, 1.05, 1.1],
        "evaluation.tta.flip": True,
        "evaluation.tta.from_file": True,
        "evaluation.tta.multiple": 32,
        "data.crop_size": 896,
        "data.base_size": 896,
    },
    "eomt_dinov3": {
        "model.backbone": VITL,
        "model.head": "eomt",
        "model.tune": "full",
        "model.backbone_learning_rate_multiplier": 1.0,
        "model.backbone_warmup_steps": 3000,
        "model.num_queries": 100,
        "training.learning_rate": 2e-4,
        "training.weight_decay": 0.05,
        "training.weight_decay_on": "all",
        "training.warmup_steps": 2000,
        "training.max_steps": 16 * (20210 // 16),
        "training.per_device_train_batch_size": 16,
        "training.lr_scheduler_type": "polynomial",
        "training.lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.0},
        "data.crop_size": 512,
        "data.base_size": 512,
        "data.base_side": "longer",
        "data.scale": (0.5, 2.0),
        "data.flip": True,
        "data.photometric": True,
        "evaluation.shortest_edge": 512,
        "evaluation.even_windows": True,
    },
    "pmt_dinov3": {
        "model.backbone": VITL,
        "model.head": "pmt",
        "model.tune": "head",
        "model.num_queries": 100,
        "model.decoder_blocks": 6,
        "training.learning_rate": 2e-4,
        "training.weight_decay": 0.05,
        "training.warmup_steps": 6000,
        "training.max_steps": 16 * (20210 // 16),
        "training.per_device_train_batch_size": 16,
        "training.lr_scheduler_type": "cosine_with_min_lr",
        "training.lr_scheduler_kwargs": {"min_lr": 1e-9},
        "evaluation.shortest_edge": 512,
    },
    "mask2former": {
        "model.head": "mask2former",
        "model.tune": "full",
        "model.backbone_learning_rate_multiplier": 0.1,
        "model.hidden_dim": 256,
        "model.decoder_layers": 9,
        "training.learning_rate": 1e-4,
        "training.weight_decay": 0.05,
        "training.weight_decay_on": "all_but_norms",
        "training.max_steps": 160000,
        "training.per_device_train_batch_size": 16,
        "training.warmup_steps": 0,
        "training.max_grad_norm": 0.01,
        "data.scale_steps": len(range(5, 21)),
        "data.base_side": "shorter",
        "data.max_class_share": 1.0,
        "evaluation.shortest_edge": 512,
    },
}
#: In steps, as published.
ANNEALING = {
    "eomt_dinov3": [(0, 3000), (6520, 9780), (9780, 13040), (13040, 16300)],
    "pmt_dinov3": [(0, 3000), (5384, 8749), (7403, 10769), (9422, 12788), (11442, 14807), (13461, 16826)],
}


def resolved(name: str, **sections: Any) -> Recipe:
    data = {key: {**REST.get(key, {}), **sections.get(key, {})} for key in {*REST, *sections}}
    return Recipe.from_dict({"protocol": name, **data})


def value(recipe: Recipe, field: str) -> Any:
    at: Any = recipe
    for key in field.split("."):
        at = at[key] if isinstance(at, dict) else getattr(at, key)
    return at


@pytest.mark.parametrize("name", TABLE)
def test_a_protocol_is_what_its_source_says(name: str) -> None:
    recipe = resolved(name)
    assert {field: value(recipe, field) for field in TABLE[name]} == TABLE[name]
    assert deviations(recipe) == []
    assert Recipe.from_dict(recipe.to_dict()) == recipe and recipe.to_dict()["protocol"] == name


def test_the_table_holds_every_protocol() -> None:
    assert set(TABLE) == set(protocols())


@pytest.mark.parametrize("name", ANNEALING)
def test_masks_are_let_go_at_the_published_steps(name: str) -> None:
    steps = 16 * (20210 // 16)
    spans = value(resolved(name), "model.mask_annealing")
    assert [(round(start * steps, 6), round(end * steps, 6)) for start, end in spans] == ANNEALING[name]
    assert value(resolved(name, training={"max_steps": 500}), "model.mask_annealing") == spans  # shares


def test_what_a_recipe_says_wins_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "protocol: dinov3_linear\nlabels: {classes: {0: a, 1: b}}\ndata: {source: folder, root: r, hue: 0.1}\n"
        "training: {output_dir: o, bf16: true, per_device_train_batch_size: 4}\n"
    )
    recipe = load_recipe(path, ["evaluation.join=scores"])
    told = {d.field: (d.published, d.here) for d in deviations(recipe)}
    assert told == {
        "data.hue": (0.5, 0.1),
        "training.bf16": (False, True),
        "evaluation.join": ("logits", "scores"),
        "images a step": (16, 4),
    }
    printed = CliRunner().invoke(app, ["train", str(path), "--print"]).stdout
    assert "#   data.hue: 0.1 (published: 0.5)\n" in printed and "evaluation.join: " not in printed
    again = tmp_path / "printed.yaml"
    again.write_text(printed)
    assert load_recipe(again) == load_recipe(path)  # what is printed is a recipe, comments and all
    card = model_card(recipe.labels.to_dict(), {}, recipe.to_dict())
    assert "| `data.hue` | 0.5 | 0.1 |" in card and "Protocol `dinov3_linear`" in card


def test_what_decides_no_figure_is_no_deviation() -> None:
    spread = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "eval_steps": 100, "seed": 7}
    recipe = resolved("dinov3_linear", training={"output_dir": "o", **spread}, evaluation={"max_samples": 5})
    assert deviations(recipe) == []
    card = model_card(recipe.labels.to_dict(), {}, recipe.to_dict())
    assert "follows it in every field" in card


def test_a_published_figure_on_a_card_carries_where_it_comes_from() -> None:
    recipe = resolved("eomt_dinov3")
    card = model_card(recipe.labels.to_dict(), {}, recipe.to_dict())
    line = next(line for line in card.splitlines() if "59.5" in line)
    assert all(told in line for told in ("model_zoo/dinov3.md", "4 blocks", "20208 steps", "views averaged: 1"))
    other = resolved("eomt_dinov3", model={"backbone": "facebook/dinov3-vits16-pretrain-lvd1689m"})
    assert "59.5" not in model_card(other.labels.to_dict(), {}, other.to_dict())  # another backbone's figure


def test_steps_keep_their_share_of_another_schedule() -> None:
    shorter = resolved("eomt_dinov3", training={"output_dir": "o", "max_steps": 2021})
    assert (shorter.training["warmup_steps"], shorter.model.backbone_warmup_steps) == (200, 300)
    assert [d.field for d in deviations(shorter)] == ["training.max_steps"]
    epochs = resolved("eomt_dinov3", training={"output_dir": "o", "num_train_epochs": 16})
    assert "max_steps" not in epochs.training
    for share, steps in ((epochs.training["warmup_steps"], 2000), (epochs.model.backbone_warmup_steps, 3000)):
        assert share == pytest.approx(steps / 20208, abs=1e-6)
    own = resolved("eomt_dinov3", training={"output_dir": "o", "max_steps": 2021, "warmup_steps": 77})
    assert own.training["warmup_steps"] == 77
    assert "training.warmup_steps" in {d.field for d in deviations(own)}


@pytest.mark.parametrize(("steps", "total"), [(2000, 20208), (3000, 20208), (1500, 40000), (1, 3), (6000, 20208)])
def test_a_share_gives_its_steps_back_when_it_is_rounded_up(steps: int, total: int) -> None:
    import math

    assert math.ceil(share_of(steps, total) * total) == steps


def test_another_schedule_drops_the_arguments_of_the_protocols() -> None:
    recipe = resolved("pmt_dinov3", training={"output_dir": "o", "lr_scheduler_type": "cosine"})
    assert not recipe.training.get("lr_scheduler_kwargs")
    half = resolved("pmt_dinov3", training={"output_dir": "o", "bf16": True})
    assert half.training["bf16"] and not half.training.get("fp16")


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="protocol: .*Did you mean `eomt_dinov3`"):
        resolved("eomt_dinov")
    with pytest.raises(RecipeError, match="unknown section"):
        Recipe.from_dict({**REST, "protocols": "eomt_dinov3"})


def test_views_of_the_file_need_a_size_to_count_from() -> None:
    with pytest.raises(RecipeError, match=r"tta\.from_file.*there is none"):
        Recipe.from_dict({**REST, "evaluation": {"tta": {"from_file": True}}})
    with pytest.raises(RecipeError, match="multiple 32"):
        Recipe.from_dict({**REST, "evaluation": {"tta": {"multiple": 32}}})
