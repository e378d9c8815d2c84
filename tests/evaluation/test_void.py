"""Void truth is measured nowhere, so every place that shows figures says how much of it there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction
from typer.testing import CliRunner

from hf_dinoseg import LabelSpace, load_recipe
from hf_dinoseg.builders import build_source
from hf_dinoseg.cli import app
from hf_dinoseg.evaluation import confusion_matrix, per_class_table
from hf_dinoseg.evaluation.streamed import StreamedMetrics, extra_counts
from hf_dinoseg.figures import void_text
from hf_dinoseg.images import read_mask

SPACE = LabelSpace({0: "background", 1: "vein"}, ignore=(255,))
VOID = SPACE.ignore_index


def step(truths: list[list[list[int]]], indices: list[int], boundary: bool) -> EvalPrediction:
    maps = [torch.tensor(truth) for truth in truths]
    matrices = [confusion_matrix(torch.zeros_like(truth), truth, 2, VOID) for truth in maps]
    extras = [extra_counts(torch.zeros_like(t), torch.ones(t.shape), t, SPACE, boundary) for t in maps]
    return EvalPrediction((torch.stack(matrices), torch.stack(extras)), np.array(indices))


@pytest.mark.parametrize("boundary", [True, False])
def test_void_pixels_of_each_image_count_once(boundary: bool) -> None:
    metrics = StreamedMetrics(SPACE, 2.0)
    first, second = [[VOID, VOID, 0, 1]], [[VOID, 0, 0, 0], [1, 1, 1, 1]]
    metrics(step([first, first], [0, 0], boundary), False)  # a copy, as fills the last batch of several processes
    unread = [[VOID]]
    metrics(step([unread], [-4], boundary), False)
    figures = metrics(step([second], [1], boundary), True)
    assert (figures["void_pixels"], figures["void_share"]) == (3, 3 / 12)
    assert ("mean_boundary_iou" in figures) is boundary
    again = metrics(step([second], [1], boundary), True)
    assert (again["void_pixels"], again["void_share"]) == (1, 1 / 8)


def test_nothing_but_void() -> None:
    figures = StreamedMetrics(SPACE, 2.0)(step([[[VOID, VOID]]], [0], True), True)
    assert (figures["void_pixels"], figures["void_share"]) == (2, 1.0)


def test_a_third_is_where_words_become_a_warning() -> None:
    assert void_text({}) == void_text({"void_share": 0.0}) == void_text({"void_share": None}) == ""
    little, much = (void_text({"void_share": share}) for share in (0.33, 0.34))
    assert little.startswith("33.0 %") and much.startswith("34.0 %")
    assert "third" in much and "third" not in little
    assert void_text({"void_share": 1e-6}).startswith("Less than 0.1 %")
    table = per_class_table(torch.tensor([[3, 1, 0], [0, 4, 0]]), SPACE, 0.5)
    assert table.splitlines()[-1] == void_text({"void_share": 0.5})
    assert per_class_table(torch.tensor([[3, 1, 0], [0, 4, 0]]), SPACE, 0.0).splitlines()[-1].startswith("overall")


def test_an_evaluation_says_how_much_is_void_wherever_it_shows_figures(
    tmp_path: Path, write_tiny_recipe: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from hf_dinoseg.run import train

    path = write_tiny_recipe(tmp_path)
    labels = "labels: {classes: {1: artery, 2: vein, 3: disc}, ignore: [0, 255]}"
    path.write_text("\n".join([labels, *path.read_text().split("\n")[2:]]))
    recipe = load_recipe(path, ["training.max_steps=1", "training.save_steps=1", "training.eval_steps=1"])
    with caplog.at_level("INFO", "hf_dinoseg"):
        train(recipe)
    masks = [np.asarray(read_mask(row["mask"], "index")) for row in build_source(recipe)["validation"]]
    void = sum(int((mask == 0).sum() + (mask == 255).sum()) for mask in masks)
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert stored["void_pixels"] == void
    assert stored["void_share"] == pytest.approx(void / sum(mask.size for mask in masks)) and stored["void_share"] > 0.5
    words = void_text(stored)
    assert "third" in words and words in caplog.text
    assert words in (tmp_path / "run" / "README.md").read_text()
    assert words in (tmp_path / "run" / "report.html").read_text()
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run")])
    assert done.exit_code == 0 and words in done.stdout
