"""Which samples an epoch is made of: rows with weights, and crops about rare classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError


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


_TEMPERATURE = 0.01  # DAFormer's; a class of one per cent of all pixels more is drawn e times less often


class RareClassCrops:
    """Chooses, for a share of the training samples, a class and an image that holds it.

    Rare class sampling as DAFormer does it (Hoyer et al., https://arxiv.org/abs/2111.14887, section 3.3): a class c,
    which has the share f_c of all labelled pixels, is drawn with a probability proportional to exp((1 - f_c) / T),
    T = 0.01. Then one of the images that hold it is drawn, all with the same probability. The transform places the crop
    about one of its pixels.

    Args:
        share: of the samples that are chosen this way, 0 to 1; the others stay what they are.
        class_labels: for each image its classes.
        pixel_counts: how many pixels each of them has there.

    Raises:
        ValueError: if the share is not between 0 and 1.
    """

    def __init__(
        self, share: float, class_labels: Sequence[Sequence[int]], pixel_counts: Sequence[Sequence[int]]
    ) -> None:
        if not 0 <= share <= 1:
            raise InputError(f"share is {share}; it is a share of samples, 0 to 1.")
        self.share = share
        rows = np.repeat(np.arange(len(class_labels)), [len(labels) for labels in class_labels])
        labels = np.array([label for labels in class_labels for label in labels], dtype=np.int64)
        counts = np.array([count for counts in pixel_counts for count in counts], dtype=np.float64)
        self.classes, inverse = np.unique(labels, return_inverse=True)
        pixels = np.bincount(inverse, weights=counts, minlength=len(self.classes))
        order = np.argsort(inverse, kind="stable")
        self._rows = np.split(rows[order], np.cumsum(np.bincount(inverse, minlength=len(self.classes)))[:-1])
        shares = pixels / max(pixels.sum(), 1)
        weights = np.exp((shares.min() - shares) / _TEMPERATURE) if len(shares) else shares  # the rarest weighs 1
        self.probabilities = weights / weights.sum()
        """(C,) how often each of `classes`, the train ids that occur, is drawn."""

    def draw(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """(place of the image, train id of the class), or None for a sample that is to stay as it is."""
        if not len(self.classes) or rng.random() >= self.share:
            return None
        chosen = int(rng.choice(len(self.classes), p=self.probabilities))
        rows = self._rows[chosen]
        return int(rows[rng.integers(len(rows))]), int(self.classes[chosen])
