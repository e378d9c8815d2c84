"""Crops drawn for rare classes, from the pixel counts that `targets.prepare_targets` caches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError

_TEMPERATURE = 0.01  # DAFormer's; a class of one per cent of all pixels more is drawn e times less often


class RareClassCrops:
    """Chooses, for a share of the training samples, a class and an image that holds it.

    Rare class sampling as DAFormer does it (Hoyer et al., https://arxiv.org/abs/2111.14887, section 3.3): a class c,
    which has the share f_c of all labelled pixels, is drawn with a probability proportional to exp((1 - f_c) / T),
    T = 0.01, then one of the images that hold it, each alike. The transform places the crop about one of its pixels.

    Args:
        share: of samples that are chosen so, 0 to 1; the others are left as they come.
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
