"""Masks that are stored as shapes (polygons, runs of pixels) in the place of an image file.

A pixel belongs to a shape when its centre lies inside, by the even-odd rule: so shapes that share an outline neither
overlap nor leave gaps. Coordinates count from the outer corner of the first pixel: its centre is at (0.5, 0.5).
Pillow's `ImageDraw.polygon` takes corners for centres and paints the outline too, which makes every shape a pixel too
large.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from ..errors import ImageError, TooLargeError
from .opening import MAX_PIXELS, Cell, cell_name, cell_source

Ring = Sequence[float]
"""x and y of its corners, in turn: `[x0, y0, x1, y1, …]`; closed, the first corner need not come again."""

Overlap = Literal["last", "first", "smallest"]
"""Which shape has a pixel that lies in several: the last or the first in the file, or the one of the fewest pixels."""

_MAGIC = b"hf_dinoseg shapes 1\n"


def polygon_shape(label_id: int, parts: Iterable[Iterable[Ring]]) -> dict[str, Any]:
    """A shape made of polygons.

    Args:
        label_id: what its pixels get.
        parts: polygons, each a list of rings: a ring inside another is a hole. A pixel belongs to the shape if it is
            in any of them.
    """
    return {"id": label_id, "parts": [[list(ring) for ring in part] for part in parts]}


def run_shape(
    label_id: int, counts: Sequence[int], box: tuple[int, int, int, int], by_column: bool = False
) -> dict[str, Any]:
    """A shape made of runs of pixels.

    Args:
        label_id: what its pixels get.
        counts: lengths of runs that are in turn outside and inside of the shape, beginning outside.
        box: left, top, width and height of the part of the image that the runs cover.
        by_column: whether runs go down the columns and not along the rows.
    """
    return {"id": label_id, "counts": list(counts), "box": list(box), "by_column": by_column}


def pack_shapes(size: tuple[int, int], shapes: Sequence[dict[str, Any]], unlabelled: int, overlap: Overlap) -> bytes:
    """A mask as `read_shapes` reads it.

    Args:
        size: (width, height) of the mask.
        shapes: in the order of their file.
        unlabelled: the id of pixels that no shape holds.
        overlap: who has a pixel that several hold.
    """
    return _pack({"size": list(size), "shapes": list(shapes), "unlabelled": unlabelled, "overlap": overlap})


def pack_fault(fault: str) -> bytes:
    """A mask that cannot be made; reading it raises an ImageError with this sentence."""
    return _pack({"fault": fault})


def _pack(document: dict[str, Any]) -> bytes:
    return _MAGIC + json.dumps(document, separators=(",", ":")).encode()


def is_shapes(cell: Cell) -> bool:
    """Whether a cell holds shapes."""
    source = cell_source(cell)
    return isinstance(source, bytes) and source.startswith(_MAGIC)


def read_shapes(cell: Cell, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The (H, W) mask of ids; uint8, uint16 or int32.

    Raises:
        TooLargeError: if it has more than `max_pixels`.
        ImageError: naming the file, if there is something wrong with the shapes.
    """
    name, source = cell_name(cell), cell_source(cell)
    assert isinstance(source, bytes)
    try:
        document = json.loads(source[len(_MAGIC) :])
        if fault := document.get("fault"):
            raise ImageError(str(fault))
        width, height = document["size"]
        if width * height > max_pixels:
            raise TooLargeError(
                f"{name}: refused, it would be drawn on {width}×{height} pixels; the limit is {max_pixels}. If it is "
                f"meant to be so large, write data.max_pixels: {width * height}.",
                width * height,
            )
        return _paint(document, int(width), int(height))
    except ImageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ImageError(f"{name}: its shapes cannot be drawn ({error}). Correct or export them again.") from error


