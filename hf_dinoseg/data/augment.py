"""The training transform: scale jitter, crop, flip and photometric jitter, on bytes.

Nothing is computed that the crop throws away: the scale and the crop are first worked out as one box in the source
picture, and only that box is resized. The four photometric changes are affine in colour, so they are one matrix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

_CROP_TRIES = 10


class Box(NamedTuple):
    """A crop, along one axis: which stretch of the source fills which pixels of the output."""

    start: float  # source pixels
    stop: float  # source pixels
    offset: int  # output pixels before the kept ones: padding
    length: int  # output pixels kept


class TrainTransform:
    """Augments a picture and its label map together.

    Args:
        crop_size: side of the square output, pixels.
        scale: bounds of the factor that the picture is scaled by, drawn uniformly.
        max_class_share: redraw the crop's place, up to 10 times, while one class covers more than this share of its
            labelled pixels; then take the draw with the smallest such share. A crop without a labelled pixel counts
            as a share of 1 and is legal.
        flip: mirror left and right half of the time.
        photometric: brightness, contrast, saturation and hue, see `color_matrix`.
        ignore_index: written to the label map where the scaled picture does not fill the crop; the picture is given
            its own mean colour there.

    Example:
        >>> transform = TrainTransform(crop_size=4, scale=(1, 1), photometric=False, flip=False)
        >>> label_map = np.arange(16, dtype=np.uint8).reshape(4, 4)
        >>> pixels, labels = transform(Image.new("RGB", (4, 4), (9, 9, 9)), label_map, np.random.default_rng(0))
        >>> pixels.shape, bool((labels == label_map).all())
        ((4, 4, 3), True)
    """

    def __init__(
        self,
        crop_size: int,
        scale: tuple[float, float] = (0.5, 2.0),
        max_class_share: float = 0.75,
        flip: bool = True,
        photometric: bool = True,
        ignore_index: int = 255,
    ) -> None:
        if crop_size < 1:
            raise ValueError(f"crop_size is {crop_size}; it is a number of pixels, 1 or more.")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale is {tuple(scale)}; write two factors above 0, the smaller one first: (0.5, 2.0).")
        if not 0 < max_class_share <= 1:
            raise ValueError(f"max_class_share is {max_class_share}; it is a share above 0 and up to 1.")
        self.crop_size = crop_size
        self.scale = (float(scale[0]), float(scale[1]))
        self.max_class_share = max_class_share
        self.flip = flip
        self.photometric = photometric
        self.ignore_index = ignore_index

    def __call__(
        self, image: Image.Image, label_map: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            image: RGB, (W, H).
            label_map: (H, W) train ids.
            rng: the only source of chance.

        Returns:
            (crop_size, crop_size, 3) uint8 pixels and (crop_size, crop_size) label map of `label_map`'s type.
        """
        if image.size != label_map.shape[::-1]:
            raise ValueError(f"the picture is {image.size} (width, height), its label map {label_map.shape[::-1]}.")
        scale = rng.uniform(*self.scale)
        x, y, labels = self._choose_crop(label_map, scale, rng)
        size = (x.length, y.length)
        box = (x.start, y.start, x.stop, y.stop)
        if box == (0, 0, *image.size) and size == image.size:
            kept = image
        else:
            kept = image.resize(size, Image.Resampling.BILINEAR, box=box)
        if self.flip and rng.random() < 0.5:
            kept, labels = kept.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1]
        if self.photometric and (matrix := color_matrix(rng)) is not None:
            kept = kept.convert("RGB", matrix)
        if size == (self.crop_size, self.crop_size):
            return np.asarray(kept), np.ascontiguousarray(labels)
        return self._pad(kept, labels, x.offset, y.offset)

    def _choose_crop(
        self, label_map: np.ndarray, scale: float, rng: np.random.Generator
    ) -> tuple[Box, Box, np.ndarray]:
        height, width = label_map.shape
        best: tuple[float, Box, Box, np.ndarray] | None = None
        # Where the whole picture fits, other places hold the same labels.
        tries = _CROP_TRIES if max(width, height) * scale > self.crop_size and self.max_class_share < 1 else 1
        for _ in range(tries):
            x, y = self._draw_box(width, scale, rng), self._draw_box(height, scale, rng)
            labels = crop_nearest(label_map, x, y)
            share = largest_class_share(labels, self.ignore_index) if tries > 1 else 0.0
            if best is None or share < best[0]:
                best = share, x, y, labels
            if share <= self.max_class_share:
                break
        assert best is not None
        return best[1:]

    def _draw_box(self, length: int, scale: float, rng: np.random.Generator) -> Box:
        scaled = length * scale
        if scaled > self.crop_size:
            # Whole pixels of the scaled picture: the same pixels as resizing everything and then cropping.
            start = int(rng.integers(math.floor(scaled) - self.crop_size, endpoint=True)) / scale
            return Box(start, min(start + self.crop_size / scale, length), 0, self.crop_size)
        kept = min(self.crop_size, max(1, round(scaled)))
        return Box(0, length, int(rng.integers(self.crop_size - kept, endpoint=True)), kept)

    def _pad(self, kept: Image.Image, labels: np.ndarray, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
        mean = kept.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        pixels = Image.new("RGB", (self.crop_size, self.crop_size), mean)
        pixels.paste(kept, (left, top))
        padded = np.full((self.crop_size, self.crop_size), self.ignore_index, dtype=labels.dtype)
        padded[top : top + kept.height, left : left + kept.width] = labels
        return np.asarray(pixels), padded


def crop_nearest(label_map: np.ndarray, x: Box, y: Box) -> np.ndarray:
    """(y.length, x.length) labels of a box: for each output pixel the source pixel under its centre.

    The same centres as `Image.resize(box=...)` uses, so labels and pixels stay aligned to a fraction of a pixel.
    """
    columns, rows = _centres(x), _centres(y)
    return np.take(label_map[rows], columns, axis=1)


def _centres(axis: Box) -> np.ndarray:
    step = (axis.stop - axis.start) / axis.length
    positions = np.floor(axis.start + (np.arange(axis.length) + 0.5) * step).astype(np.intp)
    return np.clip(positions, math.floor(axis.start), math.ceil(axis.stop) - 1)


def largest_class_share(labels: np.ndarray, ignore_index: int) -> float:
    """The share of the commonest class among labelled pixels; 1 where there are none."""
    counts = np.bincount(labels.ravel(), minlength=ignore_index + 1)
    counts[ignore_index] = 0
    total = counts.sum()
    return float(counts.max() / total) if total else 1.0


def color_matrix(rng: np.random.Generator) -> tuple[float, ...] | None:
    """A random photometric change as the 3×4 matrix, row by row, of `Image.convert("RGB", matrix)`.

    Each with probability one half: brightness ± 32 of 255, then contrast × 0.5 to 1.5, saturation × 0.5 to 1.5, hue
    turned by ± 18/255 of a full turn (the ranges of SSD's photometric distortion, https://arxiv.org/abs/1512.02325).
    All four are affine in RGB when saturation is measured from the luma and hue turns about the grey axis; as one
    matrix they cost one pass, and values are cut to 0..255 once, at the end.

    Returns:
        12 numbers, or None when no change was drawn.
    """
    chances = rng.random(4) < 0.5
    draws = rng.uniform(-1, 1, 4)
    if not chances.any():
        return None
    brightness, contrast, saturation, hue = np.where(chances, draws, 0.0)
    linear = hue_matrix(hue * 18 / 255) @ saturation_matrix(1 + saturation / 2) * (1 + contrast / 2)
    offset = linear @ np.full(3, brightness * 32)
    return tuple(float(v) for v in np.column_stack([linear, offset]).ravel())


def saturation_matrix(factor: float) -> np.ndarray:
    """3×3: every colour moved to `factor` times its distance from the grey of the same luma (ITU-R BT.601)."""
    luma = np.array([0.299, 0.587, 0.114])
    return factor * np.eye(3) + (1 - factor) * np.outer(np.ones(3), luma)


def hue_matrix(turn: float) -> np.ndarray:
    """3×3: rotation of RGB about the grey axis by `turn` full turns (Rodrigues); a third makes red green."""
    angle = 2 * math.pi * turn
    even, odd = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    same, before, after = math.cos(angle) + even, even - odd, even + odd
    return np.array([[same, before, after], [after, same, before], [before, after, same]])
