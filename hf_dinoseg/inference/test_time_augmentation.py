"""Test-time augmentation: an image is predicted at several sizes, mirrored too, and the scores are averaged.

Scores are averaged as the probabilities that they are, at the size of the answer, each view with the same weight.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ..errors import InputError

_MOST_SCALES, _LARGEST_SCALE = 32, 16  # a view costs time with the square of its scale
_LARGEST_EDGE = 1 << 15  # pixels


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Attributes:
        scale: size over the image's own, or over the one at `edge`.
        flip: mirrored, left to right.
        edge: the shorter side that `scale` counts from; None for the image as it is.
        multiple: with `edge`, shorter sides of scales below 1 are rounded up to multiples of this.
    """

    scale: float = 1.0
    flip: bool = False
    edge: int | None = None
    multiple: int | None = None

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of this view of an image."""
        if self.edge is None:
            return scaled_size(height, width, self.scale)
        side = int(self.edge * self.scale)
        if self.multiple and self.scale < 1:
            side = -(-side // self.multiple) * self.multiple
        short, long = sorted((height, width))
        other = (2 * side * long + short) // (2 * short)  # to the nearest pixel, a half up, as the image processor
        return (other, side) if height > width else (side, other)

    def of(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) → (B, 3, *size(H, W)), mirrored if so; the tensor itself where nothing changes. Bilinear, with a
        wider filter for smaller sizes, as Pillow has it."""
        height, width = pixel_values.shape[-2:]
        size = self.size(height, width)
        if size != (height, width):
            pixel_values = F.interpolate(
                pixel_values.float(), size=size, mode="bilinear", align_corners=False, antialias=size[0] < height
            ).to(pixel_values.dtype)
        return pixel_values.flip(-1) if self.flip else pixel_values


def stored_size(tta: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an image processor is told where views are made of the stored image: to leave its size alone."""
    return {"do_resize": False} if tta and tta.get("shortest_edge") else {}


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width of an image at a scale; at least one pixel."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def views(tta: Mapping[str, Any] | None) -> list[View]:
    """The views that a setting asks for.

    Args:
        tta: `{"scales": [0.75, 1, 1.25], "flip": True}`, as in a recipe's `evaluation.tta` and a checkpoint's
            `config.inference`; either key may be left out. None for the image as it is. With `shortest_edge`, sizes
            count from the stored image with that shorter side, and `multiple` rounds the side of smaller ones up.

    Raises:
        ValueError: on another key, or a scale that is no number above 0, or a size that no view has.

    Example:
        >>> views({"scales": [0.5, 1], "flip": False})
        [View(scale=0.5, flip=False, edge=None, multiple=None), View(scale=1.0, flip=False, edge=None, multiple=None)]
    """
    if tta is not None and not isinstance(tta, Mapping):
        raise InputError(f"tta is {reprlib.repr(tta)}; write {{scales: [0.75, 1, 1.25], flip: true}}, or null.")
    settings = dict(tta or {})
    scales, flip = settings.pop("scales", [1.0]), settings.pop("flip", False)
    edge, multiple = settings.pop("shortest_edge", None), settings.pop("multiple", None)
    if settings:
        raise InputError(
            f"tta has no {', '.join(map(repr, settings))}; it has scales, flip, shortest_edge and multiple."
        )
    for name, value in (("shortest_edge", edge), ("multiple", multiple)):
        if value is not None and not (type(value) is int and 0 < value <= _LARGEST_EDGE):
            raise InputError(
                f"tta.{name} is {reprlib.repr(value)}; write a number of pixels from 1 to {_LARGEST_EDGE}."
            )
    several = isinstance(scales, Sequence) and 0 < len(scales) <= _MOST_SCALES
    if not several or any(not isinstance(s, (int, float)) or not 0 < s <= _LARGEST_SCALE for s in scales):
        raise InputError(
            f"tta.scales is {reprlib.repr(scales)}; write up to {_MOST_SCALES} numbers above 0, at most "
            f"{_LARGEST_SCALE}, such as [0.75, 1, 1.25]."
        )
    return [
        View(float(scale), mirrored, edge, multiple)
        for scale in scales
        for mirrored in ((False, True) if flip else (False,))
    ]
