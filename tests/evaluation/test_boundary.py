"""Boundary IoU against the definition: masks minus their erosions, one class and one step at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from hf_dinoseg.evaluation import boundary_counts, summarize_boundary
from hf_dinoseg.labels import LabelSpace


def eroded_bands(labels: np.ndarray, classes: int, steps: int) -> list[np.ndarray]:
    square = np.ones((3, 3), dtype=bool)  # beyond the image there is no mask
    return [(labels == c) & ~binary_erosion(labels == c, square, iterations=steps) for c in range(classes)]


def blobs(rng: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    coarse = rng.integers(0, classes, (height // 6 + 1, width // 6 + 1))
    return np.kron(coarse, np.ones((6, 6), dtype=int))[:height, :width]


@pytest.mark.parametrize(("height", "width", "ratio"), [(40, 61, 0.02), (33, 20, 0.1), (50, 50, 0.04), (3, 2, 0.9)])
def test_bands_are_those_of_eroded_masks(height: int, width: int, ratio: float) -> None:
    rng = np.random.default_rng(height)
    truth, prediction = blobs(rng, height, width, 4), blobs(rng, height, width, 5)
    steps = max(1, round(ratio * (height**2 + width**2) ** 0.5))
    right, wrong = eroded_bands(truth, 5, steps), eroded_bands(prediction, 5, steps)
    expected = [
        [int((a & b).sum()) for a, b in zip(right, wrong, strict=True)],
        [int(a.sum()) for a in right],
        [int(b.sum()) for b in wrong],
    ]
    assert boundary_counts(prediction, truth.astype(np.uint8), 5, 255, ratio).tolist() == expected


def distance_bands(labels: np.ndarray, void: np.ndarray, classes: int, steps: int) -> list[int]:
    """Pixel by pixel: labelled, and within `steps` of another labelled class or of the end."""
    counts = [0] * classes
    for y, x in np.ndindex(labels.shape):
        window = np.s_[max(0, y - steps) : y + steps + 1, max(0, x - steps) : x + steps + 1]
        at_end = min(y, x, labels.shape[0] - 1 - y, labels.shape[1] - 1 - x) < steps
        other = (labels[window] != labels[y, x]) & ~void[window]
        if not void[y, x] and labels[y, x] < classes and (at_end or other.any()):
            counts[labels[y, x]] += 1
    return counts


def test_void_makes_no_outline_and_a_missing_answer_does() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = blobs(rng, 40, 52, 3), blobs(rng, 40, 52, 3)
    void, silent = blobs(rng, 40, 52, 4) == 0, rng.random((40, 52)) < 0.02
    truth[void], prediction[silent] = 255, 255
    counts = boundary_counts(prediction, truth, 3, 255, 0.05)
    assert counts[1].tolist() == distance_bands(truth, void, 3, 3)
    assert counts[2].tolist() == distance_bands(np.where(silent, 3, prediction), void, 3, 3)
    assert boundary_counts(truth, truth, 3, 255).unique(dim=0).shape[0] == 1  # perfect whatever the void


def test_hand_computed_figures_and_nan() -> None:
    truth = np.zeros((100, 100), dtype=int)
    truth[:, 50:] = 1
    prediction = np.zeros_like(truth)
    prediction[:, 51:] = 1  # the outline one pixel off; the band is round(0.02 × 141.4) = 3 wide
    figures = summarize_boundary(boundary_counts(prediction, truth, 3, 255), LabelSpace({2: "a", 4: "b", 6: "c"}))
    # class a, truth: the rim of 3 (3 columns of 100, 6 rows of the other 47), columns 47..49; predicted one column on
    a = (300 + 6 * 47 + 94 * 2) / (300 + 6 * 48 + 94 * 4)
    b = (300 + 6 * 46 + 94 * 2) / (300 + 6 * 47 + 94 * 4)
    assert figures["per_category_boundary_iou"] == pytest.approx({"2 a": a, "4 b": b, "6 c": np.nan}, nan_ok=True)
    assert figures["mean_boundary_iou"] == pytest.approx((a + b) / 2)
