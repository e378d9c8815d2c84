"""Which rows an epoch is made of, where some are to be drawn more often than others."""

from __future__ import annotations

import numpy as np


class WeightedDraws:
    """Rows of an epoch by weight.

    An epoch has as many draws as the weights add up to, rounded. A row of weight w is drawn floor(w) or ceil(w) times
    in each epoch, w times on average: positions at equal steps along the summed weights, from a random start, in a
    random order of the rows (systematic sampling). The same (seed, epoch) gives the same rows, in every process.

    Args:
        weights: (N,) above 0.
        seed: 0 or more.

    Example:
        >>> draws = WeightedDraws([2.0, 1.0, 1.0])
        >>> len(draws), sorted(draws.row(position, epoch=0) for position in range(4))
        (4, [0, 0, 1, 2])
    """

    def __init__(self, weights: np.ndarray | list[float], seed: int = 0) -> None:
        self._weights = np.asarray(weights, dtype=np.float64)
        self._length = max(1, round(float(self._weights.sum())))
        self._seed = seed
        self._epoch = -1
        self._rows = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._length

    def row(self, position: int, epoch: int) -> int:
        """The row at a position of an epoch."""
        if epoch != self._epoch:
            self._rows, self._epoch = self._draw(epoch), epoch
        return int(self._rows[position])

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._weights))
        ends = np.cumsum(self._weights[order])
        steps = (rng.random() + np.arange(self._length)) * (ends[-1] / self._length)
        # rounding may leave the last step beyond the last end by one unit in the last place
        chosen: np.ndarray = order[np.minimum(np.searchsorted(ends, steps, side="right"), len(order) - 1)]
        return chosen
