"""Against pixels counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_dinoseg.data import zero_mask
from hf_dinoseg.evaluation import (
    ThresholdCurve,
    background_figures,
    background_matrices,
    confusion_matrix,
    is_worse,
    summarize,
)
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({1: "artery", 2: "vein", 3: "disc"}, ignore=(255,), reduce_zero_label=True)


def image(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Mask as on disk, best class and score, the answer below a threshold of 0.4."""
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 2, 3, 255], size=(23, 31), p=[0.5, 0.2, 0.15, 0.05, 0.1])
    best = np.where(rng.random(mask.shape) < 0.7, np.clip(mask, 1, 3) - 1, rng.integers(0, 3, mask.shape))
    scores = np.clip(rng.normal(np.where(mask == 0, 0.35, 0.6), 0.15), 0, 1.2).astype(np.float32)
    return mask, best, scores, np.where(scores < 0.4, 255, best)


def iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    return (truth & predicted).sum() / (truth | predicted).sum()


def test_figures_with_id_0_as_a_class_are_those_of_pixels_counted_one_by_one():
    mask, best, _, answer = image()
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


def curve_of(images: list[tuple[np.ndarray, ...]]) -> ThresholdCurve:
    curve = ThresholdCurve(3)
    for mask, best, scores, _ in images:
        truth, zero = SPACE.encode(mask), zero_mask(mask, SPACE)
        curve.update(*map(torch.from_numpy, (best, scores, truth, zero)), 255)
    return curve


def test_the_curves_are_the_figures_of_an_evaluation_with_each_threshold():
    images = [image(seed) for seed in range(3)]
    images[0][2][:5] = np.float32(0.3)  # scores that equal a threshold are not below it
    images[0][2][5, :3] = (-0.1, 8.5, 0.0)
    figures = curve_of(images).figures()
    for place in (0, 1, 299, 300, 301, 350, 400, 501, 700, 1200, 7999):
        matrices = torch.zeros(2, 4, 4, dtype=torch.int64)
        for mask, best, scores, _ in images:
            labels, truth, zero = map(torch.from_numpy, (best, SPACE.encode(mask), zero_mask(mask, SPACE)))
            answer = labels.masked_fill(torch.from_numpy(scores) < place / 1000, 255)
            matrices += background_matrices(labels, answer if place else labels, truth, zero, SPACE)
        expected = background_figures(matrices)
        for name, values in figures.items():
            if place == 0:  # one score is below 0 and has its class all the same
                expected = expected["without"] | {"without": expected["without"]}
            assert values[place] == pytest.approx(expected[name], abs=1e-12), (name, place)


def test_the_chosen_threshold_is_the_best_of_all_tried_one_by_one():
    images = [image(seed) for seed in range(3)]
    mask, best, scores, _ = (np.stack(part) for part in zip(*images, strict=True))
    curve, seen = curve_of(images), mask != 255

    def mean_iou(threshold: float) -> float:
        ids = np.where(scores < np.float32(threshold), 0, best + 1)
        kept = [((ids == i) & (mask == i)).sum() / ((best + 1 == i) & (mask == i)).sum() for i in (1, 2, 3)]
        return np.mean([iou((mask == i)[seen], (ids == i)[seen]) for i in range(4)]) if min(kept) >= 0.5 else 0.0

    tried = [mean_iou(t) for t in np.arange(1200) / 1000]
    threshold = curve.best()
    assert threshold is not None and 0.3 < threshold < 0.6
    assert (
        tried[round(1000 * threshold)]
        == max(tried)
        == pytest.approx(curve.figures()["mean_iou_id0_as_class"][curve.place(threshold)])
    )
    assert curve.silence_iou == pytest.approx((mask == 0)[seen].mean())


def test_no_class_is_given_up_for_pixels_of_0():
    """Nine pixels of ten are 0, and the scores of one small class are all below those of 0: the IoU of 0 alone, and the
    mean with it, is best where that class is gone."""
    mask = np.zeros((100, 100), dtype=np.int64)
    mask[:9], mask[9:10, :50] = 1, 2
    best = np.where(mask == 2, 1, 0)
    rng = np.random.default_rng(0)
    scores = np.where(mask == 1, 0.9, np.where(mask == 2, rng.uniform(0.2, 0.4, mask.shape), 0.5)).astype(np.float32)
    curve = curve_of([(mask, best, scores, best)])
    threshold = curve.best()
    assert threshold is None or (scores[mask == 2] < threshold).mean() <= 0.5
    figures = curve.figures()
    assert figures["id0_iou"][curve.place(0.6)] > 0.99 > figures["id0_iou"][curve.place(threshold)]


def test_where_scores_are_the_other_way_round_no_threshold_is_best():
    mask, best, scores, _ = image()
    assert curve_of([(mask, best, np.where(mask == 0, 0.9, 0.1).astype(np.float32), best)]).best() is None


def test_worse_is_what_can_be_seen():
    assert is_worse(0.8421, 0.8422) and not is_worse(0.84216, 0.84219) and not is_worse(0.5, 0.4)


def test_without_pixels_of_0_or_of_a_class_there_is_nothing_to_choose():
    for zero, told in ((False, "no pixel of 0"), (True, "no pixel of a class")):
        curve = ThresholdCurve(3)
        labels = torch.zeros(2, 2, dtype=torch.int64)
        curve.update(labels, torch.rand(2, 2), labels, torch.full((2, 2), zero), 255)
        with pytest.raises(ValueError, match=told):
            curve.best()
