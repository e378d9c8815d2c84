"""From pictures to label maps: the one path that evaluation in training, the command line and `Segmenter` share.

Two modes. *whole*: the model sees the picture at once. *slide*: it sees windows, and where windows overlap the class
probabilities are averaged. Device, dtype and autocast are the caller's: pictures are predicted where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from ..models.semantic import semantic_labels_and_scores, semantic_scores

Mode = Literal["whole", "slide"]
Size = tuple[int, int]

DEFAULT_WINDOW = 512
_CLASSES_AT_ONCE = 8  # when scores are resized


def window_positions(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side of a picture.

    They stand `stride` apart from 0 on; the last is moved back to end with the picture. A window longer than the
    picture shrinks to it and starts at 0.

    Raises:
        ValueError: if a number is below 1, or if windows farther apart than they are long would leave gaps.

    Example:
        >>> window_positions(10, window=4, stride=3), window_positions(11, window=4, stride=3)
        ([0, 3, 6], [0, 3, 6, 7])
    """
    if min(length, window, stride) < 1:
        raise ValueError(f"length {length}, window {window} and stride {stride} must all be at least 1.")
    if stride > window:
        raise ValueError(f"stride {stride} is larger than window {window}: pixels between windows would be left out.")
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def resolve_window(mode: str, window: int | None, stride: int | None) -> tuple[int, int]:
    """Window and stride, with defaults: 512, and two thirds of the window.

    Raises:
        ValueError: on an unknown mode, or a window and stride that leave gaps.
    """
    if mode not in ("whole", "slide"):
        raise ValueError(f"inference mode {mode!r} is not known; it is one of whole, slide.")
    window = DEFAULT_WINDOW if window is None else window
    stride = max(1, 2 * window // 3) if stride is None else stride
    window_positions(1, window, stride)
    return window, stride


@torch.inference_mode()
def predict_scores(
    model: nn.Module,
    pixel_values: torch.Tensor,
    mode: Mode = "whole",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> torch.Tensor:
    """Class scores of every pixel, at the pictures' own size.

    Args:
        model: returns an output that `models.semantic` reads; in evaluation mode.
        pixel_values: (B, 3, H, W), normalised, on the model's device.
        mode: `whole` or `slide`.
        window: side of a window in pixels; 512 if None.
        stride: distance of windows in pixels; two thirds of the window if None.
        batch_size: windows that the model sees at once. They are taken across positions and pictures.

    Returns:
        (B, C, H, W) float32 scores; see `models.semantic.semantic_scores` for their scale.

    Raises:
        ValueError: on an unknown mode, or a window and stride that leave gaps.
    """
    window, stride = resolve_window(mode, window, stride)
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    if mode == "whole":
        return semantic_scores(model(pixel_values=pixel_values), size)
    height, width = min(window, size[0]), min(window, size[1])
    tops, lefts = window_positions(size[0], window, stride), window_positions(size[1], window, stride)
    places = [(b, top, left) for b in range(len(pixel_values)) for top in tops for left in lefts]
    total: torch.Tensor | None = None
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        crops = torch.stack([pixel_values[b, :, y : y + height, x : x + width] for b, y, x in chosen])
        outputs = model(pixel_values=crops)
        # Scores of one window at a time: those of a batch, each with its classes and queries at full resolution,
        # would need many times the memory of the sum.
        for output, (b, y, x) in zip(_one_by_one(outputs), chosen, strict=True):
            scores = semantic_scores(output, (height, width))[0]
            if total is None:
                total = scores.new_zeros((len(pixel_values), len(scores), *size))
            total[b, :, y : y + height, x : x + width] += scores
    assert total is not None  # window_positions never returns an empty list
    return total.div_(_coverage(tops, height, size[0], total)[:, None] * _coverage(lefts, width, size[1], total))


@torch.inference_mode()
def predict_label_map(
    model: nn.Module,
    pixel_values: torch.Tensor,
    target_size: Size | None = None,
    mode: Mode = "whole",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> torch.Tensor:
    """The best class of every pixel.

    Args:
        pixel_values: (3, H, W) or (B, 3, H, W), normalised, on the model's device.
        target_size: (H0, W0) of the label map, usually the size of the photograph before any resizing; scores are
            resized to it (bilinear) before the best class is taken. (H, W) if None.

    The other arguments, and the errors, are those of `predict_scores`.

    Returns:
        (B, H0, W0) int64 train ids; B is 1 for a picture without a batch dimension.
    """
    return predict_best(model, pixel_values, target_size, mode, window, stride, batch_size)[0]


@torch.inference_mode()
def predict_best(
    model: nn.Module,
    pixel_values: torch.Tensor,
    target_size: Size | None = None,
    mode: Mode = "whole",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `predict_label_map`, with the score of each pixel's best class.

    The scores of all classes are never held at the target size. In whole mode the model's maps go straight to it.

    Returns:
        (B, H0, W0) int64 train ids, and (B, H0, W0) float32 scores.
    """
    if pixel_values.ndim == 3:
        pixel_values = pixel_values[None]
    size = target_size or (pixel_values.shape[-2], pixel_values.shape[-1])
    if mode == "slide":
        return _best_of_resized(predict_scores(model, pixel_values, mode, window, stride, batch_size), size)
    resolve_window(mode, window, stride)
    return semantic_labels_and_scores(model(pixel_values=pixel_values), size)


def _best_of_resized(scores: torch.Tensor, size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Best class and its score at another size, a few classes at a time; of equal scores the lower class wins."""
    if scores.shape[-2:] == tuple(size):
        best, labels = scores.max(dim=1)
        return labels, best
    labels = best = torch.empty(0)
    for first in range(0, scores.shape[1], _CLASSES_AT_ONCE):
        some = scores[:, first : first + _CLASSES_AT_ONCE]
        some = F.interpolate(some, size=size, mode="bilinear", align_corners=False)
        highest, winner = some.max(dim=1)
        if first == 0:
            labels, best = winner, highest
        else:
            labels = torch.where(highest > best, winner + first, labels)
            best = torch.maximum(highest, best)
    return labels, best


def _one_by_one(outputs: Any) -> Iterator[SimpleNamespace]:
    """The output of each picture of a batch, as that of a batch of one: what `models.semantic` reads of it."""
    names = ("class_queries_logits", "masks_queries_logits", "logits")
    parts = {name: values for name in names if (values := getattr(outputs, name, None)) is not None}
    for rows in zip(*(values.split(1) for values in parts.values()), strict=True):
        yield SimpleNamespace(**dict(zip(parts, rows, strict=True)))


def _coverage(positions: list[int], window: int, length: int, like: torch.Tensor) -> torch.Tensor:
    """(length,) how many windows cover each pixel along one side."""
    counts = torch.zeros(length)
    for start in positions:
        counts[start : start + window] += 1
    return counts.to(like)
