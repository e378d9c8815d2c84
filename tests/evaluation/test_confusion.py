from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from hf_dinoseg.evaluation import ConfusionMatrix, confusion_matrix


def count_one_by_one(prediction: np.ndarray, truth: np.ndarray, num_labels: int, ignore_index: int) -> list[list[int]]:
    table = [[0] * (num_labels + 1) for _ in range(num_labels)]
    for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != ignore_index:
            table[t][num_labels if p == ignore_index else p] += 1
    return table


def test_hand_counted_image():
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1, 255], [2, 0, 2, 255]], dtype=np.uint8)
    expected = [[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]  # last column: no answer; the two void pixels are nowhere
    assert confusion_matrix(prediction, truth, 3, 255).tolist() == expected


@pytest.mark.parametrize(
    ("num_labels", "ignore_index", "truth_type", "prediction_type"),
    [
        (1, 255, np.uint8, np.int64),
        (4, 255, np.uint8, np.uint8),
        (11, 255, np.int64, np.int64),
        (254, 255, np.uint8, np.int32),
        (255, 255, np.uint8, np.uint8),
        (256, 65535, np.uint16, np.int64),
        (300, 65535, np.int32, np.uint16),
        (3, -1, np.int64, np.int16),
        (3, 65535, np.uint16, np.int64),
    ],
)
def test_equals_counting_one_by_one(num_labels, ignore_index, truth_type, prediction_type):
    rng = np.random.default_rng(num_labels)
    values = [*range(num_labels), ignore_index, ignore_index]
    for shape in [(1, 1), (7, 5), (2, 17, 13)]:
        truth = rng.choice(values, shape).astype(truth_type)
        prediction = rng.choice(values, shape).astype(prediction_type)
        counted = confusion_matrix(prediction, truth, num_labels, ignore_index)
        assert counted.dtype == torch.int64
        assert counted.shape == (num_labels, num_labels + 1)
        assert counted.tolist() == count_one_by_one(prediction, truth, num_labels, ignore_index)


def test_arrays_tensors_and_views_count_alike():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 5, (2, 12, 10))
    expected = confusion_matrix(prediction, truth, 5, 255)
    assert torch.equal(confusion_matrix(torch.from_numpy(prediction), truth, 5, 255), expected)
    assert torch.equal(confusion_matrix(prediction.T[::-1], truth.T[::-1], 5, 255), expected)


def test_image_that_is_all_void_counts_nothing():
    assert confusion_matrix(np.zeros((3, 3), int), np.full((3, 3), 255), 4, 255).sum() == 0
    assert confusion_matrix(np.zeros((0, 3), int), np.zeros((0, 3), int), 4, 255).sum() == 0


def test_streaming_equals_counting_at_once():
    rng = np.random.default_rng(3)
    truth, prediction = rng.choice([0, 1, 2, 255], (2, 6, 8, 9))
    stream = ConfusionMatrix(3, 255)
    for p, t in zip(prediction, truth, strict=True):
        stream.update(p, t)
    assert stream.matrix.tolist() == count_one_by_one(prediction, truth, 3, 255)


@pytest.mark.parametrize("side", ["prediction", "truth"])
@pytest.mark.parametrize(("num_labels", "ignore_index"), [(3, 255), (255, 255), (300, 65535)])
def test_values_that_are_no_train_ids_are_refused(side, num_labels, ignore_index):
    for bad in {num_labels, 256, 70000, -1} - {ignore_index}:
        if 0 <= bad < num_labels:
            continue
        maps = {"prediction": np.zeros((2, 2), np.int64), "truth": np.zeros((2, 2), np.int64)}
        maps[side][0, 1] = bad
        with pytest.raises(ValueError, match=f"{side} holds values that are no train ids"):
            confusion_matrix(maps["prediction"], maps["truth"], num_labels, ignore_index)


def test_other_misuse_says_what_is_wrong():
    with pytest.raises(ValueError, match="prediction has shape \\(2, 2\\), truth \\(4, 4\\)"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((4, 4), int), 3, 255)
    with pytest.raises(ValueError, match="take the argmax first"):
        confusion_matrix(np.zeros((2, 2)), np.zeros((2, 2), int), 3, 255)
    with pytest.raises(ValueError, match="ignore_index 0 is the train id of a class"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 2), int), 3, 0)


def test_faster_than_numpy_histogram():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 150, (512, 683)).astype(np.uint8)
    prediction = rng.integers(0, 150, (512, 683))

    def best_of(function, repeats):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return min(times)

    edges = [[0, 150], [0, 150]]
    numpy_way = best_of(lambda: np.histogram2d(truth.ravel(), prediction.ravel(), bins=150, range=edges), 3)
    ours = best_of(lambda: confusion_matrix(prediction, truth, 150, 255), 10)
    assert numpy_way > 5 * ours
