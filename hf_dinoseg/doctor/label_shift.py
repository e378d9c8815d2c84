"""Whether predictions are right but for the numbers: the renaming of ids under which they fit the masks best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..figures import iou

_LEAST_GAIN = 0.1  # of mean IoU
_LEAST_RATIO = 1.5
_LEAST_IOU = 0.3  # of at least two renamed classes: one alone may fit by chance, as a constant prediction does
_OFFSET_IS_ENOUGH = 0.9  # of what the best permutation reaches


@dataclass(frozen=True)
class LabelShift:
    """A renaming of predictions.

    Attributes:
        offset: what is to be added to predicted train ids, if the renaming is as simple as that.
        moves: `{predicted train id: true train id}` of the classes that a renaming makes fit.
        before: mean IoU as predicted.
        after: mean IoU after renaming.
    """

    offset: int | None
    moves: dict[int, int]
    before: float
    after: float


def find_label_shift(matrix: np.ndarray) -> LabelShift | None:
    """Search offsets and permutations of the predicted ids.

    The best permutation is the assignment of predictions to classes with the largest sum of IoU (Kuhn's method).

    Args:
        matrix: (C, C) or (C, C + 1) counts, rows truth, columns prediction.

    Returns:
        The renaming, if it makes at least two classes fit and the mean IoU much better; else None.
    """
    from scipy.optimize import linear_sum_assignment

    count = len(matrix)
    hits = np.asarray(matrix, dtype=np.float64)
    truth, predicted = hits.sum(axis=1), hits[:, :count].sum(axis=0)
    hits = hits[:, :count]
    overlap = np.nan_to_num(iou(hits, truth[:, None], predicted[None, :]))
    present = np.flatnonzero(truth)
    if count < 2 or not len(present):
        return None

    def score(source: np.ndarray) -> float:
        """Mean IoU over the classes that occur; `source[t]` is the prediction that stands for truth t, -1 for none."""
        return float(np.mean([overlap[t, source[t]] if source[t] >= 0 else 0.0 for t in present]))

    identity = np.arange(count)
    before = score(identity)
    rows, columns = linear_sum_assignment(-overlap)
    best_source = np.full(count, -1)
    best_source[rows] = columns
    after, offset = score(best_source), None
    shifted = {
        k: np.where((identity - k >= 0) & (identity - k < count), identity - k, -1)
        for k in range(1 - count, count)
        if k != 0
    }
    best_offset = max(shifted, key=lambda k: score(shifted[k]))
    if score(shifted[best_offset]) >= _OFFSET_IS_ENOUGH * after:
        best_source, after, offset = shifted[best_offset], score(shifted[best_offset]), best_offset
    moves = {
        int(best_source[t]): int(t)
        for t in present.tolist()
        if best_source[t] not in (-1, t) and overlap[t, best_source[t]] >= _LEAST_IOU
    }
    if len(moves) < 2 or after < before + _LEAST_GAIN or after < _LEAST_RATIO * before:
        return None
    return LabelShift(offset, moves, before, after)