def _paint(document: dict[str, Any], width: int, height: int) -> np.ndarray:
    shapes, unlabelled = document["shapes"], document["unlabelled"]
    ids = [unlabelled, *(shape["id"] for shape in shapes)]
    small = min(ids) >= 0 and max(ids) <= 65535
    mask = np.full((height, width), unlabelled, np.min_scalar_type(max(ids)) if small else np.int32)
    drawn: Iterable[tuple[int, tuple[int, int, np.ndarray]]]
    drawn = ((shape["id"], _inside(shape, width, height)) for shape in shapes)
    if document["overlap"] == "first":
        drawn = reversed(list(drawn))
    elif document["overlap"] == "smallest":
        drawn = sorted(drawn, key=lambda item: -int(item[1][2].sum()))
    for label_id, (left, top, inside) in drawn:
        mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = label_id
    return mask


def _inside(shape: dict[str, Any], width: int, height: int) -> tuple[int, int, np.ndarray]:
    """A shape's pixels as a (h, w) bool array, and its left and upper end in the image."""
    if "counts" in shape:
        return _fill_runs(shape, width, height)
    parts = [fill(part, width, height) for part in shape["parts"]]
    if len(parts) == 1:
        return parts[0]
    whole = np.zeros((height, width), bool)
    for left, top, inside in parts:
        whole[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside
    return 0, 0, whole


def fill(rings: Sequence[Ring], width: int, height: int) -> tuple[int, int, np.ndarray]:
    """The pixels whose centres are inside an odd number of rings.

    A centre on an outline belongs to what is right of it or below.

    Args:
        rings: in pixels; they may reach beyond the image.
        width, height: of the image.

    Returns:
        left and top of a box within the image, and the (h, w) bool array of its pixels.

    Raises:
        ValueError: on coordinates that are not pairs of finite numbers.

    Example:
        >>> fill([[1, 0, 3, 0, 3, 2, 1, 2]], 4, 4)[2].astype(int)
        array([[1, 1],
               [1, 1]])
    """
    starts, ends = [], []
    for ring in rings:
        corners = np.asarray(ring, np.float64)
        if corners.ndim != 1 or len(corners) % 2 or not np.isfinite(corners).all():
            raise ValueError("corners are to be pairs of finite numbers")
        corners = corners.reshape(-1, 2)
        starts.append(corners)
        ends.append(np.roll(corners, -1, axis=0))
    a, b = np.concatenate([np.zeros((0, 2)), *starts]), np.concatenate([np.zeros((0, 2)), *ends])
    down = a[:, 1] <= b[:, 1]  # the same edge passed the other way crosses the same rows at the very same places
    (x0, y0), (x1, y1) = np.where(down[:, None], a, b).T, np.where(down[:, None], b, a).T
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (y0, y1))
    lengths = last - first
    edge = np.repeat(np.arange(len(lengths)), lengths)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[edge]
    slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    if not len(row):
        return 0, 0, np.zeros((0, 0), bool)
    left, top = int(column.min()), int(row.min())
    shape = int(row.max()) - top + 1, int(column.max()) - left + 1
    crossings = np.bincount((row - top) * shape[1] + column - left, minlength=shape[0] * shape[1]).reshape(shape)
    return left, top, (np.cumsum(crossings, axis=1) % 2 == 1)[:, :-1]


def _fill_runs(shape: dict[str, Any], width: int, height: int) -> tuple[int, int, np.ndarray]:
    counts, (left, top, w, h) = np.asarray(shape["counts"], np.int64), shape["box"]
    if w < 0 or h < 0 or left < 0 or top < 0 or left + w > width or top + h > height:
        raise ValueError(f"runs of {w}×{h} pixels from ({left}, {top}) do not lie in {width}×{height}")
    if (counts < 0).any() or counts.sum() != w * h:
        raise ValueError(f"runs of {int(counts.sum())} pixels where {w}×{h} = {w * h} are expected")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return left, top, flat.reshape(w, h).T if shape["by_column"] else flat.reshape(h, w)
