"""One picture that shows a data set as it will be learned: samples with their masks, the legend, the histogram."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.errors import DataError
from ..data.masks import read_image, read_mask
from ..labels import Color, LabelSpace
from ..visualize import VOID_COLOR, class_colors, overlay
from .report import Report, share_text
from .survey import even_indices, raw_ids

UNKNOWN_COLOR: Color = (255, 0, 255)

_TILE = (360, 270)
_COLUMNS = 4
_GAP = 10
_FONT = 16
_LINE = 24
_MOST_CLASSES = 64
_PAPER, _INK, _FAINT, _BAR = (255, 255, 255), (25, 25, 25), (170, 170, 170), ((60, 60, 60), (150, 150, 150))


def contact_sheet(rows: Any, label_space: LabelSpace, report: Report, samples: int = 12) -> Image.Image:
    """Draw it.

    Values that the label space does not know are magenta; void and a black class (background) leave the
    photograph as it is. What cannot be read says so in its place.

    Args:
        rows: pairs of a split, as the sources give them; `samples` of them are drawn, spread evenly.
        report: of `examine`; its overview gives the histogram.
    """
    tiles = [_tile(rows[place], label_space) for place in even_indices(len(rows), samples).tolist()]
    columns = max(1, min(_COLUMNS, len(tiles)))
    width = max(columns * (_TILE[0] + _GAP) + _GAP, 760)
    tile_rows = -(-len(tiles) // columns)
    top = _GAP + tile_rows * (_TILE[1] + _LINE + _GAP)
    entries = _entries(label_space, report)
    legend_columns = max(1, min(width // 720, -(-len(entries) // 12)))
    per_column = -(-len(entries) // legend_columns)
    canvas = Image.new("RGB", (width, top + (per_column + 1) * _LINE + 2 * _GAP), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=_FONT)
    for number, (picture, caption) in enumerate(tiles):
        x = _GAP + number % columns * (_TILE[0] + _GAP)
        y = _GAP + number // columns * (_TILE[1] + _LINE + _GAP)
        canvas.paste(picture, (x + (_TILE[0] - picture.width) // 2, y + (_TILE[1] - picture.height) // 2))
        draw.text((x, y + _TILE[1] + 2), _fitting(caption, font, _TILE[0]), _INK, font)
    splits = list(report.overview.get("splits", {}))
    draw.text((_GAP, top), f"share of pixels: {', '.join(splits)} (dark, then light bar)", _INK, font)
    slot = (width - _GAP) // legend_columns
    longest = max((share for entry in entries for share in entry[2].values()), default=0.0) or 1.0
    for number, entry in enumerate(entries):
        place = (_GAP + number // per_column * slot, top + (1 + number % per_column) * _LINE)
        _draw_entry(draw, font, entry, splits, place, slot - _GAP, longest)
    return canvas


Entry = tuple[Color, str, dict[str, float]]


def _entries(space: LabelSpace, report: Report) -> list[Entry]:
    """Colour, text and shares of each id, in the overview's order; the largest where there are very many."""
    colors = {str(i): color for i, color in class_colors(space).items()}
    rows = report.overview.get("ids", [])
    kept = sorted(rows, key=lambda row: -max(row["shares"].values(), default=0.0))[:_MOST_CLASSES]
    ids = {row["id"] for row in kept}
    return [
        (
            UNKNOWN_COLOR if row["name"] == "(unknown)" else colors.get(row["id"], VOID_COLOR),
            f"{row['id']} {row['name']}",
            row["shares"],
        )
        for row in rows
        if row["id"] in ids
    ]


def _draw_entry(
    draw: ImageDraw.ImageDraw,
    font: Any,
    entry: Entry,
    splits: list[str],
    place: tuple[int, int],
    width: int,
    longest: float,
) -> None:
    color, text, shares = entry
    x, y = place
    draw.rectangle((x, y + 3, x + 16, y + 19), color, _FAINT)
    name_width, figures = width * 2 // 5, 130
    draw.text((x + 24, y + 2), _fitting(text, font, name_width - 30), _INK, font)
    left, room = x + name_width, width - name_width - figures - 8
    height = 18 // max(1, len(splits))
    for number, split in enumerate(splits):
        share = shares.get(split, 0.0)
        if share:
            bar = (
                left,
                y + 3 + number * height,
                left + max(1, round(room * share / longest)),
                y + 1 + (number + 1) * height,
            )
            draw.rectangle(bar, _BAR[number % len(_BAR)])
    told = " / ".join(share_text(shares.get(split, 0.0)) for split in splits)
    draw.text((x + width, y + 2), told, _INK, font, anchor="ra")


def _tile(row: Any, space: LabelSpace) -> tuple[Image.Image, str]:
    try:
        image = read_image(row["image"])
    except DataError:
        return _blank("picture cannot be read"), str(row["id"])
    try:
        stored = read_mask(row["mask"], space.encoding)
    except DataError:
        return _note(_small(image), "mask cannot be read"), str(row["id"])
    if stored.shape[:2] != (image.height, image.width):
        told = f"picture {image.width}×{image.height}, mask {stored.shape[1]}×{stored.shape[0]}"
        return _note(_small(image), told), str(row["id"])
    ids, unknown = _original_ids(stored, space)
    drawn = np.array(overlay(image, ids, space))
    drawn[unknown] = UNKNOWN_COLOR
    share = float(unknown.mean())
    note = f"  ({share_text(share)} unknown)" if share else ""
    return _small(Image.fromarray(drawn)), f"{row['id']}{note}"


def _original_ids(stored: np.ndarray, space: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """Original ids, void where unknown, and where that is."""
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


def _small(picture: Image.Image) -> Image.Image:
    scale = min(_TILE[0] / picture.width, _TILE[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _blank(text: str) -> Image.Image:
    return _note(Image.new("RGB", _TILE, _FAINT), text)


def _note(picture: Image.Image, text: str) -> Image.Image:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=_FONT)
    box = draw.textbbox((8, 8), text, font)
    draw.rectangle((box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4), _PAPER)
    draw.text((8, 8), text, _INK, font)
    return picture


def _fitting(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
