"""Pictures shown to the model together: windows of several share a batch where that gains something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from .sliding_window import predict_best
from .windows import Size, resolve_window


def pixels_at_once(device: torch.device, batch_size: int, window: int) -> int:
    """Up to how many pixels pictures of one size are shown together: a batch of windows on an accelerator; none beyond
    the first picture on a processor, where batches gain nothing and cost memory."""
    return 0 if device.type == "cpu" else batch_size * window**2


def predict_pictures(
    model: nn.Module,
    pictures: Sequence[torch.Tensor],
    sizes: Sequence[Size],
    at_once: int | None = None,
    **inference: Any,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Label map and best scores of each picture, in order; neighbours of one size are shown to the model together.

    Args:
        model: as for `predict_best`.
        pictures: (3, h, w) each, normalised, on the model's device.
        sizes: (H, W) of each answer.
        at_once: pixels that are shown together at most, one picture at least; see `pixels_at_once`.
        inference: `mode`, `window`, … of `predict_best`.

    Yields:
        (H, W) int64 train ids, and (H, W) float32 scores.
    """
    if at_once is None and pictures:
        window = resolve_window(inference.get("mode", "whole"), inference.get("window"), inference.get("stride"))[0]
        at_once = pixels_at_once(pictures[0].device, inference.get("batch_size", 8), window)
    for (shape, size), group in groupby(zip(pictures, sizes, strict=True), key=lambda pair: (pair[0].shape, pair[1])):
        alike = [picture for picture, _ in group]
        count = max(1, (at_once or 0) // (shape[-2] * shape[-1]))
        for start in range(0, len(alike), count):
            some = torch.stack(alike[start : start + count])
            yield from zip(*predict_best(model, some, size, **inference), strict=True)


__all__ = ["pixels_at_once", "predict_pictures"]
