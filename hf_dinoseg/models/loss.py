"""What every loss is, and what it is told of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
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
    ignore_index: int

    @property
    def class_weights(self) -> Tensor:
        """(C,) weights of the classes."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Its settings as `DinoSegConfig.loss` keeps them, by the names of the constructor's arguments."""
        settings = {argument: getattr(self, argument) for argument in self.settings.values()}
        weights = self.class_weights
        return settings if bool((weights == 1).all()) else {**settings, "class_weights": weights.tolist()}

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `forward` that follow from a batch.

        Args:
            batch: `labels` (B, H, W) train ids, or `mask_labels` and `class_labels`, or all of them.
        """
        raise NotImplementedError

    def counts(self, batch: Mapping[str, Any], num_queries: int) -> Tensor:
        """What a batch adds to the divisors of the loss: (2,) float32.

        Args:
            batch: as for `targets`; `mask_labels` are not needed where there are `labels`.
            num_queries: queries per image.
        """
        raise NotImplementedError


def classes_present(labels: Tensor, ignore_index: int) -> list[Tensor]:
    """The classes in each of (B, H, W) label maps of train ids: B of (N_i,) int64, ascending, void left out."""
    found = [label_map.long().unique() for label_map in labels]
    return [classes[classes != ignore_index] for classes in found]


def class_masks(label_map: Tensor, class_labels: Tensor) -> Tensor:
    """One mask for each class. Masks are made nowhere else.

    Args:
        label_map: (H, W) train ids of any integer type, on any device.
        class_labels: (N,) int64 classes that occur, on the same device; void is not among them.

    Returns:
        `mask_labels` (N, H, W) bool.

    Example:
        >>> label_map = torch.tensor([[0, 2], [2, 255]])
        >>> class_masks(label_map, torch.tensor([0, 2])).int()[1]
        tensor([[0, 1],
                [1, 0]], dtype=torch.int32)
    """
    return label_map[None] == class_labels[:, None, None].to(label_map.dtype)


def label_maps(mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor], ignore_index: int) -> Tensor:
    """The inverse of `class_masks`: (B, H, W) int64 train ids of masks that do not overlap. A pixel in no mask is void.

    Raises:
        ValueError: if masks of different classes overlap.
    """
    maps = []
    for image, (masks, classes) in enumerate(zip(mask_labels, class_labels, strict=True)):
        labels = torch.full(masks.shape[-2:], ignore_index, dtype=torch.int64, device=masks.device)
        for mask, label in zip(masks.bool(), classes, strict=True):
            if taken := int((mask & (labels != ignore_index) & (labels != label)).sum()):
                raise ValueError(
                    f"mask_labels[{image}]: masks of different classes overlap in {taken} pixels; this loss wants one "
                    "class for each pixel."
                )
            labels = torch.where(mask, label, labels)
        maps.append(labels)
    return torch.stack(maps)


__all__ = ["Loss", "class_masks", "classes_present", "label_maps"]
