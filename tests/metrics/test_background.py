"""Against pixels counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_dinoseg.data import zero_mask
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.metrics import ThresholdCurve, background_figures, background_matrices, confusion_matrix, summarize

SPACE = LabelSpace({1: "artery", 2: "vein", 3: "disc"}, ignore=(255,), reduce_zero_label=True)


def picture(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Mask as on disk, best class and score, the answer below a threshold of 0.4."""
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 2, 3, 255], size=(23, 31), p=[0.5, 0.2, 0.15, 0.05, 0.1])
    best = np.where(rng.random(mask.shape) < 0.7, np.clip(mask, 1, 3) - 1, rng.integers(0, 3, mask.shape))
    scores = np.clip(rng.normal(np.where(mask == 0, 0.35, 0.6), 0.15), 0, 1.2).astype(np.float32)
    return mask, best, scores, np.where(scores < 0.4, 255, best)


def iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    return (truth & predicted).sum() / (truth | predicted).sum()


def test_figures_with_id_0_as_a_class_are_those_of_pixels_counted_one_by_one():
    mask, best, _, answer = picture()
    truth = torch.from_numpy(SPACE.encode(mask))
    zero = torch.from_numpy(zero_mask(mask, SPACE))
    matrices = background_matrices(torch.from_numpy(best), torch.from_numpy(answer), truth, zero, SPACE)
    assert torch.equal(matrices[1, :3], confusion_matrix(answer, truth, 3, 255))
    assert int(matrices[0].sum()) == int(matrices[1].sum()) == int((mask != 255).sum())
    figures = background_figures(matrices)
    seen = mask != 255
    for labels, told in ((answer, figures), (best, figures["without"])):
        ids = np.where(labels == 255, 0, labels + 1)
        each = [iou((mask == i)[seen], (ids == i)[seen]) for i in (0, 1, 2, 3)]
        assert told["id0_iou"] == pytest.approx(each[0])
        assert told["mean_iou_id0_as_class"] == pytest.approx(np.mean(each))
        expected = summarize(confusion_matrix(labels, truth, 3, 255), SPACE)["mean_iou"]
        assert told["mean_iou"] == pytest.approx(expected)
    assert figures["without"]["id0_iou"] == 0


def test_the_chosen_threshold_is_the_best_of_all_tried_one_by_one():
    curve = ThresholdCurve()
    masks, all_scores = [], []
    for seed in range(3):
        mask, _, scores, _ = picture(seed)
        curve.update(
            torch.from_numpy(scores),
            torch.from_numpy(SPACE.encode(mask)),
            torch.from_numpy(zero_mask(mask, SPACE)),
            255,
        )
        masks.append(mask)
        all_scores.append(scores)
    mask, scores = np.stack(masks), np.stack(all_scores)
    seen = mask != 255
    tried = [iou((mask == 0)[seen], (scores < t)[seen]) for t in np.arange(8000, dtype=np.float32) / 1000]
    assert np.allclose(curve.id0_iou, tried, atol=1e-9)
    threshold, best = curve.best()
    assert best == max(tried) and 0.3 < threshold < 0.6
    zero = (mask == 0)[seen]
    assert curve.silence_iou == pytest.approx(zero.mean()) and best > zero.mean()


def test_a_threshold_that_silences_most_of_the_classes_is_not_chosen():
    """Scores that tell nothing, and nine pixels of ten are 0: silence everywhere would have the highest IoU."""
    scores = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    truth = torch.full((100, 100), 255)
    truth[:10] = 0
    curve = ThresholdCurve()
    curve.update(scores, truth, truth == 255, 255)
    threshold, best = curve.best()
    assert (scores[:10] < threshold).float().mean() == pytest.approx(0.5, abs=2e-3)
    assert best < curve.silence_iou == 0.9


def test_without_pixels_of_0_or_of_a_class_there_is_nothing_to_choose():
    for zero, told in ((False, "no pixel of 0"), (True, "no pixel of a class")):
        curve = ThresholdCurve()
        curve.update(torch.rand(2, 2), torch.zeros(2, 2), torch.full((2, 2), zero), 255)
        with pytest.raises(ValueError, match=told):
            curve.best()
