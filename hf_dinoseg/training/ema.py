"""A running average of the weights, evaluated and saved in their stead (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all weights that learn.

    Early on the average follows more closely, so that it does not drag the random start along: the decay at step t is
    min(decay, (1 + t) / (10 + t)), as TensorFlow's ExponentialMovingAverage has it. Buffers (running statistics of
    batch norms) are averages already and are not averaged again.

    Args:
        model: the model; its weights are copied.
        decay: share of the average that a step keeps, e.g. 0.999.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().clone() for name, p in self._learning.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimiser's step number `step`, from 1."""
        kept = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in self._learning.values()], 1 - kept)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has the averaged weights; afterwards its own, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from saved averages; the names are those of `weights`."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @torch.no_grad()
    def hand_over(self) -> None:
        """Give the averaged weights to the model for good."""
        for name, parameter in self._learning.items():
            parameter.copy_(self.weights[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._learning.items():
            own = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(own)
