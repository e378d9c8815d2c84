"""From images to label maps: the one path that evaluation in training, the command line and `Segmenter` share.

Two modes. *whole*: the model sees the image at once. *slide*: it sees windows, and where windows overlap the class
probabilities are averaged. Either way scores are computed a few rows at a time, at the size of the answer. All classes'
scores of an image are held only if they are asked for. Images are predicted where they lie, in the model's own dtype
unless autocast is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol, TypedDict

import torch
from torch import nn
from torch.nn import functional as F
from typing_extensions import Unpack

from ..errors import InputError
from ..models.scores import ScoreMap, rows_per_strip
from .test_time_augmentation import views
from .windows import Autocast, Blend, Join, Mode, Size, WindowScores, check_join, resolve_window, with_autocast

#: the largest image that whole mode takes: 4096 × 4096
WHOLE_MAX_PIXELS = 1 << 24


class RowScores(Protocol):
    """Something that gives class scores for rows, asked from top to bottom."""

    @property
    def row_values(self) -> int:
        """The most values of one image that are held for each row while rows are computed."""
        ...

    def rows(self, top: int, bottom: int) -> torch.Tensor:
        """(B, C, bottom - top, W) float32."""
        ...


def as_input(pixel_values: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Pixel values on the device and in the type in which a model takes them. The type is its `dtype` if it has one,
    as transformers' models do: not all of its weights need be of it."""
    parameter = next(model.parameters())
    dtype: Any = getattr(model, "dtype", parameter.dtype)
    return pixel_values.to(device=parameter.device, dtype=dtype)


class Inference(TypedDict, total=False):
    """How images are predicted. A recipe's `evaluation` section has these fields, and a checkpoint's `config.inference`
    keeps them.

    Attributes:
        mode: `whole` (the default) or `slide`.
        window: side of a window in pixels; 512 if None.
        stride: distance of windows in pixels; two thirds of the window if None.
        batch_size: windows that the model sees at once, 8 by default, taken across positions and images.
        blend: how overlapping windows are averaged: `mean` (the default), or `smooth` for weights that fade towards
            their borders.
        even_windows: windows are spread evenly over each side; see `windows.window_positions`.
        join: what overlapping windows are averaged as. `scores` (the default): probabilities. `logits`: what comes
            before the last soft-max (of mask heads the scores themselves, which have none); each view goes through a
            soft-max once it is at the size of the answer, as in DINOv3's evaluations.
        tta: sizes and mirror images that are averaged; see `test_time_augmentation.views`.
        autocast: the model runs under `torch.autocast` in this type, `bfloat16` or `float16`; None for its own.
    """

    mode: Mode
    window: int | None
    stride: int | None
    batch_size: int
    blend: Blend
    even_windows: bool
    join: Join
    tta: Mapping[str, Any] | None
    autocast: Autocast | None


@torch.inference_mode()
def predict_scores(
    model: nn.Module,
    pixel_values: torch.Tensor,
    target_size: Size | None = None,
    output_device: torch.device | str | None = None,
    **inference: Unpack[Inference],
) -> torch.Tensor:
    """Class scores of every pixel.

    Args:
        model: returns an output that `models.scores` reads; in evaluation mode.
        pixel_values: (3, H, W) or (B, 3, H, W), normalised, on the model's device.
        target_size: (H0, W0) of the answer; (H, W) if None. In whole mode the model's maps go straight to it, in
            slide mode the averaged scores are resized (bilinear).
        output_device: where the scores are collected, strip by strip: the host, where a device's memory would not
            hold them. The images' device if None.
        inference: see `Inference`.

    Returns:
        (B, C, H0, W0) float32 scores; see `models.scores.semantic_scores` for their scale.

    Raises:
        InputError: on an unknown mode or blend, a window and stride that leave gaps, or an image beyond
            `WHOLE_MAX_PIXELS` in whole mode.
    """
    pixel_values, size = _batch(pixel_values, target_size)
    scores = torch.empty(0)
    for top, strip in score_strips(_sources(model, pixel_values, size, **inference), size):
        if top == 0:
            scores = torch.empty((*strip.shape[:2], *size), device=output_device or strip.device)
        scores[:, :, top : top + strip.shape[2]] = strip
    return scores


