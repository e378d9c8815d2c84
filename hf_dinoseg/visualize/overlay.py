"""A label map laid over its image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import InputError
from ..labels import LabelSpace
from .palette import colorize, drawn_black, void_mask

_HATCH_DARK, _HATCH_LIGHT = (70, 70, 70), (170, 170, 170)


def overlay(image: Image.Image, original_ids: np.ndarray, label_space: LabelSpace, alpha: float = 0.5) -> Image.Image:
    """The image tinted with its classes' colours, void hatched.

    A class that is drawn black (background) leaves the image as it is: black would only darken it. The border of
    every tinted region is drawn opaque, which keeps thin and small regions visible.

    Args:
        image: RGB, of the map's size.
        original_ids: (H, W) integers.
        alpha: weight of the tint, 0 to 1.

    Raises:
        ValueError: if sizes differ, or on an id that the label space does not know.
    """
    drawn = tint(image, original_ids, label_space, alpha)
    return hatch_over(drawn, void_mask(original_ids, label_space), alpha)


def tint(image: Image.Image, original_ids: np.ndarray, label_space: LabelSpace, alpha: float = 0.5) -> Image.Image:
    """As `overlay`, void being left as it is."""
    check_size(image, original_ids, "label map")
    photo = np.asarray(image.convert("RGB"))
    clear = void_mask(original_ids, label_space)
    clear |= drawn_black(original_ids, label_space)
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


def hatch_over(image: Image.Image, is_void: np.ndarray, alpha: float = 1.0) -> Image.Image:
    """The image with stripes where it is void; wide ones on large images, which are looked at from farther away.

    Args:
        image: RGB.
        is_void: (H, W) bool.
        alpha: weight of the stripes, 0 to 1.
    """
    if not is_void.any():
        return image
    stripes = Image.fromarray(hatch(image.height, image.width, period=max(8, min(image.size) // 60)))
    return Image.composite(stripes, image, Image.fromarray((is_void * round(255 * alpha)).astype(np.uint8)))


def color_image(original_ids: np.ndarray, label_space: LabelSpace, transparent: bool = False) -> Image.Image:
    """A label map in its classes' colours, void hatched.

    Args:
        original_ids: (H, W) integers.
        transparent: classes that are drawn black (background) are clear.

    Returns:
        RGB, or RGBA if transparent.

    Raises:
        ValueError: on an id that the label space does not know.
    """
    drawn = Image.fromarray(colorize(original_ids, label_space))
    drawn = hatch_over(drawn, void_mask(original_ids, label_space))
    if transparent:
        drawn.putalpha(Image.fromarray(np.where(drawn_black(original_ids, label_space), 0, 255).astype(np.uint8)))
    return drawn


def check_size(image: Image.Image, original_ids: np.ndarray, name: str) -> None:
    if original_ids.ndim != 2 or image.size != original_ids.shape[::-1]:
        raise InputError(
            f"the {name} has shape {original_ids.shape}, the image is {image.height} high and {image.width} wide; a "
            "map of (height, width) is drawn over its own image."
        )
