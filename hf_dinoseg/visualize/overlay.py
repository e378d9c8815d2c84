"""A label map laid over its photograph."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..labels import LabelSpace
from .palette import class_colors, colorize, void_mask

_HATCH_DARK, _HATCH_LIGHT = (70, 70, 70), (170, 170, 170)


def overlay(image: Image.Image, original_ids: np.ndarray, label_space: LabelSpace, alpha: float = 0.5) -> Image.Image:
    """The photograph tinted with its classes' colours.

    A class that is drawn black (background) and void leave the photograph as it is: black would only darken it. The
    border of every tinted region is drawn opaque, which keeps thin and small regions visible.

    Args:
        image: RGB, of the map's size.
        original_ids: (H, W) integers.
        alpha: weight of the tint, 0 to 1.

    Raises:
        ValueError: if sizes differ, or on an id that the label space does not know.
    """
    check_size(image, original_ids, "label map")
    photo = np.asarray(image.convert("RGB"))
    clear = void_mask(original_ids, label_space)
    clear |= np.isin(original_ids, [i for i, color in class_colors(label_space).items() if not any(color)])
    weight = np.where(region_borders(original_ids), max(alpha, min(1.0, 2 * alpha)), alpha)
    weight[clear] = 0
    tinted = photo + weight[..., None] * (colorize(original_ids, label_space).astype(np.float32) - photo)
    return Image.fromarray(tinted.round().astype(np.uint8))


def region_borders(original_ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour has another id."""
    border = np.zeros(original_ids.shape, dtype=bool)
    border[:, :-1] = original_ids[:, :-1] != original_ids[:, 1:]
    border[:-1] |= original_ids[:-1] != original_ids[1:]
    return border


def hatch(height: int, width: int, period: int = 8) -> np.ndarray:
    """(H, W, 3) uint8: the diagonal stripes that mean void. Their mean is near the void grey."""
    stripe = (np.arange(height)[:, None] + np.arange(width)[None, :]) % period < period // 2
    return np.array([_HATCH_LIGHT, _HATCH_DARK], dtype=np.uint8)[stripe.astype(np.intp)]


def check_size(image: Image.Image, original_ids: np.ndarray, name: str) -> None:
    if original_ids.ndim != 2 or image.size != original_ids.shape[::-1]:
        raise ValueError(
            f"the {name} has shape {original_ids.shape}, the image is {image.height} high and {image.width} wide; a "
            "map of (height, width) is drawn over its own image."
        )
