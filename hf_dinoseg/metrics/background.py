"""How well id 0 is told from the classes, when it is none of them: with a threshold on the score, and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..labels import LabelSpace
from .confusion import confusion_matrix

_PER_UNIT = 1000  # thresholds are told apart to a thousandth
_BINS = 8 * _PER_UNIT  # scores of mask heads are sums over queries, and may exceed 1


def background_matrices(
    without: torch.Tensor, answer: torch.Tensor, truth: torch.Tensor, zero: torch.Tensor, label_space: LabelSpace
) -> torch.Tensor:
    """Count predictions with id 0 as one more class.

    Args:
        without: (H, W) train ids, the best class everywhere.
        answer: (H, W) train ids, `ignore_index` where the background policy gives no class.
        truth: (H, W) train ids, `ignore_index` for void, id 0 among it.
        zero: (H, W) bool, where the mask on disk says 0.

    Returns:
        (2, C + 1, C + 1) int64: `without`, then `answer`. Rows are truth, columns predictions, the last row id 0, the
        last column no class. The first C rows are what `confusion_matrix` gives.
    """
    classes, void = label_space.num_labels, label_space.ignore_index
    matrices = []
    for labels in (without, answer):
        under_zero = labels[zero].to(torch.int64)
        row = torch.bincount(under_zero.masked_fill(under_zero == void, classes), minlength=classes + 1)
        matrices.append(torch.cat((confusion_matrix(labels, truth, classes, void), row[None])))
    return torch.stack(matrices)


def background_figures(matrices: torch.Tensor | np.ndarray) -> dict[str, Any]:
    """Figures of `background_matrices`, or of a sum of such.

    Returns:
        `id0_iou`: pixels without a class against pixels whose mask says 0. `mean_iou`: over the classes, pixels of id
        0 not counted, as everywhere. `mean_iou_id0_as_class`: over classes and id 0, all pixels counted: what one
        sees. `without`: the same three for the best class everywhere. NaN where there is nothing to divide by.
    """
    without, answer = (_figures(matrix) for matrix in np.asarray(torch.as_tensor(matrices).cpu(), dtype=np.float64))
    return {**answer, "without": without}


def _figures(matrix: np.ndarray) -> dict[str, float]:
    labelled = matrix[:-1]
    return {
        "id0_iou": float(_iou(matrix)[-1]),
        "mean_iou": _mean(_iou(np.vstack((labelled, np.zeros_like(matrix[-1:]))))[:-1]),
        "mean_iou_id0_as_class": _mean(_iou(matrix)),
    }


def _iou(matrix: np.ndarray) -> np.ndarray:
    hits = matrix.diagonal()
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def _mean(values: np.ndarray) -> float:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else float("nan")


class ThresholdCurve:
    """IoU of id 0 against the classes, for every threshold on the best class's score. Pictures are added one at a time.

    Scores are told apart to a thousandth; those of 8 and more count as the highest.

    Attributes:
        of_zero, of_classes: (8000,) int64, pixels of id 0, and of the classes, by score.
    """

    def __init__(self) -> None:
        self.of_zero = torch.zeros(_BINS, dtype=torch.int64)
        self.of_classes = torch.zeros(_BINS, dtype=torch.int64)

    def update(self, scores: torch.Tensor, truth: torch.Tensor, zero: torch.Tensor, ignore_index: int) -> None:
        """Add a picture: scores, truth (train ids) and where the mask says 0, all (H, W). Other void is left out."""
        bins = (scores * _PER_UNIT).floor().clamp(0, _BINS - 1).to(torch.int64)
        self.of_zero += torch.bincount(bins[zero], minlength=_BINS).cpu()
        self.of_classes += torch.bincount(bins[(truth != ignore_index) & ~zero], minlength=_BINS).cpu()

    @property
    def thresholds(self) -> np.ndarray:
        """(8000,) float64: 0, 0.001, … 7.999. At 0 every pixel has a class."""
        return np.arange(_BINS) / _PER_UNIT

    @property
    def id0_iou(self) -> np.ndarray:
        """(8000,) IoU of "score below the threshold" with id 0; NaN everywhere if no pixel is of id 0."""
        total = int(self.of_zero.sum())
        found, wrong = self._below()
        return found / (total + wrong) if total else np.full(_BINS, np.nan)

    @property
    def silence_iou(self) -> float:
        """The same IoU for no class at any pixel: what a threshold has to exceed to be worth something."""
        zero, classes = int(self.of_zero.sum()), int(self.of_classes.sum())
        return zero / (zero + classes) if zero else float("nan")

    def best(self) -> tuple[float, float]:
        """The threshold with the highest IoU, the middle one of equals, and that IoU.

        Only thresholds that leave at least half of the classes' pixels with a class are looked at. Otherwise, where
        most pixels are of id 0 and scores tell nothing, the best would be to say nothing at all.

        Raises:
            ValueError: if no pixel of id 0 was seen, or none of a class.
        """
        if not self.of_zero.sum() or not self.of_classes.sum():
            missing = "0" if not self.of_zero.sum() else "a class"
            raise ValueError(
                f"the validation masks hold no pixel of {missing}, so no threshold can be told to be better than "
                "another. Calibrate on pictures whose masks show both."
            )
        iou = np.where(2 * self._below()[1] <= int(self.of_classes.sum()), self.id0_iou, -1.0)
        equal = np.flatnonzero(iou == iou.max())
        place = int(equal[len(equal) // 2])
        return float(self.thresholds[place]), float(iou[place])

    def _below(self) -> tuple[np.ndarray, np.ndarray]:
        """(8000,) pixels of id 0, and of the classes, whose score is below each threshold."""
        first, second = (np.concatenate(([0], np.cumsum(h.numpy())[:-1])) for h in (self.of_zero, self.of_classes))
        return first, second
