from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_dinoseg.evaluation import confusion_matrix, per_class_table, summarize
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({3: "road", 5: "tree", 9: "sky"}, ignore=(255,))


def test_hand_computed_figures():
    matrix = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 1, 5, 2]])
    figures = summarize(matrix, SPACE)
    # road: 6 right, 8 true, 7 predicted; tree: 3, 4, 6; sky: 5, 8 (two of them unanswered), 5
    assert figures["per_category_iou"] == {"3 road": 6 / 9, "5 tree": 3 / 7, "9 sky": 5 / 8}
    assert figures["per_category_accuracy"] == {"3 road": 6 / 8, "5 tree": 3 / 4, "9 sky": 5 / 8}
    assert figures["per_category_dice"] == {"3 road": 12 / 15, "5 tree": 6 / 10, "9 sky": 10 / 13}
    assert figures["mean_iou"] == pytest.approx((6 / 9 + 3 / 7 + 5 / 8) / 3)
    assert figures["mean_accuracy"] == pytest.approx((6 / 8 + 3 / 4 + 5 / 8) / 3)
    assert figures["mean_dice"] == pytest.approx((12 / 15 + 6 / 10 + 10 / 13) / 3)
    assert figures["overall_accuracy"] == 14 / 20
    assert figures["num_absent_classes"] == 0
    assert figures["per_category_precision"] == {"3 road": 6 / 7, "5 tree": 3 / 6, "9 sky": 5 / 5}
    assert figures["per_category_recall"] == figures["per_category_accuracy"]
    # F-beta from precision p and recall r: (1 + b²) p r / (b² p + r), b = 2
    by_hand = [5 * p * r / (4 * p + r) for p, r in ((6 / 7, 6 / 8), (3 / 6, 3 / 4), (5 / 5, 5 / 8))]
    assert list(figures["per_category_f_beta"].values()) == pytest.approx(by_hand)
    assert figures["mean_f_beta"] == pytest.approx(sum(by_hand) / 3) and figures["beta"] == 2
    assert figures["mean_precision"] == pytest.approx((6 / 7 + 3 / 6 + 5 / 5) / 3)
    assert figures["frequency_weighted_iou"] == pytest.approx(8 / 20 * 6 / 9 + 4 / 20 * 3 / 7 + 8 / 20 * 5 / 8)
    assert summarize(matrix, SPACE, beta=1)["per_category_f_beta"] == figures["per_category_dice"]


def test_no_answer_is_a_miss_and_never_a_gain():
    truth = np.array([0, 0, 1, 1])
    answered = summarize(confusion_matrix(np.array([0, 0, 1, 0]), truth, 2, 255), LabelSpace({0: "a", 1: "b"}))
    silent = summarize(confusion_matrix(np.array([0, 0, 1, 255]), truth, 2, 255), LabelSpace({0: "a", 1: "b"}))
    assert answered["per_category_iou"] == {"0 a": 2 / 3, "1 b": 1 / 2}
    assert silent["per_category_iou"] == {"0 a": 1.0, "1 b": 1 / 2}  # missed by b, claimed by no other
    assert silent["overall_accuracy"] == answered["overall_accuracy"] == 3 / 4


def test_absent_class_is_nan_left_out_and_counted():
    figures = summarize(torch.tensor([[4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 2]]), SPACE)
    assert math.isnan(figures["per_category_iou"]["5 tree"])
    assert math.isnan(figures["per_category_dice"]["5 tree"])
    assert figures["mean_iou"] == pytest.approx((1 + 0.5) / 2)
    assert figures["num_absent_classes"] == 1


def test_class_predicted_but_never_true_counts_as_zero():
    figures = summarize(torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0]]), SPACE)
    assert figures["per_category_iou"]["5 tree"] == 0
    assert math.isnan(figures["per_category_accuracy"]["5 tree"])
    assert figures["per_category_precision"]["5 tree"] == 0
    assert figures["mean_iou"] == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert figures["mean_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert figures["num_absent_classes"] == 0


def test_nothing_labelled_gives_nan_without_a_warning(recwarn):
    figures = summarize(torch.zeros(3, 4, dtype=torch.int64), SPACE)
    for key in ("mean_iou", "mean_dice", "mean_precision", "mean_f_beta", "overall_accuracy", "frequency_weighted_iou"):
        assert math.isnan(figures[key])
    assert figures["num_absent_classes"] == 3
    assert not recwarn


def test_equals_sets_of_pixels():
    """IoU and Dice from their definition over sets of pixels, on random maps with void and unanswered pixels."""
    space = LabelSpace({i: f"c{i}" for i in range(6)}, ignore=(9,))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = rng.choice([0, 1, 2, 3, 255], 60)
        prediction = rng.choice([0, 1, 2, 4, 255], 60)
        figures = summarize(confusion_matrix(prediction, truth, 6, 255), space)
        valid = {i for i, t in enumerate(truth) if t != 255}
        ious = []
        for c in range(6):
            a = {i for i in valid if truth[i] == c}
            b = {i for i in valid if prediction[i] == c}
            iou, dice = figures["per_category_iou"][f"{c} c{c}"], figures["per_category_dice"][f"{c} c{c}"]
            if a | b:
                assert iou == pytest.approx(len(a & b) / len(a | b))
                assert dice == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
                ious.append(iou)
            else:
                assert math.isnan(iou) and math.isnan(dice)
        assert figures["mean_iou"] == pytest.approx(sum(ious) / len(ious))
        assert figures["num_absent_classes"] == 6 - len(ious)


def test_counts_beyond_32_bits_keep_their_precision():
    matrix = torch.tensor([[3 * 2**40, 2**40, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    assert summarize(matrix, SPACE)["per_category_iou"]["3 road"] == 0.75


def test_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\); 3 classes need \(3, 4\)"):
        summarize(torch.zeros(3, 3), SPACE)


def test_reduced_labels_are_reported_by_original_id():
    space = LabelSpace({1: "wall", 2: "building"}, reduce_zero_label=True)
    figures = summarize(torch.tensor([[1, 0, 0], [1, 2, 0]]), space)
    assert list(figures["per_category_iou"]) == ["1 wall", "2 building"]


def test_table_reads_line_by_line():
    table = per_class_table(torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 4, 4]]), SPACE).splitlines()
    assert [line.split() for line in table if not set(line) <= {"-"}] == [
        ["id", "class", "IoU", "Dice", "accuracy", "of", "truth"],
        ["3", "road", "75.00", "85.71", "75.00", "33.33"],
        ["5", "tree", "0.00", "0.00", "-", "0.00"],
        ["9", "sky", "50.00", "66.67", "50.00", "66.67"],
        ["mean", "41.67", "50.79", "62.50"],
        "overall accuracy 58.33 of 12 labelled pixels; pixels without an answer, counted as missed: 4".split(),
    ]
    assert len({len(line) for line in table[2:5]}) == 1


def test_table_of_absent_class_shows_a_dash_and_says_so():
    table = per_class_table(torch.tensor([[4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0]]), SPACE)
    assert table.splitlines()[3].split() == ["5", "tree", "-", "-", "-", "0.00"]
    assert "classes neither present nor predicted, in no mean: 1" in table
