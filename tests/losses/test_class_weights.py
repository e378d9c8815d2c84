import math

import pytest
import torch

from hf_dinoseg.losses import balanced_class_weights


def test_weights_fall_with_the_root_of_the_frequency_and_keep_the_loss_s_size():
    counts = [900, 100, 0, 9]
    weights = balanced_class_weights(counts)
    assert weights[2] == 1
    assert weights[1] / weights[0] == pytest.approx(math.sqrt(900 / 100))
    assert weights[3] / weights[0] == pytest.approx(math.sqrt(900 / 9))
    mean = sum(c * w for c, w in zip(counts, weights.tolist(), strict=True)) / sum(counts)
    assert mean == pytest.approx(1)


def test_without_any_count_all_weights_are_one():
    assert torch.equal(balanced_class_weights([0, 0]), torch.ones(2))
