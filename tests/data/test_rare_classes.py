"""Crops for rare classes: how often, for which class, of which image."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from hf_dinoseg.data import RareClassCrops

# class 0 in every image and 96 % of all pixels, class 4 in two, class 7 in one; one image is void
LABELS = [[0], [0, 4], [], [0, 4, 7]]
COUNTS = [[5000], [2400, 150], [], [2200, 50, 200]]


def test_classes_are_drawn_by_their_rarity_and_images_alike() -> None:
    crops = RareClassCrops(1.0, LABELS, COUNTS)
    pixels = {0: 9600, 4: 200, 7: 200}
    weights = {c: math.exp((1 - n / 10000) / 0.01) for c, n in pixels.items()}
    assert crops.classes.tolist() == [0, 4, 7]
    assert np.allclose(crops.probabilities, [w / sum(weights.values()) for w in weights.values()])
    rng = np.random.default_rng(0)
    drawn = Counter(crops.draw(rng) for _ in range(2000))
    assert set(drawn) == {(1, 4), (3, 4), (3, 7)}
    assert 900 < drawn[(3, 7)] < 1100 and 400 < drawn[(1, 4)] < 600


def test_a_class_that_is_less_rare_is_drawn_less_often() -> None:
    crops = RareClassCrops(1.0, [[0, 1, 2]], [[50, 51, 99]])
    assert crops.probabilities[0] / crops.probabilities[1] == pytest.approx(math.e ** (1 / 200 / 0.01))
    assert crops.probabilities.argmin() == 2


def test_the_share_of_samples_and_the_generator_decide() -> None:
    crops = RareClassCrops(0.25, LABELS, COUNTS)
    drawn = [crops.draw(np.random.default_rng([0, i])) for i in range(800)]
    assert 150 < sum(d is not None for d in drawn) < 250
    assert drawn == [crops.draw(np.random.default_rng([0, i])) for i in range(800)]
    assert all(RareClassCrops(0.0, LABELS, COUNTS).draw(np.random.default_rng(i)) is None for i in range(50))


def test_a_set_without_a_labelled_pixel_and_a_share_that_is_none() -> None:
    assert RareClassCrops(1.0, [[], []], [[], []]).draw(np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="share is 2"):
        RareClassCrops(2, LABELS, COUNTS)
