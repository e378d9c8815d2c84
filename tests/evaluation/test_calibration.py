from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_dinoseg.evaluation import calibration_counts, summarize_calibration


def test_hand_computed_error() -> None:
    # bins of 1/15: 0.95 and 1.0 fall in the last, 0.5 in the eighth, 0.03 and 0 in the first; void and silence nowhere
    scores = torch.tensor([[0.95, 1.4, 0.5, 0.5, 0.03, 0.0, 0.9, 0.9]])
    prediction = torch.tensor([[0, 1, 1, 1, 0, 0, 0, 255]])
    truth = torch.tensor([[0, 0, 1, 0, 1, 1, 255, 0]], dtype=torch.uint8)
    figures = summarize_calibration(calibration_counts(prediction, scores, truth, 255))
    last, middle, first = abs(0.5 - 0.975) * 2, abs(0.5 - 0.5) * 2, abs(0 - 0.015) * 2
    assert figures["expected_calibration_error"] == pytest.approx((last + middle + first) / 6, abs=1e-5)
    assert figures["calibration"]["pixels"] == [2, *[0] * 6, 2, *[0] * 6, 2]
    assert figures["calibration"]["accuracy"][-1] == 0.5 and math.isnan(figures["calibration"]["accuracy"][3])


def test_equals_numpy_over_random_images() -> None:
    rng = np.random.default_rng(0)
    total, all_scores, all_right = torch.zeros(3, 15, dtype=torch.int64), [], []
    for _ in range(4):
        scores = rng.random((30, 20), dtype=np.float32)
        prediction, truth = rng.integers(0, 3, (30, 20)), rng.choice([0, 1, 2, 255], (30, 20))
        arrays = (torch.from_numpy(x) for x in (prediction, scores, truth))
        total += calibration_counts(*arrays, 255)
        all_scores.append(scores[truth != 255])
        all_right.append((prediction == truth)[truth != 255])
    scores, right = np.concatenate(all_scores).astype(float), np.concatenate(all_right)
    place = np.digitize(scores, np.arange(1, 15) / 15, right=True)
    error = sum(abs(right[place == b].mean() - scores[place == b].mean()) * (place == b).mean() for b in range(15))
    assert summarize_calibration(total)["expected_calibration_error"] == pytest.approx(error, abs=2e-5)


def test_nothing_labelled_gives_nan() -> None:
    figures = summarize_calibration(torch.zeros(3, 15, dtype=torch.int64))
    assert math.isnan(figures["expected_calibration_error"])
