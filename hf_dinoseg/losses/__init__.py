"""Training losses: mask classification for query heads, per-pixel losses for the linear head; both know void.

Every loss is a `Loss`: made from a recipe's `loss` section by `LOSSES[head.loss]`, and called alike.
"""

from __future__ import annotations

from .class_weights import balanced_class_weights
from .loss import Loss
from .mask_classification import MaskClassificationLoss
from .matcher import Assignment, Matcher
from .pixel import PixelLoss

#: Losses by the name that a head gives in `Head.loss`.
LOSSES: dict[str, type[Loss]] = {"mask_classification": MaskClassificationLoss, "pixel": PixelLoss}

__all__ = [
    "LOSSES",
    "Assignment",
    "Loss",
    "MaskClassificationLoss",
    "Matcher",
    "PixelLoss",
    "balanced_class_weights",
]