@torch.inference_mode()
def predict_best(
    model: nn.Module, pixel_values: torch.Tensor, target_size: Size | None = None, **inference: Unpack[Inference]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best class of every pixel and its score; of equal scores the lower class wins. Arguments and errors are those
    of `predict_scores`.

    The scores of all classes are held for a few rows only.

    Returns:
        (B, H0, W0) int64 train ids, and (B, H0, W0) float32 scores; B is 1 for an image without a batch dimension.
    """
    pixel_values, size = _batch(pixel_values, target_size)
    shape = (len(pixel_values), *size)
    labels = torch.empty(shape, dtype=torch.int64, device=pixel_values.device)
    best = torch.empty(shape, device=pixel_values.device)
    for top, strip in score_strips(_sources(model, pixel_values, size, **inference), size):
        part = slice(top, top + strip.shape[2])
        torch.max(strip, dim=1, out=(best[:, part], labels[:, part]))
    return labels, best


def score_strips(sources: list[RowScores], size: Size) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, mean scores (B, C, rows, W) of the sources), top to bottom."""
    first = sources[0].rows(0, 1)
    per_strip = rows_per_strip(first, sources[0].row_values)
    for top in range(0, size[0], per_strip):
        bottom = min(top + per_strip, size[0])
        total = sources[0].rows(top, bottom)
        for source in sources[1:]:
            total += source.rows(top, bottom)
        yield top, total.div_(len(sources)) if len(sources) > 1 else total


class Resized:
    """Scores of another source at another size (bilinear, `align_corners=False`)."""

    def __init__(self, source: RowScores, source_size: Size, size: Size) -> None:
        self.source, self.source_size, self.size = source, source_size, size
        place = ((torch.arange(size[0]) + 0.5) * (source_size[0] / size[0]) - 0.5).clamp(min=0)
        self._above = place.long().clamp(max=source_size[0] - 1)
        self._below = (self._above + 1).clamp(max=source_size[0] - 1)
        self._share = (place - self._above)[:, None]

    @property
    def row_values(self) -> int:
        return self.source.row_values * max(1, -(-self.size[1] // self.source_size[1]))

    def rows(self, top: int, bottom: int) -> torch.Tensor:
        """(B, C, bottom - top, W) float32 scores."""
        above, below = self._above[top:bottom], self._below[top:bottom]
        start = int(above[0])
        given = self.source.rows(start, int(below[-1]) + 1)
        if given.shape[-1] != self.size[1]:
            shape = (given.shape[-2], self.size[1])
            given = F.interpolate(given, size=shape, mode="bilinear", align_corners=False)
        upper, lower = (rows.to(given.device) - start for rows in (above, below))
        return torch.lerp(given[:, :, upper], given[:, :, lower], self._share[top:bottom].to(given.device))


class SoftMaxed:
    """Soft-max over the classes of another source."""

    def __init__(self, source: RowScores) -> None:
        self.source = source

    @property
    def row_values(self) -> int:
        return self.source.row_values

    def rows(self, top: int, bottom: int) -> torch.Tensor:
        """(B, C, bottom - top, W) float32 scores."""
        return self.source.rows(top, bottom).softmax(dim=1)


class Mirrored:
    """Scores of another source, left and right exchanged."""

    def __init__(self, source: RowScores) -> None:
        self.source = source

    @property
    def row_values(self) -> int:
        return self.source.row_values

    def rows(self, top: int, bottom: int) -> torch.Tensor:
        """(B, C, bottom - top, W) float32 scores."""
        return self.source.rows(top, bottom).flip(-1)


def _batch(pixel_values: torch.Tensor, target_size: Size | None) -> tuple[torch.Tensor, Size]:
    if pixel_values.ndim == 3:
        pixel_values = pixel_values[None]
    size = target_size or (pixel_values.shape[-2], pixel_values.shape[-1])
    return pixel_values, (int(size[0]), int(size[1]))


def _sources(
    model: nn.Module,
    pixel_values: torch.Tensor,
    size: Size,
    mode: Mode = "whole",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    blend: Blend = "mean",
    even_windows: bool = False,
    join: Join = "scores",
    tta: Mapping[str, Any] | None = None,
    autocast: Autocast | None = None,
) -> list[RowScores]:
    """Scores at the target size, one source for each view of the images. Here stand the defaults of `Inference`."""
    window, stride = resolve_window(mode, window, stride)
    run = with_autocast(model, autocast)
    raw = check_join(join) == "logits"

    def look(pixels: torch.Tensor) -> RowScores:
        own_size = (pixels.shape[-2], pixels.shape[-1])
        if mode == "whole":
            if own_size[0] * own_size[1] > WHOLE_MAX_PIXELS:
                raise InputError(
                    f"an image of {own_size[1]}×{own_size[0]} pixels is too large to be seen whole (at most "
                    f"{WHOLE_MAX_PIXELS} pixels). Use windows (mode slide), or let the image processor make it smaller."
                )
            return ScoreMap(run(pixel_values=pixels), size, raw)

        def crop(image: int, top: int, left: int, height: int, width: int) -> torch.Tensor:
            return pixels[image, :, top : top + height, left : left + width]

        source = WindowScores(run, crop, len(pixels), own_size, window, stride, batch_size, blend, even_windows, raw)
        return source if own_size == size else Resized(source, own_size, size)

    sources: list[RowScores] = []
    for view in views(tta):
        source = look(view.of(pixel_values))
        source = SoftMaxed(source) if raw else source
        sources.append(Mirrored(source) if view.flip else source)
    return sources


def pixels_at_once(device: torch.device, batch_size: int, window: int) -> int:
    """Up to how many pixels images of one size are shown together: a batch of windows on an accelerator; none beyond
    the first image on a processor, where batches gain nothing and cost memory."""
    return 0 if device.type == "cpu" else batch_size * window**2


def predict_images(
    model: nn.Module,
    images: Sequence[torch.Tensor],
    sizes: Sequence[Size],
    at_once: int | None = None,
    **inference: Unpack[Inference],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Label map and best scores of each image, in order; neighbours of one size are shown to the model together.

    Args:
        model: as for `predict_best`.
        images: (3, h, w) each, normalised, on the model's device.
        sizes: (H, W) of each answer.
        at_once: pixels that are shown together at most, one image at least; see `pixels_at_once`.
        inference: `mode`, `window`, … of `predict_best`.

    Yields:
        (H, W) int64 train ids, and (H, W) float32 scores.
    """
    if at_once is None and images:
        window = resolve_window(inference.get("mode", "whole"), inference.get("window"), inference.get("stride"))[0]
        at_once = pixels_at_once(images[0].device, inference.get("batch_size", 8), window)
    for (shape, size), group in groupby(zip(images, sizes, strict=True), key=lambda pair: (pair[0].shape, pair[1])):
        alike = [image for image, _ in group]
        count = max(1, (at_once or 0) // (shape[-2] * shape[-1]))
        for start in range(0, len(alike), count):
            some = torch.stack(alike[start : start + count])
            yield from zip(*predict_best(model, some, size, **inference), strict=True)
