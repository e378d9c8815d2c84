"""Weighted draws against what weights promise."""

from __future__ import annotations

import numpy as np
import pytest

from hf_dinoseg.data.sampling import WeightedDraws


def epoch_counts(weights: list[float], epoch: int, seed: int = 0) -> np.ndarray:
    draws = WeightedDraws(weights, seed)
    return np.bincount([draws.row(i, epoch) for i in range(len(draws))], minlength=len(weights))


@pytest.mark.parametrize("weights", [[2.0, 1.0, 3.0], [0.5] * 6, [0.25] * 4 + [1.5] * 4, [1.0] * 5])
def test_each_epoch_draws_a_row_its_weight_rounded_down_or_up(weights: list[float]) -> None:
    for epoch in range(20):
        counts = epoch_counts(weights, epoch)
        assert counts.sum() == round(sum(weights))
        assert (np.floor(weights) <= counts).all() and (counts <= np.ceil(weights)).all()


def test_over_many_epochs_rows_are_drawn_by_their_weights() -> None:
    weights = [0.2, 0.7, 1.3, 2.0, 0.8]
    mean = np.mean([epoch_counts(weights, epoch) for epoch in range(2000)], axis=0)
    assert mean == pytest.approx(weights, abs=0.05)  # 4 standard errors of a coin thrown 2000 times


def test_a_sum_that_is_no_whole_number_keeps_the_proportions() -> None:
    weights = [0.4] * 3 + [0.8] * 3  # 3.6 draws an epoch: 4, each row a ninth more often
    mean = np.mean([epoch_counts(weights, epoch) for epoch in range(2000)], axis=0)
    assert mean == pytest.approx([4 / 9] * 3 + [8 / 9] * 3, abs=0.05)


def test_draws_follow_from_seed_and_epoch() -> None:
    weights = [0.5] * 40
    one, other = WeightedDraws(weights, seed=1), WeightedDraws(weights, seed=1)
    [one.row(i, 0) for i in range(20)]
    assert [one.row(i, 7) for i in range(20)] == [other.row(i, 7) for i in range(20)]
    assert [one.row(i, 7) for i in range(20)] != [one.row(i, 8) for i in range(20)]
    assert [one.row(i, 7) for i in range(20)] != [WeightedDraws(weights, seed=2).row(i, 7) for i in range(20)]
