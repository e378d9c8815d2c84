"""The confusion matrix: the only thing that evaluation keeps of the images it has seen.

Rows are truth, columns are predictions, both in train ids. One more column than rows: the last counts labelled pixels
for which the model gave *no answer* (a prediction equal to `ignore_index`, as a background policy makes). Such a pixel
is missed by its truth class and claimed by no other; it is never dropped, or a model could raise its score by staying
silent. Void truth is not counted at all.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InputError

_DIRECT_LIMIT = 255  # up to this ignore index, void is counted under its own number and cut away afterwards


def confusion_matrix(
    prediction: torch.Tensor | np.ndarray, truth: torch.Tensor | np.ndarray, num_labels: int, ignore_index: int
) -> torch.Tensor:
    """Count (truth, prediction) pairs.

    Args:
        prediction: integers of any shape, usually (H, W): train ids, or `ignore_index` for "no answer".
        truth: the same shape: train ids, or `ignore_index` for void. Moved to the prediction's device.
        num_labels: C, the number of classes.
        ignore_index: the train id of void; not one of 0..C-1.

    Returns:
        (C, C + 1) int64 on the prediction's device: `[t, p]` is the number of pixels of truth t predicted as p, and
        `[t, C]` those of truth t left without an answer. Matrices of several images are added.

    Raises:
        ValueError: if the shapes differ, a value is no train id, or the arrays do not hold integers.
    """
    if 0 <= ignore_index < num_labels:
        raise InputError(f"ignore_index {ignore_index} is the train id of a class (there are {num_labels}).")
    predicted, labelled = _as_tensor(prediction, "prediction"), _as_tensor(truth, "truth")
    if predicted.shape != labelled.shape:
        raise InputError(
            f"prediction has shape {tuple(predicted.shape)}, truth {tuple(labelled.shape)}; predictions are compared "
            "at the truth's own resolution, so resize the scores to it first."
        )
    labelled = labelled.to(predicted.device)
    # Pairs are fused into one number and counted in one pass. Below 256 ids, void keeps its own row and column in a
    # slightly larger table, because rewriting it in both maps would cost more than the counting itself.
    void = ignore_index if num_labels <= ignore_index <= _DIRECT_LIMIT else num_labels
    side = void + 1
    kind = torch.int32 if side * side < 2**31 else torch.int64
    columns = _compact(predicted, kind, num_labels, ignore_index, void, "prediction")
    rows = _compact(labelled, kind, num_labels, ignore_index, void, "truth")
    table = torch.bincount(torch.add(columns, rows, alpha=side), minlength=side * side).view(side, side)
    for name, between in (("truth", table[num_labels:void]), ("prediction", table[:, num_labels:void])):
        if between.numel() and between.any():
            raise InputError(_not_train_ids(name, num_labels, ignore_index))
    return torch.cat((table[:num_labels, :num_labels], table[:num_labels, void:]), dim=1)


class ConfusionMatrix:
    """A confusion matrix that images are added to one at a time.

    Args:
        num_labels: C, the number of classes.
        ignore_index: the train id of void.

    Example:
        >>> matrix = ConfusionMatrix(num_labels=2, ignore_index=255)
        >>> matrix.update(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]))
        >>> matrix.matrix
        tensor([[1, 1, 0],
                [0, 0, 0]])
    """

    def __init__(self, num_labels: int, ignore_index: int) -> None:
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_labels, num_labels + 1, dtype=torch.int64)
        """(C, C + 1) int64, rows truth, columns prediction, last column "no answer"; on the last update's device."""

    def update(self, prediction: torch.Tensor | np.ndarray, truth: torch.Tensor | np.ndarray) -> None:
        """Add an image (or a batch of one size); arguments and errors as in `confusion_matrix`."""
        counted = confusion_matrix(prediction, truth, self.num_labels, self.ignore_index)
        self.matrix = self.matrix.to(counted.device) + counted


def _as_tensor(ids: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    tensor = ids if isinstance(ids, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(ids))
    if tensor.is_floating_point() or tensor.is_complex():
        raise InputError(f"{name} holds {tensor.dtype} values; label maps hold integers (take the argmax first).")
    return tensor


def _compact(
    ids: torch.Tensor, kind: torch.dtype, num_labels: int, ignore_index: int, void: int, name: str
) -> torch.Tensor:
    """Flat ids of type `kind`, void as `void`, with every value known to lie in 0..void."""
    if ids.dtype not in (torch.uint8, torch.int32, torch.int64):
        ids = ids.to(torch.int64)  # few operations exist for the other types (uint16 among them)
    flat = ids.reshape(-1)
    if not flat.numel():
        return flat.to(kind)
    if void == ignore_index:
        low, high = torch.aminmax(flat)  # before narrowing, which would wrap large values round
        known = low >= 0 and high <= void
    else:
        is_void = flat == ignore_index
        low, high = torch.aminmax(flat.masked_fill(is_void, 0))
        known = low >= 0 and high < num_labels  # the number that void is about to get may not be in use
        flat = (flat.to(kind) if flat.dtype == torch.uint8 else flat).masked_fill(is_void, void)
    if not known:
        raise InputError(_not_train_ids(name, num_labels, ignore_index))
    return flat.to(kind)


def _not_train_ids(name: str, num_labels: int, ignore_index: int) -> str:
    return (
        f"{name} holds values that are no train ids (0 to {num_labels - 1}, or {ignore_index} for void). Maps in "
        "original ids go through LabelSpace.encode first."
    )
