"""The training transform: scale jitter, rotation, crop, flips and photometric jitter, on bytes.

Nothing is computed that the crop throws away: scale and crop are first worked out as one box in the source image, the
box is judged by its labels, and then it alone is resampled, once. Without rotation that is a resize of the box, with
rotation one affine warp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow
import torch
from PIL import Image

from ..errors import InputError
from .color_jitter import change_colors, color_matrix
from .magnification import Side, base_factor

_CROP_TRIES = 10
Matrix = tuple[float, float, float, float, float, float]
ImageSource = Image.Image | Callable[[int], Image.Image]
"""RGB, (W, H); or what reads it once it is known how many of its upper rows are wanted, and may leave off the rest."""


class Box(NamedTuple):
    """A crop, along one axis: which stretch of the source fills which pixels of the output."""

    start: int  # source pixels
    stop: int  # source pixels
    offset: int  # output pixels before the kept ones: padding
    length: int  # output pixels kept


class Sample(NamedTuple):
    """What training wants of one image."""

    pixels: torch.Tensor  # (3, S, S) uint8
    labels: torch.Tensor  # (S, S) uint8 or int32
    class_labels: np.ndarray  # (N,) int64, the classes present, ascending


class TrainTransform:
    """Augments an image and its label map together.

    Args:
        crop_size: side of the square output, pixels.
        scale: bounds of the factor that the image is scaled by, drawn uniformly. (0.1, 2.0) is the large-scale
            jitter of Ghiasi et al. (https://arxiv.org/abs/2012.07177).
        base_size: what `scale` counts from: the image with its shorter side (`base_side`: longer) of so many pixels;
            None for the image as it is.
        scale_steps: draw among so many scales, evenly spaced from the smallest to the largest; None for all between.
        max_class_share: redraw the crop's place, up to 10 times, while one class covers more than this share of its
            labelled pixels; then take the draw with the smallest such share. A crop without a labelled pixel counts
            as a share of 1 and is legal.
        flip: mirror left and right half of the time.
        vertical_flip: mirror top and bottom half of the time.
        rotation: turn by an angle drawn uniformly from -rotation to rotation, in degrees, about the crop's middle.
        photometric: brightness, contrast, saturation and hue, see `color_jitter.color_matrix`.
        hue: largest turn of the hue, of a full one; None for 18/255.
        ignore_index: written to the label map where the scaled and turned image does not fill the crop.
        padding: red, green, blue of 0 to 255 that the image is given there; None for its own mean colour.
        pad_after: an image that does not fill the crop stands in its upper left corner, mirrored or not, instead of
            anywhere.

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
        vertical_flip: bool = False,
        rotation: float = 0.0,
        base_size: int | None = None,
        base_side: Side = "shorter",
        scale_steps: int | None = None,
        hue: float | None = None,
        padding: tuple[int, int, int] | None = None,
        pad_after: bool = False,
    ) -> None:
        if crop_size < 1:
            raise InputError(f"crop_size is {crop_size}; it is a number of pixels, 1 or more.")
        if not 0 < scale[0] <= scale[1]:
            raise InputError(f"scale is {tuple(scale)}; write two factors above 0, the smaller one first: (0.5, 2.0).")
        if base_size is not None and base_size < 1:
            raise InputError(f"base_size is {base_size}; it is a number of pixels, 1 or more, or None.")
        if not 0 < max_class_share <= 1:
            raise InputError(f"max_class_share is {max_class_share}; it is a share above 0 and up to 1.")
        if not 0 <= rotation <= 180:
            raise InputError(f"rotation is {rotation}; it is the largest angle to turn by, 0 to 180 degrees.")
        self.crop_size = crop_size
        self.scale = (float(scale[0]), float(scale[1]))
        self.base_size, self.base_side = base_size, base_side
        self.scale_steps = scale_steps
        self.hue = hue
        self.padding = None if padding is None else torch.tensor(padding, dtype=torch.uint8)[:, None, None]
        self.pad_after = pad_after
        self.max_class_share = max_class_share
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.rotation = rotation
        self.photometric = photometric
        self.ignore_index = ignore_index

    def __call__(
        self, image: Image.Image, label_map: np.ndarray, rng: np.random.Generator, focus: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            image: RGB, (W, H).
            label_map: (H, W) train ids.
            rng: the only source of chance.
            focus: a class; the crop is placed about one of its pixels, drawn uniformly, which then stands in the
                middle half of the crop (nearer to the rim where the image ends). None, or a class that is not
                there, places the crop anywhere.

        Returns:
            (crop_size, crop_size, 3) uint8 pixels and (crop_size, crop_size) label map of `label_map`'s type.
        """
        sample = self.sample(image, label_map, rng, focus)
        return sample.pixels.permute(1, 2, 0).numpy(), sample.labels.numpy().astype(label_map.dtype, copy=False)

    def sample(
        self, image: ImageSource, label_map: np.ndarray, rng: np.random.Generator, focus: int | None = None
    ) -> Sample:
        """The same with channels first, and with the classes that were counted on the way."""
        if isinstance(image, Image.Image) and image.size != label_map.shape[::-1]:
            raise InputError(f"the image is {image.size} (width, height), its label map {label_map.shape[::-1]}.")
        height, width = label_map.shape
        scale = self._draw_scale(rng) * base_factor(width, height, self.base_size, self.base_side)
        angle = math.radians(rng.uniform(-self.rotation, self.rotation)) if self.rotation else 0.0
        x, y, labels, counts = self._choose_crop(label_map, scale, angle, rng, focus)
        mirrored = self.flip and rng.random() < 0.5
        upside_down = self.vertical_flip and rng.random() < 0.5
        colors = color_matrix(rng, self.hue) if self.photometric else None
        if not isinstance(image, Image.Image):
            image = image(reach(x, y, angle, self.crop_size, label_map.shape)[3] if angle else y.stop)
        pixels = self._turned(image, x, y, angle, colors) if angle else self._resized(image, x, y, colors)
        shown = label_tensor(labels)
        corner = self.pad_after and not angle
        if turned_over := [axis for axis, flipped in ((-2, upside_down), (-1, mirrored)) if flipped]:
            pixels, shown = pixels.flip(turned_over), shown.flip(turned_over)
            if corner:  # what was flipped stands in the other corner now
                moved = [{-1: x.length, -2: y.length}[axis] for axis in turned_over]
                pixels, shown = pixels.roll(moved, turned_over), shown.roll(moved, turned_over)
        return Sample(pixels, shown, np.flatnonzero(counts))

    def _draw_scale(self, rng: np.random.Generator) -> float:
        if self.scale_steps is None:
            return rng.uniform(*self.scale)
        return float(rng.choice(np.linspace(*self.scale, self.scale_steps)))

    # ------------------------------------------------------------------ where

    def _choose_crop(
        self, label_map: np.ndarray, scale: float, angle: float, rng: np.random.Generator, focus: int | None
    ) -> tuple[Box, Box, np.ndarray, np.ndarray]:
        """The boxes across and down, the labels there, and how often each class is among them."""
        height, width = label_map.shape
        best: tuple[float, Box, Box, np.ndarray, np.ndarray] | None = None
        # Where the whole image fits, other places hold the same labels.
        fits = max(width, height) * scale <= self.crop_size
        tries = 1 if fits or self.max_class_share == 1 else _CROP_TRIES
        places = np.flatnonzero(label_map == focus) if focus is not None and not fits else np.empty(0, np.intp)
        for _ in range(tries):
            row, column = divmod(int(places[rng.integers(len(places))]), width) if len(places) else (None, None)
            x, y = self._draw_box(width, scale, rng, column), self._draw_box(height, scale, rng, row)
            labels = self._labels(label_map, x, y, angle)
            counts = count_classes(labels, self.ignore_index)
            share = largest_class_share(counts) if tries > 1 else 0.0
            if best is None or share < best[0]:
                best = share, x, y, labels, counts
            if share <= self.max_class_share:
                break
        assert best is not None
        return best[1:]

    def _draw_box(self, length: int, scale: float, rng: np.random.Generator, about: int | None) -> Box:
        scaled = length * scale
        if scaled > self.crop_size:
            side = max(1, round(self.crop_size / scale))  # whole source pixels: the box is cut out before it is resized
            if about is None:
                start = int(rng.integers(length - side, endpoint=True))
            else:
                start = about - side // 2 + int(rng.integers(-(side // 4), side // 4, endpoint=True))
                start = min(max(start, 0), length - side)
            return Box(start, start + side, 0, self.crop_size)
        kept = min(self.crop_size, max(1, round(scaled)))
        offset = int(rng.integers(self.crop_size - kept, endpoint=True))
        return Box(0, length, 0 if self.pad_after else offset, kept)

    def _labels(self, label_map: np.ndarray, x: Box, y: Box, angle: float) -> np.ndarray:
        if angle:
            left, top, right, bottom = reach(x, y, angle, self.crop_size, label_map.shape)
            region = label_map[top:bottom, left:right]
            stored = Image.fromarray(region if region.dtype == np.uint8 else region.astype(np.int32))
            matrix = turn(x, y, angle, left, top)
            size = (self.crop_size, self.crop_size)
            turned = stored.transform(
                size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=self.ignore_index
            )
            return np.array(turned, dtype=label_map.dtype)
        labels = crop_nearest(label_map, x, y)
        if labels.shape == (self.crop_size, self.crop_size):
            return labels
        padded = np.full((self.crop_size, self.crop_size), self.ignore_index, dtype=labels.dtype)
        padded[y.offset : y.offset + y.length, x.offset : x.offset + x.length] = labels
        return padded

    # ------------------------------------------------------------------ pixels

    def _resized(self, image: Image.Image, x: Box, y: Box, colors: tuple[float, ...] | None) -> torch.Tensor:
        kept = box_pixels(image, x, y)
        if kept.shape[:2] != (y.length, x.length):
            kept = resize_bilinear(kept, y.length, x.length)
        pixels = kept.permute(2, 0, 1)[:3].clone(memory_format=torch.contiguous_format)
        if colors is not None:
            pixels = change_colors(pixels, colors)
        if pixels.shape[1:] == (self.crop_size, self.crop_size):
            return pixels
        padded = torch.empty((3, self.crop_size, self.crop_size), dtype=torch.uint8)
        mean = pixels.float().mean((1, 2)).round_().to(torch.uint8)[:, None, None]
        padded[:] = mean if self.padding is None else self.padding
        padded[:, y.offset : y.offset + y.length, x.offset : x.offset + x.length] = pixels
        return padded

    def _turned(
        self, image: Image.Image, x: Box, y: Box, angle: float, colors: tuple[float, ...] | None
    ) -> torch.Tensor:
        left, top, right, bottom = reach(x, y, angle, self.crop_size, (image.height, image.width))
        region = image.crop((left, top, right, bottom))
        matrix = turn(x, y, angle, left, top)
        # Bilinear looks at 2 × 2 pixels: steps of two pixels and more would skip some, so blocks are averaged first.
        factor = int(max((x.stop - x.start) / x.length, (y.stop - y.start) / y.length))
        if factor > 1:
            region = region.reduce(factor)
            matrix = tuple(value / factor for value in matrix)  # type: ignore[assignment]
        pixels = warp_bilinear(region, matrix, self.crop_size, self.padding)
        return pixels if colors is None else change_colors(pixels, colors)


def turn(x: Box, y: Box, angle: float, left: int = 0, top: int = 0) -> Matrix:
    """From places in the crop to places in the source: (a, b, c, d, e, f) with source x = a u + b v + c, y = d u + e v
    + f. Places are continuous: a pixel's middle lies at its index plus one half.

    Args:
        x, y: the boxes; the crop is turned about the middle of their kept parts.
        angle: radians.
        left, top: what the source is counted from.
    """
    step_x, step_y = (x.stop - x.start) / x.length, (y.stop - y.start) / y.length
    a, b, d, e = (
        math.cos(angle) * step_x,
        -math.sin(angle) * step_y,
        math.sin(angle) * step_x,
        math.cos(angle) * step_y,
    )
    middle_u, middle_v = x.offset + x.length / 2, y.offset + y.length / 2
    c = (x.start + x.stop) / 2 - left - a * middle_u - b * middle_v
    f = (y.start + y.stop) / 2 - top - d * middle_u - e * middle_v
    return a, b, c, d, e, f


def reach(x: Box, y: Box, angle: float, crop_size: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the source pixels that a turned crop of a (H, W) source looks at."""
    a, b, c, d, e, f = turn(x, y, angle)
    corners = [(u, v) for u in (0, crop_size) for v in (0, crop_size)]
    across, down = [a * u + b * v + c for u, v in corners], [d * u + e * v + f for u, v in corners]
    return (
        max(0, math.floor(min(across)) - 1),
        max(0, math.floor(min(down)) - 1),
        min(shape[1], math.ceil(max(across)) + 1),
        min(shape[0], math.ceil(max(down)) + 1),
    )


def box_pixels(image: Image.Image, x: Box, y: Box) -> torch.Tensor:
    """(height, width, 3 or 4) uint8 of an RGB image's box, not to be written to: what follows the third channel is
    Pillow's padding. Seen through Arrow, Pillow's own memory, where it is of one piece: up to 4 million pixels or so.
    https://pillow.readthedocs.io/en/stable/reference/arrow_support.html
    """
    try:
        whole = torch.from_dlpack(pyarrow.array(image).values).view(image.height, image.width, -1)
    except (TypeError, ValueError):
        return torch.from_numpy(np.array(image.crop((x.start, y.start, x.stop, y.stop))))
    return whole[y.start : y.stop, x.start : x.stop]


def resize_bilinear(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(H, W, C) to (height, width, C) uint8, bilinear, averaging where it shrinks: as `Image.resize`, by torch, which
    has it vectorised for four channels that lie together."""
    batch = pixels[None].permute(0, 3, 1, 2)  # in this order, or torch no longer sees how the channels lie
    resized: torch.Tensor = torch.nn.functional.interpolate(
        batch, (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0].permute(1, 2, 0)


def warp_bilinear(image: Image.Image, matrix: Matrix, size: int, padding: torch.Tensor | None = None) -> torch.Tensor:
    """(3, size, size) uint8 of an RGB image, see `turn`; places outside it get the padding (3, 1, 1), or without one
    its mean colour.

    As `Image.transform`, which cuts fractions off instead of rounding them: crops would be half a grey level darker
    than what they are cut from.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    a, b, c, d, e, f = matrix
    middles = torch.arange(size) + 0.5
    x = (a * middles + b * middles[:, None] + c) / image.width
    y = (d * middles + e * middles[:, None] + f) / image.height
    places = torch.stack((x, y), dim=-1)[None] * 2 - 1
    warped = torch.nn.functional.grid_sample(pixels, places, padding_mode="border", align_corners=False)[0]
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    if padding is None:
        padding = torch.tensor(mean_color(image), dtype=torch.uint8)[:, None, None]
    return torch.where(inside, warped.round_().to(torch.uint8), padding)


def mean_color(image: Image.Image) -> tuple[int, ...]:
    mean: tuple[int, ...] = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[assignment]
    return mean


def crop_nearest(label_map: np.ndarray, x: Box, y: Box) -> np.ndarray:
    """(y.length, x.length) labels of a box: for each output pixel the source pixel under its middle.

    The same middles as `resize_bilinear` uses, so labels and pixels stay aligned to a fraction of a pixel.
    """
    kept = label_map[y.start : y.stop, x.start : x.stop]
    if kept.shape == (y.length, x.length):
        return np.array(kept)  # whoever gets it may write to it
    rows, columns = _middles(y), _middles(x)
    if len(kept) < y.length:  # columns cost more than rows: of as few rows as may be
        return np.take(kept, columns, axis=1)[rows]
    return np.take(kept[rows], columns, axis=1)


def _middles(axis: Box) -> np.ndarray:
    """The source pixel, counted from the box's start, under the middle of each output pixel."""
    return (2 * np.arange(axis.length) + 1) * (axis.stop - axis.start) // (2 * axis.length)


def label_tensor(label_map: np.ndarray) -> torch.Tensor:
    """(H, W) uint8, or int32 for maps of more than 255 classes: torch does little with uint16."""
    return torch.from_numpy(label_map if label_map.dtype == np.uint8 else label_map.astype(np.int32))


def count_classes(labels: np.ndarray, ignore_index: int) -> np.ndarray:
    """How many pixels each train id has: (ignore_index + 1 or more,) int64, nothing at `ignore_index` itself."""
    if labels.dtype == np.uint8:
        flat = torch.from_numpy(np.ascontiguousarray(labels)).view(-1)
        counts = torch.bincount(flat, minlength=ignore_index + 1).numpy()
    else:
        counts = np.bincount(labels.ravel(), minlength=ignore_index + 1)
    counts[ignore_index] = 0
    return counts


def largest_class_share(counts: np.ndarray) -> float:
    """The share of the commonest class among labelled pixels; 1 where there are none."""
    total = counts.sum()
    return float(counts.max() / total) if total else 1.0
