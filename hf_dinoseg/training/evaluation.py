"""Streamed evaluation: one confusion matrix grows, no prediction is kept."""

from __future__ import annotations

from typing import Any

import torch
from transformers import EvalPrediction

from ..labels import LabelSpace
from ..metrics import background_figures, summarize


class StreamedMetrics:
    """`compute_metrics` for a Trainer with `batch_eval_metrics`: adds each step's confusion matrices and gives the
    result at the last step.

    Each image is counted once by its index, so copies that fill the last batch of a distributed loader do not count.

    Attributes:
        matrix: the int64 confusion matrix of the last finished evaluation.
        summary: everything that `metrics.summarize` computes from it, keyed by original id and name.
    """

    def __init__(self, label_space: LabelSpace) -> None:
        self.label_space = label_space
        self.matrix: torch.Tensor | None = None
        self.summary: dict[str, Any] = {}
        self._running: torch.Tensor | None = None
        self._seen: set[int] = set()

    def __call__(self, step: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """
        Args:
            step: `predictions` (B, ...) int64 matrices of single images, as `DinoSegTrainer.prediction_step` gives
                them, `label_ids` (B,) their indices.
            compute_result: whether this is the last step.

        Returns:
            The figures that are single numbers (`mean_iou`, `overall_accuracy`, …); empty before the last step.
        """
        matrices, indices = torch.as_tensor(step.predictions).cpu(), torch.as_tensor(step.label_ids)
        for matrix, index in zip(matrices, indices.tolist(), strict=True):
            if index not in self._seen:
                self._seen.add(index)
                self._running = matrix.clone() if self._running is None else self._running + matrix
        if not compute_result or self._running is None:
            return {}
        counted, self._running = self._running, None
        self.matrix = counted if counted.ndim == 2 else counted[1, :-1]
        self.summary = {**summarize(self.matrix, self.label_space), "num_images": len(self._seen)}
        if counted.ndim == 3:
            self.summary["background"] = background_figures(counted)
        self._seen = set()
        return {key: value for key, value in self.summary.items() if isinstance(value, (int, float))}
