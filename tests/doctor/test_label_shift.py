"""The search for a renaming, against confusion matrices written by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hf_dinoseg.doctor.label_shift import find_label_shift


def test_right_predictions_need_no_renaming():
    assert find_label_shift(np.diag([50, 30, 20, 0])) is None
    assert find_label_shift(np.diag([50, 30, 20]) + 5) is None


def test_an_offset_is_found_and_named():
    matrix = np.zeros((4, 5), dtype=np.int64)
    for truth, pixels in ((1, 40), (2, 30), (3, 20)):
        matrix[truth, truth - 1] = pixels  # predicted one too low
    shift = find_label_shift(matrix)
    assert shift.offset == 1 and shift.moves == {0: 1, 1: 2, 2: 3}
    assert shift.before == 0 and shift.after == 1.0


def test_two_classes_exchanged_among_right_ones():
    matrix = np.array([[50, 0, 0, 0], [0, 0, 20, 0], [0, 30, 0, 0], [0, 0, 0, 10]])
    shift = find_label_shift(matrix)
    assert shift.offset is None and shift.moves == {1: 2, 2: 1}
    assert (shift.before, shift.after) == (0.5, 1.0)


def test_a_constant_prediction_is_no_shift_though_renaming_would_raise_the_score():
    matrix = np.array([[0, 90], [0, 10]])  # all predicted as the rare class
    assert find_label_shift(matrix) is None


def test_noise_is_no_shift():
    for seed in range(20):
        assert find_label_shift(np.random.default_rng(seed).integers(50, 150, (5, 6))) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_permutation_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(5)
    matrix = rng.integers(0, 10, (5, 5))
    matrix[np.arange(5), order] += 100
    shift = find_label_shift(matrix)
    iou = matrix / (matrix.sum(1)[:, None] + matrix.sum(0)[None] - matrix)
    best = max(
        np.mean([iou[t, p] for t, p in enumerate(permutation)]) for permutation in itertools.permutations(range(5))
    )
    if np.array_equal(order, np.arange(5)):
        assert shift is None
    else:
        assert shift.after == pytest.approx(best)
        assert shift.moves == {int(p): t for t, p in enumerate(order) if p != t}


def test_classes_without_truth_do_not_count():
    matrix = np.zeros((3, 3), dtype=np.int64)
    assert find_label_shift(matrix) is None
