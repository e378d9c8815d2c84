"""Training losses: mask classification for query heads, per-pixel losses for the linear head; both know void.

Both losses are called alike, `loss(outputs, ..., normalizers=..., replicas=...)`, return a dict with "loss", and have a
`normalizers(...)` method: additive counts, known before the forward pass, that make one loss exact over accumulation
steps and processes (see `MaskClassificationLoss`).
"""

from __future__ import annotations

from .class_weights import balanced_class_weights
from .mask_classification import MaskClassificationLoss
from .matcher import Assignment, Matcher
from .pixel import PixelLoss

__all__ = ["Assignment", "MaskClassificationLoss", "Matcher", "PixelLoss", "balanced_class_weights"]
