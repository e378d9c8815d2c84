"""What is answered for pixels without a likely class, when label 0 has no class.

Trained with `reduce_zero_label`, or with 0 in `ignore`, a model has no output for background. Three policies:

* `none`: the best class everywhere.
* `threshold`: pixels whose best score is below a threshold get no class; they decode to the label space's void id, 0.
* `truth`: predictions and figures as with `none`, but in the images of an evaluation what the truth holds for void
  is drawn as void, and the image says so. For looking at classes only: nobody has the truth when it counts.

The cure is a class of its own: `classes: {0: background, …}` and `reduce_zero_label: false`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ..data import zero_is_void
from ..errors import InputError
from ..labels import LabelSpace
from ..models.scores import without_unlikely

Policy = Literal["none", "threshold", "truth"]


@dataclass(frozen=True)
class Background:
    """A policy, and the threshold if it has one.

    Args:
        policy: `none`, `threshold` or `truth`.
        threshold: pixels whose best score is below it get no class. Scores of mask heads are sums over queries and
            may exceed 1.

    Raises:
        ValueError: on another policy, or a threshold missing, given without need, or not above 0.

    Example:
        >>> labels, scores = torch.tensor([[0, 1]]), torch.tensor([[0.3, 0.6]])
        >>> Background("threshold", 0.5).apply(labels, scores, ignore_index=255)
        tensor([[255,   1]])
    """

    policy: Policy = "none"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise InputError(f"background is {self.policy!r}; it is one of {', '.join(get_args(Policy))}.")
        if (self.policy == "threshold") != (self.threshold is not None):
            raise InputError(
                f"background is {self.policy!r} with the threshold {self.threshold}; `threshold` needs one, the others "
                "take none. `dinoseg calibrate` finds it and stores it in the checkpoint."
            )
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold > 0):
            raise InputError(f"background threshold {self.threshold}: it must be a number above 0, as scores are.")

    @classmethod
    def resolve(
        cls, policy: Policy | None = None, threshold: float | None = None, stored: float | None = None
    ) -> Background:
        """What was asked for, completed by the threshold that a checkpoint holds.

        Args:
            policy: None follows from the threshold: `threshold` if there is one, else `none`.
            threshold: the one asked for; it wins over the stored one.
            stored: the checkpoint's (`config.background_threshold`), None if it has none.

        Raises:
            ValueError: as the class; also for a threshold beside a policy that uses none.
        """
        if policy in ("none", "truth") and threshold is not None:
            return cls(policy, threshold)  # raises: the two contradict each other
        chosen = stored if threshold is None else threshold
        policy = policy or ("none" if chosen is None else "threshold")
        return cls(policy, chosen if policy == "threshold" else None)

    def apply(self, labels: torch.Tensor, scores: torch.Tensor, ignore_index: int) -> torch.Tensor:
        """The answer: train ids, `ignore_index` for no class.

        Args:
            labels: train ids of any shape, the best class of each pixel.
            scores: its score, of the same shape.
        """
        return without_unlikely(labels, scores, self.threshold, ignore_index)

    def drawn(self, labels: torch.Tensor, truth: torch.Tensor, ignore_index: int) -> torch.Tensor:
        """The answer as it is drawn beside the truth. With policy `truth`, it is void where the truth is void."""
        return labels.masked_fill(truth == ignore_index, ignore_index) if self.policy == "truth" else labels

    def caption(self, label_space: LabelSpace) -> str:
        """What an image says of its background: nothing where background is a class like others, or none exists."""
        if self.policy == "none" and not zero_is_void(label_space):
            return ""
        if self.policy == "threshold":
            return f"no class below score {self.threshold:.3g}"
        return "background from the truth" if self.policy == "truth" else "best class everywhere"
