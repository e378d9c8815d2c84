"""Streamed evaluation: counts of each image are kept, no prediction is."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from ..labels import LabelSpace
from . import (
    BINS,
    background_figures,
    boundary_counts,
    calibration_counts,
    image_counts,
    image_scores,
    iou_intervals,
    summarize,
    summarize_boundary,
    summarize_calibration,
)
from .summary import figure_of, summarize_void

logger = logging.getLogger(__name__)

_FEWEST_KEPT = 256  # images that there is room for from the start


def extra_counts(
    prediction: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor, label_space: LabelSpace, boundary: bool
) -> torch.Tensor:
    """All that is counted of one image besides its confusion matrix, in one vector that travels between processes.

    Args:
        prediction, truth: (H, W) train ids.
        scores: (H, W) float, the predicted class's score.
        boundary: whether outlines are measured too.

    Returns:
        int64 on the scores' device: void pixels of the truth (1), `calibration_counts` (45) and, if asked for,
        `boundary_counts` (3 C).
    """
    void = (truth == label_space.ignore_index).sum()
    parts = [void, calibration_counts(prediction, scores, truth, label_space.ignore_index)]
    if boundary:
        parts.append(boundary_counts(prediction, truth, label_space.num_labels, label_space.ignore_index))
    return torch.cat([part.flatten().to(scores.device) for part in parts])


class StreamedMetrics:
    """`compute_metrics` for a Trainer with `batch_eval_metrics`: adds each step's counts and gives the result at the
    last step.

    Each image is counted once by its index, so copies that fill the last batch of a distributed loader do not count.
    A negative index says that the image could not be read: it is counted apart and not measured.
    All counts are whole numbers and images are sorted before they are drawn from, so the figures are the same, bit
    by bit, for any number of processes.

    Args:
        label_space: names the classes.
        beta: of F-beta.
        chosen_by: the figure that the best checkpoint is chosen by, as `summary.find_figure` takes it.

    Attributes:
        num_skipped: images of the set that were left out before; set by whoever starts an evaluation.
        matrix: the int64 confusion matrix of the last finished evaluation.
        summary: all figures of it, keyed by original id and name where there is one a class.
        images: its images: `{"index", "mean_iou", "overall_accuracy"}`, worst first.
    """

    def __init__(self, label_space: LabelSpace, beta: float, chosen_by: str | None = None) -> None:
        self.label_space = label_space
        self.beta = beta
        self.chosen_by = chosen_by
        self.matrix: torch.Tensor | None = None
        self.summary: dict[str, Any] = {}
        self.images: list[dict[str, float]] = []
        self.num_skipped = 0
        self._running: torch.Tensor | None = None
        self._extra: torch.Tensor | int = 0
        self._seen: dict[int, int] = {}  # by index, its place in the counts
        self._counts = self._no_counts()
        self._unread: set[int] = set()

    def __call__(self, step: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """
        Args:
            step: `predictions` the int64 matrices and `image_counts` of single images, as
                `DinoSegTrainer.prediction_step` gives them, `label_ids` (B,) the images' indices.
            compute_result: whether this is the last step.

        Returns:
            The figures that are single numbers (`mean_iou`, `overall_accuracy`, …), and, if the best checkpoint is
            chosen by a class's figure, that figure under its own name. Empty before the last step.
        """
        matrices, extras = (torch.as_tensor(part).cpu() for part in step.predictions)
        for matrix, extra, index in zip(matrices, extras, torch.as_tensor(step.label_ids).tolist(), strict=True):
            if index < 0:
                self._unread.add(index)
            elif index not in self._seen:
                self._keep(index, image_counts(_confusion(matrix)).numpy())
                self._running = matrix.clone() if self._running is None else self._running + matrix
                self._extra = self._extra + extra
        if not compute_result or self._running is None:
            return {}
        self._finish(self._running, torch.as_tensor(self._extra))
        self._running, self._extra, self._seen, self._unread = None, 0, {}, set()
        self._counts = self._no_counts()
        figures = {key: value for key, value in self.summary.items() if isinstance(value, (int, float))}
        if self.chosen_by is not None:
            name = self.chosen_by.removeprefix("eval_")
            figures[name] = figure_of(self.summary, name, self.label_space)
            if math.isnan(figures[name]):
                logger.warning(
                    "training.metric_for_best_model: %s has no value in this evaluation, so it cannot be the best: the "
                    "class is not there, or was not predicted.",
                    name,
                )
        return figures

    def _no_counts(self) -> np.ndarray:
        return np.empty((_FEWEST_KEPT, 3, self.label_space.num_labels), dtype=np.int64)

    def _keep(self, index: int, counts: np.ndarray) -> None:
        """Pixels right, true and predicted, (3, C), in one array for all images. One small array an image would
        fragment the memory between the large temporary ones, and the process would keep growing."""
        place = len(self._seen)
        if place == len(self._counts):
            self._counts = np.concatenate((self._counts, np.empty_like(self._counts)))
        self._counts[place] = counts
        self._seen[index] = place

    def _finish(self, counted: torch.Tensor, extra: torch.Tensor) -> None:
        order = sorted(self._seen)
        counts = self._counts[[self._seen[index] for index in order]]
        self.images = image_scores(counts, order)
        self.matrix = _confusion(counted)
        void, calibration, boundary = extra.split((1, 3 * BINS, len(extra) - 1 - 3 * BINS))
        calibration, boundary = calibration.view(3, -1), boundary.view(3, -1)
        self.summary = {
            **summarize(self.matrix, self.label_space, self.beta),
            **iou_intervals(counts, self.label_space),
            **(summarize_boundary(boundary, self.label_space) if boundary.numel() else {}),
            **summarize_calibration(calibration),
            **summarize_void(int(void), self.matrix),
            "num_images": len(order),
            "num_skipped": self.num_skipped + len(self._unread),
        }
        if counted.ndim == 3:
            self.summary["background"] = background_figures(counted)


def _confusion(counted: torch.Tensor) -> torch.Tensor:
    """(C, C + 1), of such a matrix or of `background_matrices`."""
    return counted if counted.ndim == 2 else counted[1, :-1]
