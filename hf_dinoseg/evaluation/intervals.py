"""How sure a figure is: bootstrap intervals of IoU over images (Efron & Tibshirani, 1993).

The validation set is one draw of images among those that could have been taken. It is drawn again from itself, with
replacement, many times; the middle 95 % of the figures so obtained are the interval. Images are drawn whole, because
the pixels of an image are no independent observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..figures import iou, mean_of_known, ratio
from ..labels import LabelSpace
from .summary import category_keys

LEVEL = 0.95
RESAMPLES = 1000
_VALUES_AT_ONCE = 1 << 24  # of the table of draws; 2^24 float64 are 128 MiB


def image_counts(matrix: torch.Tensor) -> torch.Tensor:
    """What an IoU needs of confusion matrices: (..., C, C + 1) to (..., 3, C) pixels right, true and predicted."""
    classes = matrix.shape[-2]
    right = matrix[..., :classes].diagonal(dim1=-2, dim2=-1)
    return torch.stack((right, matrix.sum(-1), matrix[..., :classes].sum(-2)), dim=-2)


def image_scores(counts: np.ndarray, indices: Sequence[int]) -> list[dict[str, float]]:
    """Images by how well they were predicted, worst first.

    Args:
        counts: (N, 3, C) `image_counts` of N images.
        indices: their places in the dataset.

    Returns:
        `index`, `mean_iou` (over the classes in this image's truth or prediction) and `overall_accuracy` of each.
        Images of one mean IoU stand in the dataset's order, those without a labelled pixel (NaN) last.
    """
    means = mean_of_known(iou(*np.moveaxis(counts, -2, 0)), axis=1)
    accuracies = ratio(counts[:, 0].sum(axis=1), counts[:, 1].sum(axis=1))
    rows = [
        {
            "index": index,
            "mean_iou": float(means[i]),
            "overall_accuracy": float(accuracies[i]),
        }
        for i, index in enumerate(indices)
    ]
    return sorted(rows, key=lambda row: (np.isnan(row["mean_iou"]), row["mean_iou"], row["index"]))


def iou_intervals(
    counts: np.ndarray, label_space: LabelSpace, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Intervals of mean IoU and of each class's IoU.

    A class that is in no image of a draw is left out of that draw's mean, as it is left out of the figure itself;
    the class's own interval is over the draws that hold it.

    Args:
        counts: (N, 3, C) `image_counts` of N images. Their order matters to the draws, so keep it fixed.
        resamples: how often to draw.
        seed: the same seed and counts give the same intervals, bit by bit.

    Returns:
        `mean_iou_interval`: [low, high]; `per_category_iou_interval`: `{"<original id> <name>": [low, high]}`;
        `interval`: `{"level", "resamples"}`. Both ends are NaN for a class that is in fewer than two images, and
        everywhere when there are fewer than two: one says nothing about how images differ.
    """
    images, _, classes = counts.shape
    means, ious = np.empty((0,)), np.empty((0, classes))
    if images > 1:
        rng = np.random.default_rng(seed)
        flat = counts.reshape(images, -1).astype(np.float64)  # whole numbers below 2^53: sums are exact in any order
        parts = []
        at_once = max(1, _VALUES_AT_ONCE // images)
        for start in range(0, resamples, at_once):
            rows = min(at_once, resamples - start)
            drawn = rng.integers(images, size=(rows, images)) + np.arange(rows)[:, None] * images
            weights = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
            right, truth, predicted = (weights.astype(np.float64) @ flat).reshape(rows, 3, classes).transpose(1, 0, 2)
            parts.append(iou(right, truth, predicted))
        ious = np.concatenate(parts)
        means = mean_of_known(ious, axis=1)
    keys = category_keys(label_space)
    often = (counts[:, 1:].sum(axis=1) > 0).sum(axis=0) > 1  # classes that are true or predicted in two images
    ious = np.where(often, ious, np.nan)
    return {
        "mean_iou_interval": _middle(means),
        "per_category_iou_interval": {key: _middle(ious[:, c]) for c, key in enumerate(keys)},
        "interval": {"level": LEVEL, "resamples": resamples},
    }


def _middle(values: np.ndarray) -> list[float]:
    values = values[~np.isnan(values)]
    if not values.size:
        return [float("nan"), float("nan")]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]
