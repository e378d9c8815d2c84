"""Boundary IoU: does the outline fit? ("Boundary IoU", https://arxiv.org/abs/2103.16562)

IoU hardly sees the outline of a large object. Here only a band along the inside of each outline counts: the pixels of
a mask that are nearer to its outline than 2 % of the image's diagonal. The image's own edge is an outline too, as
in the paper. Overlap and union of the bands are summed over images, as for IoU.

Void is in no mask and makes no outline: distances are to the nearest *labelled* pixel of another class, so an object
with a rim of void around it is not rewarded for a rim that the prediction never drew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from ..figures import iou, mean_of_known
from ..labels import LabelSpace
from .summary import category_keys

DILATION_RATIO = 0.02


def boundary_counts(
    prediction: torch.Tensor | np.ndarray,
    truth: torch.Tensor | np.ndarray,
    num_labels: int,
    ignore_index: int,
    dilation_ratio: float = DILATION_RATIO,
) -> torch.Tensor:
    """What boundary IoU needs of an image.

    Args:
        prediction, truth, num_labels, ignore_index: as in `confusion_matrix`, of shape (H, W).
        dilation_ratio: width of the bands as a share of the image's diagonal; at least a pixel.

    Returns:
        (3, C) int64 on the CPU: pixels of each class in both bands, in the truth's band, in the prediction's band;
        they are added over images for `summarize_boundary`.
    """
    labelled = torch.as_tensor(truth).cpu().numpy()
    predicted = torch.as_tensor(prediction).cpu().numpy()
    void = labelled == ignore_index
    silent = predicted == ignore_index
    kind = np.uint8 if num_labels < 254 else np.uint16 if num_labels < 65534 else np.int32
    no_answer, void_id = num_labels, num_labels + 1
    labelled, predicted = labelled.astype(kind), predicted.astype(kind)
    labelled[void] = void_id
    predicted[silent] = no_answer
    predicted[void] = void_id
    width = max(1, round(dilation_ratio * float(np.hypot(*labelled.shape))))
    in_truth = _band(labelled, void, void_id, width)
    in_prediction = _band(predicted, void, void_id, width)
    both = in_truth & in_prediction & (labelled == predicted)
    counted = [labelled[both], labelled[in_truth], predicted[in_prediction]]
    return torch.from_numpy(np.stack([np.bincount(c, minlength=num_labels + 2)[:num_labels] for c in counted]))


def summarize_boundary(counts: torch.Tensor | np.ndarray, label_space: LabelSpace) -> dict[str, Any]:
    """Figures of (a sum of) `boundary_counts`.

    Returns:
        `mean_boundary_iou` and `per_category_boundary_iou` (`{"<original id> <name>": float}`); a class that is
        neither true nor predicted is NaN and in no mean.
    """
    ious = iou(*torch.as_tensor(counts).cpu().numpy())
    return {
        "mean_boundary_iou": mean_of_known(ious),
        "per_category_boundary_iou": dict(zip(category_keys(label_space), ious.tolist(), strict=True)),
    }


def _band(labels: np.ndarray, void: np.ndarray, void_id: int, width: int) -> np.ndarray:
    """(H, W) bool: labelled pixels with a pixel of another class, or the image's end, at most `width` away in rows
    and columns. Of all classes at once: the largest and smallest id around a pixel tell whether there is another."""
    height, length = labels.shape
    largest, smallest = labels, labels
    if void.any():
        largest = np.where(void, 0, labels).astype(labels.dtype)  # void is never the largest, nor the smallest
    for axis in (0, 1):
        largest = maximum_filter1d(largest, 2 * width + 1, axis=axis, mode="nearest")
        smallest = minimum_filter1d(smallest, 2 * width + 1, axis=axis, mode="nearest")
    band = (largest != labels) | (smallest != labels)
    for edge in (slice(None, width), slice(-width, None)):
        band[edge] = True
        band[:, edge] = True
    return band & ~void
