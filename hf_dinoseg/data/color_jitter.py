"""Photometric jitter: brightness, contrast, saturation and hue as one matrix, because all four are affine in colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

_BLOCK = 1 << 16  # pixels
_LUMA = (0.299, 0.587, 0.114)


def color_matrix(rng: np.random.Generator, hue_turn: float | None = None) -> tuple[float, ...] | None:
    """A random photometric change as a 3×4 matrix, row by row: what `change_colors` takes, and `Image.convert`.

    Each with probability one half: brightness ± 32 of 255, then contrast × 0.5 to 1.5, saturation × 0.5 to 1.5, hue
    turned by ± 18/255 of a full turn (the ranges of SSD's photometric distortion, https://arxiv.org/abs/1512.02325).
    All four are affine in RGB when saturation is measured from the luma and hue turns about the grey axis; as one
    matrix they cost one pass, and values are cut to 0..255 once, at the end.

    Args:
        hue_turn: largest turn of the hue, of a full one, in place of 18/255.

    Returns:
        12 numbers, or None when no change was drawn.
    """
    chances = [chance < 0.5 for chance in rng.random(4).tolist()]
    draws = rng.uniform(-1, 1, 4).tolist()
    if not any(chances):
        return None
    brightness, contrast, saturation, hue = (draw if drawn else 0.0 for draw, drawn in zip(draws, chances, strict=True))
    return jitter_matrix(
        brightness * 32, 1 + contrast / 2, 1 + saturation / 2, hue * 18 / 255 if hue_turn is None else hue * hue_turn
    )


def change_colors(pixels: torch.Tensor, matrix: Sequence[float]) -> torch.Tensor:
    """As `Image.convert("RGB", matrix)`, in half of its time: (3, H, W) uint8 to the same, rounded and cut to 0..255.

    Args:
        matrix: 12 numbers, as `color_matrix` draws them.
    """
    rows = torch.tensor(matrix, dtype=torch.float32).view(3, 4)
    flat = pixels.reshape(3, -1)
    changed = np.empty(flat.shape, np.uint8)
    for start in range(0, flat.shape[1], _BLOCK):  # the floats stay in the cache
        block = slice(start, start + _BLOCK)
        values = torch.addmm(rows[:, 3:] + 0.5, rows[:, :3], flat[:, block].float()).clamp_(0, 255)
        np.copyto(changed[:, block], values.numpy(), casting="unsafe")  # torch's own cast takes seven times longer
    return torch.from_numpy(changed).view(pixels.shape)


def jitter_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> tuple[float, ...]:
    """Four changes, one after the other, as a 3×4 matrix, row by row.

    In plain numbers, for whole arrays of three cost more than all their sums here.

    Args:
        brightness: added to each value.
        contrast: factor of each value.
        saturation: every colour moves to this many times its distance from the grey of the same luma (ITU-R BT.601).
        hue: full turns of RGB about the grey axis (Rodrigues); a third makes red green.
    """
    angle = 2 * math.pi * hue
    even, odd = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    same, before, after = math.cos(angle) + even, even - odd, even + odd
    matrix = []
    for turned in ((same, before, after), (after, same, before), (before, after, same)):
        # The grey that saturation moves a colour towards is left as it is by the turn that follows.
        matrix += [contrast * (saturation * t + (1 - saturation) * luma) for t, luma in zip(turned, _LUMA, strict=True)]
        matrix.append(contrast * brightness)  # a grey, which neither hue nor saturation changes
    return tuple(matrix)
