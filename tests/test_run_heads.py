"""The heads that no other end-to-end test trains: four steps each, from recipe to a checkpoint that predicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg import Segmenter, load_recipe
from hf_dinoseg.builders import build_data
from hf_dinoseg.images import read_image, read_mask
from hf_dinoseg.models.query_tokens import masking_probabilities
from hf_dinoseg.run import train

WriteRecipe = Callable[[Path], Path]


def run(path: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    return train(load_recipe(path, overrides), resume=resume)


def mean_iou_by_hand(folder: Path) -> float:
    """What `Segmenter` says of the validation images against their masks, in original ids."""
    segmenter = Segmenter.from_pretrained(folder)
    inter, union = np.zeros(4), np.zeros(4)
    for row in build_data(load_recipe(folder / "recipe.yaml"))["validation"]:
        predicted, mask = segmenter(read_image(row["image"])).label_map, read_mask(row["mask"], "index")
        for c in range(4):
            inter[c] += np.sum((predicted == c) & (mask == c))
            union[c] += np.sum((predicted == c) | (mask == c))
    return float(np.mean(inter[union > 0] / union[union > 0]))


@pytest.mark.parametrize("head", ["eomt", "linear", "pmt"])
def test_a_head_trains_and_its_checkpoint_predicts_what_was_measured(
    head: str, tmp_path: Path, write_tiny_recipe: WriteRecipe
) -> None:
    recipe = write_tiny_recipe(tmp_path)
    # so many steps that it does not hang on single crops whether the loss has fallen
    steps = ("training.max_steps=24", "training.eval_steps=12", "training.save_steps=12")
    metrics = run(recipe, f"model.head={head}", "training.learning_rate=1e-3", *steps)
    folder = tmp_path / "run"
    history = json.loads((folder / "checkpoint-24" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 24 and np.isfinite(losses).all() and np.mean(losses[-6:]) < np.mean(losses[:6])
    assert metrics["mean_iou"] == pytest.approx(mean_iou_by_hand(folder), abs=1e-9)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 50, 3), dtype=np.uint8))
    label_map = Segmenter.from_pretrained(folder)(image).label_map
    assert label_map.shape == (70, 50) and set(np.unique(label_map)) <= {0, 1, 2, 3}


def test_masking_is_annealed_saved_with_each_checkpoint_and_taken_up_again(
    tmp_path: Path, write_tiny_recipe: WriteRecipe
) -> None:
    """Resumed between two checkpoints, the run draws the same masks and ends with the same weights."""
    recipe = write_tiny_recipe(tmp_path)
    overrides = ("model.head=eomt", "training.load_best_model_at_end=false", "training.save_total_limit=null")
    whole, again = tmp_path / "whole", tmp_path / "again"
    run(recipe, f"training.output_dir={whole}", *overrides)

    def probabilities(folder: Path) -> list[float]:
        stored: list[float] = json.loads((folder / "config.json").read_text())["attn_mask_probs"]
        return stored

    for step in (2, 4):
        assert probabilities(whole / f"checkpoint-{step}") == masking_probabilities(step / 4, 4)
    assert 0 < masking_probabilities(3 / 4, 4)[3] < 1  # the last step draws random numbers
    assert probabilities(whole) == [0.0] * 4

    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoint-4")
    for file in ("model.safetensors", "metrics.json"):
        (again / file).unlink()
    run(recipe, f"training.output_dir={again}", *overrides, resume=True)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_head_that_needs_its_backbone_to_learn_is_told_where_that_rests(
    tmp_path: Path, write_tiny_recipe: WriteRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    run(write_tiny_recipe(tmp_path), "model.head=eomt", "model.tune=head", "training.max_steps=1")
    assert "head eomt works inside the backbone's blocks" in caplog.text
    caplog.clear()
    run(tmp_path / "tiny.yaml", "model.tune=head", "training.max_steps=1", f"training.output_dir={tmp_path / 'other'}")
    assert "works inside" not in caplog.text
