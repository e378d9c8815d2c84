"""What every loss is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn


class Loss(nn.Module):
    """A loss that is exact however a batch is spread over accumulation steps and processes.

    What it divides by is known before the forward pass and adds up::

        counts = sum(loss.counts(batch, num_queries) for batch in accumulation_steps)
        counts = all_reduce_sum(counts)                      # only when distributed
        for batch in accumulation_steps:
            terms = loss(model(batch["pixel_values"]), **loss.targets(batch), normalizers=counts, replicas=world_size)
            terms["loss"].backward()                         # not divided by the number of accumulation steps

    Attributes:
        settings: `{field of a recipe's loss section: argument}` of what its constructor takes besides `num_labels`,
            `ignore_index` and `class_weights`.
        counted: what `per_class_weights: auto` counts: `masks` or `pixels`.
    """

    settings: ClassVar[Mapping[str, str]]
    counted: ClassVar[Literal["masks", "pixels"]]

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `forward` that a batch of `data.expand_batch` holds."""
        raise NotImplementedError

    def counts(self, batch: Mapping[str, Any], num_queries: int) -> Tensor:
        """What a batch adds to the divisors of the loss: (2,) float32.

        Args:
            batch: as `data.collate` or `data.expand_batch` make it.
            num_queries: queries per image.
        """
        raise NotImplementedError


__all__ = ["Loss"]
