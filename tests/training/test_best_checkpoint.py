"""Which step is kept, and when a run ends, by the figure that the recipe names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from hf_dinoseg import load_recipe
from hf_dinoseg.cli import app
from hf_dinoseg.evaluation import streamed as evaluation
from hf_dinoseg.run import train

Write = Callable[[Path], Path]
EVERY_STEP = [
    "training.eval_steps=1",
    "training.save_steps=1",
    "training.save_total_limit=null",
    "evaluation.panels=0",
    "evaluation.boundary_iou=false",
    "data.num_validation=1",
]


def history(folder: Path) -> list[dict]:
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


def test_the_step_where_the_class_is_best_is_kept(tmp_path: Path, write_tiny_recipe: Write) -> None:
    recipe = load_recipe(
        write_tiny_recipe(tmp_path),
        [*EVERY_STEP, "training.max_steps=8", "training.learning_rate=0.02", "training.metric_for_best_model=iou_vein"],
    )
    metrics = train(recipe)
    logged = {entry["step"]: entry["eval_iou_vein"] for entry in history(tmp_path / "run") if "eval_iou_vein" in entry}
    assert len(logged) == 8 and len(set(logged.values())) > 2
    best = max(logged, key=lambda step: logged[step])
    assert best != 8, logged  # or it would show nothing
    assert metrics["step"] == best and metrics["per_category_iou"]["2 vein"] == logged[best]
    kept, then = (load_file(tmp_path / "run" / name / "model.safetensors") for name in (".", f"checkpoint-{best}"))
    assert kept.keys() == then.keys() and all(torch.equal(kept[key], then[key]) for key in kept)


def test_early_stopping_follows_a_class(tmp_path: Path, write_tiny_recipe: Write) -> None:
    # no evaluation betters the first by so much
    stop = ["training.early_stopping_patience=2", "training.early_stopping_threshold=2"]
    chosen = "training.metric_for_best_model=dice_1"
    metrics = train(load_recipe(write_tiny_recipe(tmp_path), [*EVERY_STEP, *stop, chosen, "training.max_steps=9"]))
    assert metrics["stopped_at"] == 3


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """The figure that evaluations in training give, one after another; then always the last."""
    left = list(values)
    monkeypatch.setattr(evaluation, "figure_of", lambda *_: left.pop(0) if len(left) > 1 else left[0])


@pytest.mark.parametrize(
    ("values", "patience", "step", "stopped_at"),
    [
        # no value is never better, and does not count as an evaluation that bettered nothing
        ([math.nan, 0.2, 0.5, math.nan, 0.4, 0.3, 0.9], 2, 3, 6),
        ([math.nan, math.nan, math.nan, 0.1, 0.2, math.nan], 1, 5, None),
        ([math.nan] * 7, 1, 7, None),  # none at all: the last weights are kept
    ],
)
def test_an_evaluation_without_a_value_is_never_best_and_ends_no_run(
    values: list[float],
    patience: int,
    step: int,
    stopped_at: int | None,
    tmp_path: Path,
    write_tiny_recipe: Write,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripted(monkeypatch, values)
    chosen = ["training.metric_for_best_model=iou_vein", f"training.early_stopping_patience={patience}"]
    recipe = load_recipe(write_tiny_recipe(tmp_path), [*EVERY_STEP, *chosen, "training.max_steps=7"])
    metrics = train(recipe)
    assert (metrics["step"], metrics.get("stopped_at")) == (step, stopped_at)
    assert "iou_vein has no value" in caplog.text


def test_less_calibration_error_is_better(
    tmp_path: Path, write_tiny_recipe: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.5, 0.2, 0.4, 0.3])
    chosen = "training.metric_for_best_model=expected_calibration_error"
    assert train(load_recipe(write_tiny_recipe(tmp_path), [*EVERY_STEP, chosen]))["step"] == 2


def test_outlines_are_measured_where_they_choose(tmp_path: Path, write_tiny_recipe: Write) -> None:
    chosen = ["training.metric_for_best_model=boundary_iou_disc", "training.max_steps=1"]
    train(load_recipe(write_tiny_recipe(tmp_path), [*EVERY_STEP, *chosen]))  # which has boundary_iou: false
    assert any("eval_boundary_iou_disc" in entry for entry in history(tmp_path / "run"))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_wrong_name_is_told_before_anything_is_loaded(
    dry: list[str], tmp_path: Path, write_tiny_recipe: Write
) -> None:
    path = write_tiny_recipe(tmp_path)
    result = CliRunner().invoke(
        app, ["train", str(path), "training.metric_for_best_model=miou", "model.backbone=/nowhere", *dry]
    )
    assert result.exit_code == 2
    assert "training.metric_for_best_model" in result.stderr and "Did you mean mean_iou?" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
