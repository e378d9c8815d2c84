"""Advice rests on figures: each case plants one cause, worked out by hand, and its sentence names the figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_dinoseg.evaluation.next_steps import next_steps
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({0: "road", 1: "car", 2: "pole"})
GOOD = np.diag([800, 150, 50])
GOOD = np.concatenate([GOOD, np.zeros((3, 1), dtype=int)], axis=1)


def _log(*scores: float) -> list[dict[str, Any]]:
    return [{"step": 100 * (i + 1), "eval_mean_iou": score} for i, score in enumerate(scores)]


def _said(matrix: np.ndarray, metrics: dict[str, Any] | None = None, log: list[dict[str, Any]] | None = None) -> str:
    return "\n".join(f"{what}. {why}" for what, why in next_steps(metrics or {}, matrix, SPACE, log or []))


def test_where_nothing_stands_out_nothing_is_said() -> None:
    assert next_steps({"num_images": 500, "mean_iou_interval": [0.9, 0.93]}, GOOD, SPACE, _log(0.9, 0.91, 0.91)) == []


def test_a_curve_that_still_rises_asks_for_steps_and_one_that_falls_for_images() -> None:
    rising = _said(GOOD, log=_log(0.4, 0.5, 0.56))
    assert "max_steps" in rising and "50.0 % after 200" in rising and "56.0 % after 300" in rising
    falling = _said(GOOD, log=_log(0.4, 0.6, 0.5))
    assert "max_steps" not in falling and "best after 200 steps, 60.0 %" in falling


def test_a_weak_class_is_told_with_what_it_is_taken_for() -> None:
    matrix = np.array([[800, 0, 0, 0], [90, 60, 0, 0], [0, 0, 50, 0]])  # 90 of 150 car pixels are called road
    said = _said(matrix)
    assert "car: IoU 40.0 %" in said and "60.0 % of it is taken for road" in said and "pole" not in said


def test_a_rare_class_that_is_left_out_asks_for_weights() -> None:
    matrix = np.array([[985, 0, 0, 0], [0, 100, 0, 0], [15, 0, 0, 0]])  # pole: 15 of 1100, never predicted
    said = _said(matrix)
    assert "pole: IoU 0.0 %" in said and "1.4 % of the labelled pixels" in said and "per_class_weights" in said
    # found and mistaken rather than left out: no weights
    matrix = np.array([[985, 0, 30, 0], [0, 100, 0, 0], [3, 0, 12, 0]])
    said = _said(matrix)
    assert "per_class_weights" not in said and "71.4 % of what is called so is road" in said


def test_thin_things_are_those_that_are_all_outline() -> None:
    matrix = np.array([[900, 0, 50, 0], [0, 100, 0, 0], [25, 0, 75, 0]])  # pole: 75 / 150 = 50 %
    thin = {"per_category_boundary_iou": {"2 pole": 0.49}}
    wide = {"per_category_boundary_iou": {"2 pole": 0.2}}
    assert "thin" in _said(matrix, thin) and "thin" not in _said(matrix, wide)


def test_few_images_are_told_by_their_interval() -> None:
    said = _said(GOOD, {"num_images": 8, "mean_iou_interval": [0.6, 0.8]})
    assert "On 8 images" in said and "60.0 %" in said and "80.0 %" in said
