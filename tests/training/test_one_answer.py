"""Training, `dinoseg evaluate` and `Segmenter` give the same counts, mixed precision or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_dinoseg.builders
from hf_dinoseg import LabelSpace, Segmenter, load_recipe
from hf_dinoseg.builders import build_data
from hf_dinoseg.images import read_image, read_mask
from hf_dinoseg.run import evaluate, train
from hf_dinoseg.training import DinoSegTrainer


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The confusion matrix of every evaluation that is done, in order."""
    matrices: list[torch.Tensor] = []

    class Noting(DinoSegTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with_autocast = "forward" in vars(self.model)
            assert with_autocast and self.accelerator.mixed_precision == "bf16"
            return super().training_step(*args, **kwargs)

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            metrics = super().evaluate(*args, **kwargs)
            assert self.streamed.matrix is not None
            matrices.append(self.streamed.matrix)
            return metrics

    monkeypatch.setattr(hf_dinoseg.builders, "DinoSegTrainer", Noting)
    return matrices


def _rows(folder: Path) -> Iterator[tuple[Any, np.ndarray]]:
    for row in build_data(load_recipe(folder / "recipe.yaml"))["validation"]:
        yield read_image(row["image"]), read_mask(row["mask"], "index")


def _by_segmenter(folder: Path, space: LabelSpace, **settings: Any) -> torch.Tensor:
    segmenter = Segmenter.from_pretrained(folder, device="cpu", **settings)
    matrix = np.zeros((space.num_labels, space.num_labels + 1), dtype=np.int64)
    for image, mask in _rows(folder):
        np.add.at(matrix, (mask.ravel(), segmenter(image).label_map.ravel()), 1)  # the ids are 0 to 3, nothing is void
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_a_run_in_bf16_has_one_answer(
    autocast: str | None, tmp_path: Path, write_tiny_recipe: Callable[[Path], Path], counted: list[torch.Tensor]
) -> None:
    overrides = ["training.bf16=true", "training.eval_steps=4", "training.save_steps=4", "evaluation.panels=0"]
    recipe = load_recipe(write_tiny_recipe(tmp_path), [*overrides, f"evaluation.autocast={autocast or 'null'}"])
    train(recipe)
    evaluate(str(tmp_path / "run"))
    counted.append(_by_segmenter(tmp_path / "run", recipe.labels))
    assert len(counted) == 4 and counted[0].sum() == 3 * 96 * 96  # after step 4, in the end, evaluate, Segmenter
    assert all(torch.equal(matrix, counted[0]) for matrix in counted)
    # it matters: in the other precision some pixels are answered otherwise
    other = f"evaluation.autocast={'null' if autocast else 'bfloat16'}"
    evaluate(str(tmp_path / "run"), load_recipe(tmp_path / "run" / "recipe.yaml", [other]))
    assert not torch.equal(counted[-1], counted[0])
