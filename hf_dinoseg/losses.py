"""Training losses: mask classification for query heads, per-pixel losses for the linear head; both know void.

They stand in `models/loss*.py`, for they travel with a checkpoint and train it wherever it is loaded. Here is what
only a training needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .models.loss import Loss
from .models.loss_mask_classification import MaskClassificationLoss
from .models.loss_matcher import Assignment, Matcher
from .models.loss_pixel import PixelLoss
from .models.losses import LOSSES, build_loss

__all__ = [
    "LOSSES",
    "Assignment",
    "Loss",
    "MaskClassificationLoss",
    "Matcher",
    "PixelLoss",
    "balanced_class_weights",
    "build_loss",
]


def balanced_class_weights(counts: Sequence[int] | np.ndarray | Tensor) -> Tensor:
    """Weights that fall with the square root of a class's frequency (arXiv:1805.00932, section 2.2).

    They are scaled so that the weight averaged over all occurrences is 1: the loss keeps its size, and with it the
    learning rate its meaning. The root tempers them: a class a hundred times rarer weighs ten times more.

    Args:
        counts: (C,) how often each class occurs: pixels for a loss over pixels, masks for one over masks.

    Returns:
        (C,) float32; 1 for classes that never occur.

    Example:
        >>> balanced_class_weights([900, 100, 0])
        tensor([0.8333, 2.5000, 1.0000])
    """
    frequency = torch.as_tensor(counts).double()
    present = frequency > 0
    if not present.any():
        return torch.ones(len(frequency))
    roots = torch.where(present, frequency.clamp(min=1).rsqrt(), 0.0)
    weights = roots * frequency.sum() / (roots * frequency).sum()
    return torch.where(present, weights, 1.0).float()
