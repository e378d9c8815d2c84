"""One image that shows a dataset as it will be learned: samples with their masks, the legend, the histogram."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..errors import DataError
from ..images import read_image, read_mask
from ..labels import LabelSpace
from ..visualize.fonts import fitting, label_font
from ..visualize.overlay import hatch, tint
from ..visualize.palette import void_mask
from .label_histogram import UNKNOWN_COLOR, draw_histogram
from .report import Report, share_text
from .survey import even_indices, raw_ids

_LARGEST = (360, 270)  # a tile, in pixels
_WIDEST = 4 * (360 + 12) + 12
_GAP = 12
_TITLE, _FONT, _LINE = 22, 16, 26
_PAPER, _INK, _FAINT = (255, 255, 255), (25, 25, 25), (225, 225, 225)
_VOID_ALPHA = 0.75  # of the hatch over the image


class _Tile(NamedTuple):
    image: Image.Image
    caption: str


def contact_sheet(
    rows: Any, label_space: LabelSpace, report: Report, samples: int = 12, split: str = "train"
) -> Image.Image:
    """Draw it.

    Void is hatched, values that the label space does not know are magenta; a black class (background) leaves the
    image as it is. What cannot be read says so in its place.

    Args:
        rows: pairs of a split, as the sources give them; `samples` of them are drawn, spread evenly.
        report: of `examine`; its overview gives the histogram.
        split: what to call the rows.
    """
    places = even_indices(len(rows), samples).tolist()
    drawn = [_draw(rows[place], label_space) for place in places]
    tile = _tile_size([image.size for image, _, _ in drawn])
    tiles = [_finish(*entry, tile) for entry in drawn]
    most = (_WIDEST - _GAP) // (tile[0] + _GAP)
    columns = -(-len(tiles) // max(1, -(-len(tiles) // most))) if tiles else 1
    width = max(columns * (tile[0] + _GAP) + _GAP, 900)
    top = 2 * _GAP + _TITLE
    histogram = draw_histogram(report.overview, label_space, width - 2 * _GAP)
    below = top + -(-len(tiles) // columns) * (tile[1] + _LINE + _GAP) + _GAP
    canvas = Image.new("RGB", (width, below + histogram.height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(canvas), label_font(_FONT)
    title = f"{split}: {len(tiles)} of {len(rows)} pairs, with their masks as the recipe reads them"
    draw.text((_GAP, _GAP), title, _INK, label_font(_TITLE))
    for number, (image, caption) in enumerate(tiles):
        x = _GAP + number % columns * (tile[0] + _GAP)
        y = top + _GAP + number // columns * (tile[1] + _LINE + _GAP)
        canvas.paste(image, (x + (tile[0] - image.width) // 2, y + (tile[1] - image.height) // 2))
        draw.text((x, y + tile[1] + 3), fitting(caption, font, tile[0]), _INK, font)
    canvas.paste(histogram, (_GAP, below))
    return canvas


def _tile_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The size of all tiles. Their aspect ratio is the images' median, so most images fill their tile."""
    aspect = min(2.0, max(0.6, median(width / height for width, height in sizes))) if sizes else 4 / 3
    scale = min(_LARGEST[0] / aspect, _LARGEST[1])
    return round(scale * aspect), round(scale)


def _draw(row: Any, space: LabelSpace) -> tuple[Image.Image, np.ndarray | None, str]:
    """The image with its classes laid over it at full size, where it is void, and a note."""
    try:
        image = read_image(row["image"])
    except DataError:
        return Image.new("RGB", _LARGEST, _FAINT), None, f"{row['id']}\nimage cannot be read"
    try:
        stored = read_mask(row["mask"], space.encoding)
    except DataError:
        return image, None, f"{row['id']}\nmask cannot be read"
    if stored.shape[:2] != (image.height, image.width):
        told = f"image {image.width} x {image.height}, mask {stored.shape[1]} x {stored.shape[0]}"
        return image, None, f"{row['id']}\n{told}"
    ids, unknown = _original_ids(stored, space)
    laid = np.array(tint(image, ids, space))
    laid[unknown] = UNKNOWN_COLOR
    share = float(unknown.mean())
    note = f"  ({share_text(share)} unknown)" if share else ""
    return Image.fromarray(laid), void_mask(ids, space) & ~unknown, f"{row['id']}{note}"


def _finish(image: Image.Image, is_void: np.ndarray | None, caption: str, tile: tuple[int, int]) -> _Tile:
    """Fit an image into its tile. Stripes and notes come after that, so they have one size in every tile."""
    fitted = _fit(image, tile)
    if is_void is not None and is_void.any():
        alpha = _fit(Image.fromarray((is_void * (255 * _VOID_ALPHA)).astype(np.uint8)), tile)
        fitted.paste(Image.fromarray(hatch(fitted.height, fitted.width)), (0, 0), alpha)
    caption, _, note = caption.partition("\n")
    if note:
        draw, font = ImageDraw.Draw(fitted), label_font(_FONT)
        note = fitting(note, font, fitted.width - 24)
        left, upper, right, lower = draw.textbbox((12, 12), note, font)
        draw.rectangle((left - 6, upper - 6, right + 6, lower + 6), _PAPER)
        draw.text((12, 12), note, _INK, font)
    return _Tile(fitted, caption)


def _fit(image: Image.Image, tile: tuple[int, int]) -> Image.Image:
    scale = min(tile[0] / image.width, tile[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _original_ids(stored: np.ndarray, space: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """Original ids, with void for unknown values, and a mask of void."""
    known = raw_ids(space)
    wide = stored.astype(np.int64)
    if wide.ndim == 3:
        known = known if space.encoding == "rgb" else {}
        wide = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    elif space.encoding == "binary" and stored.dtype == bool:
        wide *= 255
    values, inverse = np.unique(wide, return_inverse=True)
    translated = np.array([known.get(int(v), space.void_id) for v in values])
    is_unknown = np.array([int(v) not in known for v in values])
    return translated[inverse].reshape(stored.shape), is_unknown[inverse].reshape(stored.shape)
