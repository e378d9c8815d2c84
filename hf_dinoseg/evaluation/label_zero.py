"""How well id 0 is told from the classes, when it is none of them: with a threshold on the score, and without."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from ..errors import InputError
from ..figures import iou, mean_of_known, ratio
from ..labels import LabelSpace
from .confusion import confusion_matrix

#: what a threshold may be judged by
Figure = Literal["mean_iou", "mean_iou_id0_as_class"]

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
        "id0_iou": float(_iou_of(matrix)[-1]),
        "mean_iou": mean_of_known(_iou_of(np.vstack((labelled, np.zeros_like(matrix[-1:]))))[:-1]),
        "mean_iou_id0_as_class": mean_of_known(_iou_of(matrix)),
    }


def _iou_of(matrix: np.ndarray) -> np.ndarray:
    return iou(matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0))


class ThresholdCurve:
    """The figures of `background_figures` for every threshold on the best class's score, in one pass over images.

    Thresholds are thousandths; scores of 8 and more count as the highest. The figures are those that an evaluation
    with the threshold gives, to the pixel.

    Args:
        num_labels: how many classes there are, C.

    Attributes:
        right, labelled, under_zero: (C, 8000) int64, pixels answered as each class, by score. `right` counts the pixels
            whose truth is that class, `labelled` those of any class, `under_zero` those of id 0.
        truth: (C,) int64, pixels of each class.
    """

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self.right, self.labelled, self.under_zero = (
            torch.zeros(num_labels, _BINS, dtype=torch.int64) for _ in range(3)
        )
        self.truth = torch.zeros(num_labels, dtype=torch.int64)
        self._thresholds = torch.from_numpy(self.thresholds).float()  # as a score is compared with one

    def update(
        self, labels: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor, zero: torch.Tensor, ignore_index: int
    ) -> None:
        """Add an image.

        Args:
            labels, scores: (H, W), each pixel's best class (train ids) and its score.
            truth: (H, W) train ids.
            zero: (H, W) bool, where the mask says 0. Other void is left out.
        """
        bins = torch.bucketize(scores.contiguous(), self._thresholds, right=True).sub_(1).clamp_(min=0)
        cells = labels.to(torch.int64) * _BINS + bins
        known = (truth != ignore_index) & ~zero
        for counts, which in (
            (self.right, known & (labels == truth)),
            (self.labelled, known),
            (self.under_zero, zero),
        ):
            counts += torch.bincount(cells[which], minlength=counts.numel()).view_as(counts)
        self.truth += torch.bincount(truth[known].to(torch.int64), minlength=self.num_labels)

    @property
    def thresholds(self) -> np.ndarray:
        """(8000,) float64: 0, 0.001, … 7.999. At 0 every pixel has a class."""
        return np.arange(_BINS) / _PER_UNIT

    @property
    def silence_iou(self) -> float:
        """IoU of id 0 for no class at any pixel: what a threshold has to exceed to be worth something."""
        zero, classes = int(self.under_zero.sum()), int(self.truth.sum())
        return zero / (zero + classes) if zero else float("nan")

    def figures(self) -> dict[str, np.ndarray]:
        """`id0_iou`, `mean_iou` and `mean_iou_id0_as_class`, each (8000,) by threshold."""
        right, labelled, under_zero = (_from_each_on(c) for c in (self.right, self.labelled, self.under_zero))
        truth, zero = self.truth.numpy()[:, None], int(self.under_zero.sum())
        found, missed = zero - under_zero.sum(axis=0), int(self.truth.sum()) - labelled.sum(axis=0)
        id0 = ratio(found, zero + missed)
        each = iou(right, truth, labelled)
        seen = iou(right, truth, labelled + under_zero)
        return {
            "id0_iou": id0,
            "mean_iou": mean_of_known(each, axis=0),
            "mean_iou_id0_as_class": mean_of_known(np.vstack((seen, id0)), axis=0),
        }

    def place(self, threshold: float | None) -> int:
        """Where in the figures a threshold stands, the nearest if it is no thousandth; None is 0."""
        return min(round((threshold or 0.0) * _PER_UNIT), _BINS - 1)

    def best(self) -> float | None:
        """The threshold with the highest mean IoU with id 0 as a class, the middle one of equals; None is none at all.

        Only thresholds that leave every class at least half of its right pixels are looked at. Where most pixels are of
        id 0 and scores tell nothing, the best would otherwise be to give up a class, or to say nothing at all.

        Raises:
            ValueError: if no pixel of id 0 was seen, or none of a class.
        """
        if not self.under_zero.any() or not self.truth.any():
            missing = "a class" if self.under_zero.any() else "0"
            raise InputError(
                f"the validation masks hold no pixel of {missing}, so no threshold can be told to be better than "
                "another. Calibrate on images whose masks show both."
            )
        right = _from_each_on(self.right)
        allowed = (2 * right >= right[:, :1]).all(axis=0)
        seen = np.where(allowed, self.figures()["mean_iou_id0_as_class"], -1.0)
        equal = np.flatnonzero(seen == seen.max())
        return None if equal[0] == 0 else float(self.thresholds[equal[len(equal) // 2]])


def is_worse(figure: float, than: float) -> bool:
    """Whether a figure is below another by what can be seen of it: 0.01 per cent."""
    return round(figure, 4) < round(than, 4)


def _from_each_on(counts: torch.Tensor) -> np.ndarray:
    """(C, 8000) how many have a score of at least each threshold."""
    return counts.flip(1).cumsum(1).flip(1).numpy()
