from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_dinoseg.evaluation import confusion_matrix, image_counts, image_scores, iou_intervals
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({3: "road", 5: "tree", 9: "sky"})


def one_draw(counts: np.ndarray, chosen: np.ndarray) -> list[float]:
    """IoU of each class of the images drawn, one addition at a time."""
    ious = []
    for c in range(counts.shape[2]):
        right, truth, predicted = (sum(int(counts[i, k, c]) for i in chosen) for k in range(3))
        union = truth + predicted - right
        ious.append(right / union if union else math.nan)
    return ious


def images(number: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    matrices = []
    for _ in range(number):
        truth = rng.integers(0, 3 if rng.random() < 0.3 else 2, (8, 8))  # sky is rare
        prediction = np.where(rng.random((8, 8)) < rng.random(), truth, rng.integers(0, 2, (8, 8)))
        matrices.append(confusion_matrix(prediction, truth, 3, 255))
    return image_counts(torch.stack(matrices)).numpy()


def test_counts_of_an_image() -> None:
    matrix = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 1, 5, 2]])
    assert image_counts(matrix).tolist() == [[6, 3, 5], [8, 4, 8], [7, 6, 5]]


def test_intervals_are_the_quantiles_of_draws_counted_one_by_one() -> None:
    counts = images(9)
    result = iou_intervals(counts, SPACE, resamples=50, seed=3)
    drawn = np.random.default_rng(3).integers(9, size=(50, 9))
    draws = np.array([one_draw(counts, chosen) for chosen in drawn])
    assert 0 < np.isnan(draws[:, 2]).sum() < 50  # some draws hold no sky: they have no say in its interval
    np.testing.assert_allclose(result["mean_iou_interval"], np.quantile(np.nanmean(draws, axis=1), [0.025, 0.975]))
    for c, key in enumerate(("3 road", "5 tree", "9 sky")):
        np.testing.assert_allclose(
            result["per_category_iou_interval"][key], np.nanquantile(draws[:, c], [0.025, 0.975])
        )
    assert result["interval"] == {"level": 0.95, "resamples": 50}


def test_the_interval_covers_what_more_images_would_say() -> None:
    """Of sets drawn from one source, about 95 % of intervals hold the figure of the whole source."""
    source = images(4000)
    whole = np.nanmean(one_draw(source, np.arange(4000)))
    held = 0
    for start in range(0, 4000, 40):
        low, high = iou_intervals(source[start : start + 40], SPACE, resamples=200)["mean_iou_interval"]
        held += low <= whole <= high
    assert 85 <= held <= 100


def test_seeded_and_nan_where_nothing_can_be_said() -> None:
    counts = images(9)
    assert iou_intervals(counts, SPACE) == iou_intervals(counts, SPACE)
    counts[1:, :, 2] = 0
    counts[0, :, 2] = 3  # in one image only
    result = iou_intervals(counts, SPACE, resamples=20)
    assert all(math.isnan(x) for x in result["per_category_iou_interval"]["9 sky"])
    assert all(math.isfinite(x) for x in result["mean_iou_interval"])
    assert all(math.isnan(x) for x in iou_intervals(counts[:1], SPACE)["mean_iou_interval"])


def test_images_are_ranked_worst_first_and_unlabelled_last() -> None:
    counts = np.array(
        [
            [[4, 0, 0], [4, 0, 0], [4, 0, 0]],  # all right
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],  # nothing labelled
            [[1, 0, 0], [2, 2, 0], [3, 1, 0]],  # road 1 / 4, tree 0 / 3
        ]
    )
    ranked = image_scores(counts, [10, 11, 12])
    assert [row["index"] for row in ranked] == [12, 10, 11]
    assert ranked[0]["mean_iou"] == pytest.approx(0.125) and ranked[0]["overall_accuracy"] == 0.25
    assert math.isnan(ranked[2]["mean_iou"])
