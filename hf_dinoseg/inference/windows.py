"""Where windows lie, what each weighs, and their scores joined into those of the image, rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch

from ..errors import InputError
from ..models.scores import ScoreMap

Mode = Literal["whole", "slide"]
Blend = Literal["mean", "smooth"]
Join = Literal["scores", "logits"]
Autocast = Literal["bfloat16", "float16"]
Size = tuple[int, int]

DEFAULT_WINDOW = 512
_LEAST_WEIGHT = 1e-3  # of a window's border when blended smoothly: where one window is alone, it still decides


def window_positions(length: int, window: int, stride: int, even: bool = False) -> list[int]:
    """Where windows start along one side of an image.

    They stand `stride` apart from 0 on; the last is moved back to end with the image. A window longer than the
    image shrinks to it and starts at 0.

    Args:
        even: spread as many windows evenly over the length instead, as EoMT does (places are cut to whole pixels).

    Raises:
        ValueError: if a number is below 1, or if windows farther apart than they are long would leave gaps.

    Example:
        >>> window_positions(10, window=4, stride=3), window_positions(11, window=4, stride=3)
        ([0, 3, 6], [0, 3, 6, 7])
    """
    if min(length, window, stride) < 1:
        raise InputError(f"length {length}, window {window} and stride {stride} must all be at least 1.")
    if stride > window:
        raise InputError(f"stride {stride} is larger than window {window}: pixels between windows would be left out.")
    last = max(length - window, 0)
    starts = [*range(0, last, stride), last]
    if not even or len(starts) < 2:
        return starts
    overlap = (len(starts) * window - length) / (len(starts) - 1)
    return [int(number * (window - overlap)) for number in range(len(starts))]


def default_stride(window: int) -> int:
    """The step from window to window where none is given: two thirds of the window."""
    return max(1, window * 2 // 3)


def resolve_window(mode: str, window: int | None, stride: int | None) -> tuple[int, int]:
    """Window and stride, with defaults: 512, and two thirds of the window.

    Raises:
        ValueError: on an unknown mode, or a window and stride that leave gaps.
    """
    if mode not in ("whole", "slide"):
        raise InputError(f"inference mode {mode!r} is not known; it is one of whole, slide.")
    for name, value in (("window", window), ("stride", stride)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise InputError(f"{name} is {value!r}; it is a whole number of pixels.")
    window = DEFAULT_WINDOW if window is None else window
    stride = default_stride(window) if stride is None else stride
    window_positions(1, window, stride)
    return window, stride


def check_join(join: Join) -> Join:
    """The name, if there is such a way to join windows.

    Raises:
        ValueError: if there is none.
    """
    if join not in get_args(Join):
        raise InputError(f"join is {join!r}; it is one of {', '.join(get_args(Join))}.")
    return join


def with_autocast(model: Callable[..., Any], autocast: Autocast | None) -> Callable[..., Any]:
    """The model, run under `torch.autocast` in that type; None for the model as it is.

    Raises:
        ValueError: on another type.
    """
    if autocast is None:
        return model
    if autocast not in get_args(Autocast):
        raise InputError(f"autocast is {autocast!r}; it is one of {', '.join(get_args(Autocast))}, or None.")

    def run(pixel_values: torch.Tensor) -> Any:
        with torch.autocast(pixel_values.device.type, getattr(torch, autocast)):
            return model(pixel_values=pixel_values)

    return run


def blend_weights(length: int, blend: Blend) -> torch.Tensor:
    """(length,) what each row, or column, of a window weighs where windows overlap.

    `mean`: all the same. `smooth`: a raised cosine, next to nothing at the border and 1 in the middle, so that no edge
    of a window shows.

    Raises:
        ValueError: on another name.
    """
    if blend == "mean":
        return torch.ones(length)
    if blend != "smooth":
        raise InputError(f"blend {blend!r} is not known; it is one of mean, smooth.")
    phase = (torch.arange(length, dtype=torch.float64) + 0.5) * (2 * math.pi / length)
    return (_LEAST_WEIGHT + (1 - _LEAST_WEIGHT) * (0.5 - 0.5 * phase.cos())).float()


class WindowScores:
    """Class scores of images of one size, averaged over windows, for the rows that are asked for.

    Rows are asked for from top to bottom. The model sees a window when the first of its rows is needed, and what it
    said of a window (small maps, not scores) is forgotten when rows below it are asked for. Neither the images nor
    the scores of all classes are ever held in full, whatever the size.

    Args:
        model: returns an output that `models.scores.ScoreMap` reads; in evaluation mode.
        crop: `crop(image, top, left, height, width)` gives (3, height, width) normalised pixels of the image of
            that number, on the model's device; called with tops that never decrease.
        images: how many there are.
        size: height and width of all of them.
        window, stride: of the windows, in pixels.
        batch_size: windows that the model sees at once, taken across positions and images.
        blend: how overlapping windows are averaged; see `blend_weights`.
        even: windows are spread evenly; see `window_positions`.
        raw: logits are averaged, not probabilities; see `models.scores.ScoreMap`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        crop: Callable[[int, int, int, int, int], torch.Tensor],
        images: int,
        size: Size,
        window: int,
        stride: int,
        batch_size: int,
        blend: Blend = "mean",
        even: bool = False,
        raw: bool = False,
    ) -> None:
        self.raw = raw
        self.model, self.crop, self.images, self.size = model, crop, images, size
        self.height, self.width = min(window, size[0]), min(window, size[1])
        self.batch_size = batch_size
        self.blend = blend
        tops, lefts = (window_positions(length, window, stride, even) for length in size)
        self._waiting = [(top, b, left) for top in tops for b in range(images) for left in lefts]
        self._waiting.reverse()  # the next one last
        self._seen: list[tuple[int, int, int, ScoreMap]] = []
        self._of_row, self._of_column = blend_weights(self.height, blend), blend_weights(self.width, blend)
        self._row_total = _coverage(tops, self._of_row, size[0])
        self._column_total = _coverage(lefts, self._of_column, size[1])

    @property
    def row_values(self) -> int:
        """The most values of one image that are held for each row while rows are computed."""
        self._look(1)
        first = self._seen[0][3]
        return max(first.row_values, first.num_labels * self.size[1])

    def rows(self, top: int, bottom: int) -> torch.Tensor:
        """(B, C, bottom - top, W) float32 scores. `top` never decreases from call to call."""
        self._seen = [seen for seen in self._seen if seen[0] + self.height > top]
        self._look(bottom)
        first = self._seen[0][3]
        total: torch.Tensor | None = None
        reached = dict.fromkeys(range(self.images), 0)  # columns that hold something in all rows
        for y, b, x, scores in self._seen:  # from top to bottom, and from left to right
            start, end = max(top, y), min(bottom, y + self.height)
            if start >= end:
                continue
            strip = scores.rows(start - y, end - y)[0]
            if total is None:
                shape = (self.images, first.num_labels, bottom - top, self.size[1])
                whole = (start, end) == (top, bottom)  # these windows fill the strip, and no zeros are needed
                total = strip.new_empty(shape) if whole else strip.new_zeros(shape)
                reached = reached if whole else dict.fromkeys(reached, self.size[1])
                self._to(strip)
            if self.blend != "mean":
                strip = strip * (self._of_row[start - y : end - y, None] * self._of_column)
            old = min(max(reached[b] - x, 0), self.width)  # of its columns, that others have reached
            total[b, :, start - top : end - top, x : x + old] += strip[..., :old]
            if old < self.width:
                total[b, :, start - top : end - top, x + old : x + self.width] = strip[..., old:]
                reached[b] = x + self.width
        assert total is not None  # windows cover every row
        return total.div_(self._row_total[top:bottom, None] * self._column_total)

    def _look(self, bottom: int) -> None:
        """Show the model all windows that begin above row `bottom`."""
        while self._waiting and self._waiting[-1][0] < bottom:
            chosen = [self._waiting.pop() for _ in range(min(self.batch_size, len(self._waiting)))]
            crops = torch.stack([self.crop(b, y, x, self.height, self.width) for y, b, x in chosen])
            outputs = self.model(pixel_values=crops)
            for output, (y, b, x) in zip(_one_by_one(outputs), chosen, strict=True):
                self._seen.append((y, b, x, ScoreMap(output, (self.height, self.width), self.raw)))

    def _to(self, like: torch.Tensor) -> None:
        for name in ("_of_row", "_of_column", "_row_total", "_column_total"):
            setattr(self, name, getattr(self, name).to(like))


def _one_by_one(outputs: Any) -> Iterator[SimpleNamespace]:
    """The output of each image of a batch, as that of a batch of one: what `models.scores` reads of it."""
    names = ("class_queries_logits", "masks_queries_logits", "logits")
    parts = {name: values for name in names if (values := getattr(outputs, name, None)) is not None}
    for rows in zip(*(values.split(1) for values in parts.values()), strict=True):
        yield SimpleNamespace(**dict(zip(parts, rows, strict=True)))


def _coverage(positions: list[int], weights: torch.Tensor, length: int) -> torch.Tensor:
    """(length,) what the windows over each pixel along one side weigh together."""
    total = torch.zeros(length)
    for start in positions:
        total[start : start + len(weights)] += weights
    return total
