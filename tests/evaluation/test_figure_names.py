"""Figures by name: what a checkpoint can be chosen by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_dinoseg.evaluation import summarize, summarize_boundary
from hf_dinoseg.evaluation.summary import KINDS, OVERALL, figure_names, figure_of, find_figure, higher_is_better
from hf_dinoseg.labels import LabelSpace

RETINA = LabelSpace({0: "background", 1: "artery", 2: "vein"}, ignore=(255,))


def test_every_figure_of_an_evaluation_has_its_name_and_every_name_its_figure(tiny_metrics: dict) -> None:
    produced = {key for key, value in tiny_metrics.items() if isinstance(value, float)}
    assert produced - set(OVERALL) <= {"beta", "seconds", "seconds_per_image", "void_share"}
    kinds = {key.removeprefix("per_category_") for key in tiny_metrics if key.startswith("per_category_")}
    assert kinds - {"iou_interval"} == set(KINDS)
    space = LabelSpace({0: "background", 1: "artery", 2: "vein", 3: "disc"}, ignore=(255,))
    for name in figure_names(space):
        assert isinstance(figure_of(tiny_metrics, name, space), float)
    assert len(figure_names(space)) == len(OVERALL) + len(KINDS) * 4 * 2  # by name and by id


@pytest.fixture
def tiny_metrics(tiny_run) -> dict:
    import json

    found = json.loads((tiny_run / "metrics.json").read_text())
    return {
        k: {c: math.nan if v is None else v for c, v in f.items()} if isinstance(f, dict) else f
        for k, f in found.items()
    }


def test_figures_of_a_class_by_hand() -> None:
    # truth by rows: background 6, artery 4, vein 0; predicted: background 5, artery 5, vein 0
    summary = summarize(np.array([[4, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0]]), RETINA)
    assert figure_of(summary, "iou_artery", RETINA) == figure_of(summary, "eval_iou_1", RETINA) == 3 / (4 + 5 - 3)
    assert figure_of(summary, "dice_artery", RETINA) == 6 / 9
    assert figure_of(summary, "precision_artery", RETINA) == 3 / 5
    assert figure_of(summary, "recall_artery", RETINA) == figure_of(summary, "accuracy_artery", RETINA) == 3 / 4
    assert figure_of(summary, "iou_background", RETINA) == 4 / 7
    assert figure_of(summary, "mean_iou", RETINA) == pytest.approx((4 / 7 + 1 / 2) / 2)
    assert math.isnan(figure_of(summary, "iou_vein", RETINA))  # neither true nor predicted
    boundary = summarize_boundary(np.array([[1, 2, 0], [2, 4, 0], [3, 4, 0]]), RETINA)
    assert figure_of(boundary, "boundary_iou_artery", RETINA) == 2 / (4 + 4 - 2)
    with pytest.raises(KeyError):
        figure_of(summary, "iou_nerve", RETINA)


def test_names_with_blanks_names_that_stand_twice_and_names_that_are_numbers() -> None:
    space = LabelSpace(
        {-1: "left", 3: "traffic  light", 4: "pole", 7: "pole", 8: "9", 9: "iou_x", 12: "a b", 13: "a_b"}
    )

    def place(name: str) -> str | None:
        found = find_figure(name, space)
        return found[1] if found else None

    assert place("iou_traffic  light") == place("iou_traffic_light") == place("iou_3") == "3 traffic  light"
    assert place("iou_pole") is None and place("iou_4") == "4 pole" and place("iou_7") == "7 pole"
    assert place("iou_9") == "9 iou_x" and place("iou_8") == "8 9"  # a number is an id, never a name
    assert place("iou_iou_x") == "9 iou_x"
    assert place("iou_-1") == place("iou_left") == "-1 left"
    assert place("iou_a b") == "12 a b" and place("iou_a_b") == "13 a_b"  # the very name comes first
    assert place("iou_5") is None and place("iou_") is None
    listed = figure_names(space)
    assert "iou_pole" not in listed and listed.count("iou_9") == 1 and listed.count("iou_a_b") == 1
    assert all(find_figure(name, space) for name in listed)


def test_merged_and_void_classes_have_no_figure() -> None:
    space = LabelSpace({1: "car", 2: "van", 3: "road"}, merge={2: 1}, ignore=(255,))
    assert find_figure("iou_van", space) is None and find_figure("iou_2", space) is None
    assert find_figure("iou_255", space) is None
    assert find_figure("iou_car", space) == ("per_category_iou", "1 car")


def test_of_one_figure_less_is_better() -> None:
    assert [name for name in figure_names(RETINA) if not higher_is_better(name)] == ["expected_calibration_error"]
    assert not higher_is_better("eval_expected_calibration_error") and higher_is_better("eval_mean_iou")
