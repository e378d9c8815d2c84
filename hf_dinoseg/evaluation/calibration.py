"""Expected calibration error: of the pixels given with 80 % certainty, are 80 % right?

Pixels are sorted into equal bins by the score of their best class; the error is the mean distance between a bin's
mean score and its share of right pixels, weighted by pixels ("On Calibration of Modern Neural Networks",
https://arxiv.org/abs/1706.04599, 15 bins). Scores of mask heads are sums over queries and may exceed 1, which counts
as 1.
"""

from __future__ import annotations

from typing import Any

import torch

BINS = 15
_UNIT = 1 << 16  # scores are summed as whole numbers of 1 / 65536, exactly and in any order


def calibration_counts(
    prediction: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor, ignore_index: int
) -> torch.Tensor:
    """Pixels, right pixels and summed scores of each bin.

    Args:
        prediction: (H, W) train ids. Pixels without an answer (`ignore_index`) are in no bin, as void pixels are.
        scores: (H, W) float, the score of the predicted class.
        truth: (H, W) train ids, or `ignore_index` for void.

    Returns:
        (3, 15) int64 on the scores' device; those of several images are added. The third row is in 1 / 65536.
    """
    truth = truth.to(scores.device)
    counted = (truth != ignore_index) & (prediction != ignore_index)
    certain = scores[counted].float().nan_to_num(0).clamp(0, 1)
    right = (prediction == truth)[counted]
    bins = (certain * BINS).ceil().long().sub_(1).clamp_(min=0)  # (0, 1/15], (1/15, 2/15], …
    units = (certain * _UNIT).round().long()
    table = torch.zeros(3, BINS, dtype=torch.int64, device=scores.device)
    table[0] = torch.bincount(bins, minlength=BINS)
    table[1] = torch.bincount(bins[right], minlength=BINS)
    table[2].scatter_add_(0, bins, units)
    return table


def summarize_calibration(counts: torch.Tensor) -> dict[str, Any]:
    """Figures of (a sum of) `calibration_counts`.

    Returns:
        `expected_calibration_error` (0 to 1, NaN when there is no pixel); `calibration`: for each bin `pixels`,
        `score` (mean) and `accuracy`, NaN in empty bins.
    """
    pixels, right, units = counts.cpu().double()
    score, accuracy = units / _UNIT / pixels, right / pixels
    gaps = ((accuracy - score).abs() * pixels).nan_to_num(0)
    return {
        "expected_calibration_error": float(gaps.sum() / pixels.sum()),
        "calibration": {"pixels": pixels.long().tolist(), "score": score.tolist(), "accuracy": accuracy.tolist()},
    }
