"""The legend and class histogram of a contact sheet: a line a class, its colour, and a bar a split."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..labels import Color, LabelSpace
from ..visualize import class_colors
from ..visualize.fonts import fitting, label_font
from ..visualize.overlay import hatch
from .report import share_text

UNKNOWN_COLOR: Color = (255, 0, 255)

_FONT, _LINE, _GAP, _BETWEEN, _SWATCH = 16, 26, 12, 36, 18
_PER_COLUMN, _NARROWEST = 16, 420  # lines of a column before a second one begins; width of a column
_MOST_CLASSES = 64
_FIGURE = 92  # room for a share
_LONGEST_NAME, _LONGEST_BAR = 260, 420
_PAPER, _INK, _GREY, _RULE, _ALARM = (255, 255, 255), (25, 25, 25), (105, 105, 105), (205, 205, 205), (190, 0, 30)


class _Entry(NamedTuple):
    color: Color | None  # None is the hatch of void
    text: str
    shares: Mapping[str, float]
    declared: bool  # as a class: one without pixels is worth a look


def draw_histogram(overview: Mapping[str, Any], label_space: LabelSpace, width: int) -> Image.Image:
    """Every id of an overview with its colour, name, and share of each split's pixels.

    All bars have one scale. Those of the first split are full, those of the second pale. Above 64 ids the largest are
    drawn, and how many are not is told.

    Args:
        overview: of a report of `examine`.
        width: of the image, in pixels.
    """
    splits = list(overview.get("splits", {}))
    entries, hidden = _entries(overview, label_space)
    font = label_font(_FONT)
    columns = max(1, min(width // _NARROWEST, -(-len(entries) // _PER_COLUMN)))
    per_column = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, (per_column + 1 + bool(hidden)) * _LINE + 8), _PAPER)
    draw = ImageDraw.Draw(canvas)
    slot = (width + _BETWEEN) // columns - _BETWEEN
    name = min(_LONGEST_NAME, slot // 3, max([ceil(font.getlength(entry.text)) for entry in entries], default=0) + 4)
    bars = _SWATCH + 8 + name + _GAP
    room = max(20, min(_LONGEST_BAR, slot - bars - len(splits) * _FIGURE))
    longest = max((share for entry in entries for share in entry.shares.values()), default=0.0) or 1.0
    for column in range(columns):
        left = column * (slot + _BETWEEN)
        draw.text((left, 2), "share of pixels", _GREY, font)
        for place, split in enumerate(splits):
            draw.text((left + bars + room + (place + 1) * _FIGURE, 2), split, _GREY, font, anchor="ra")
        draw.line((left, _LINE, left + bars + room + len(splits) * _FIGURE, _LINE), _RULE)
        for number, entry in enumerate(entries[column * per_column : (column + 1) * per_column]):
            y = (number + 1) * _LINE + 6
            _draw_swatch(canvas, entry.color, (left, y))
            draw.text((left + _SWATCH + 8, y), fitting(entry.text, font, name), _INK, font)
            _draw_bars(canvas, entry, splits, (left + bars, y), room / longest)
            for place, split in enumerate(splits):
                share = entry.shares.get(split, 0.0)
                color = _ALARM if entry.declared and not share else _INK
                right = left + bars + room + (place + 1) * _FIGURE
                draw.text((right, y), share_text(share) if share else "none", color, font, anchor="ra")
    if hidden:
        draw.text((0, canvas.height - _LINE), f"and {hidden} ids with fewer pixels", _GREY, font)
    return canvas


def _entries(overview: Mapping[str, Any], space: LabelSpace) -> tuple[list[_Entry], int]:
    """In the overview's order, the largest where there are very many; and how many were left out."""
    colors = {str(i): color for i, color in class_colors(space).items()}
    rows = overview.get("ids", [])
    largest = sorted(rows, key=lambda row: -max(row["shares"].values(), default=0.0))[:_MOST_CLASSES]
    kept = {row["id"] for row in largest}
    entries = [
        _Entry(
            UNKNOWN_COLOR if row["name"] == "(unknown)" else colors.get(row["id"]),
            f"{row['id']} {row['name']}",
            row["shares"],
            row["id"] in colors,
        )
        for row in rows
        if row["id"] in kept
    ]
    return entries, len(rows) - len(entries)


def _draw_swatch(canvas: Image.Image, color: Color | None, place: tuple[int, int]) -> None:
    x, y = place
    if color is None:
        canvas.paste(Image.fromarray(hatch(_SWATCH, _SWATCH)), place)
    outline = (x, y, x + _SWATCH - 1, y + _SWATCH - 1)
    ImageDraw.Draw(canvas).rectangle(outline, color, _GREY)


def _draw_bars(
    canvas: Image.Image, entry: _Entry, splits: list[str], place: tuple[int, int], pixels_per_share: float
) -> None:
    x, y = place
    height = max(2, _SWATCH // max(1, len(splits)) - 1)
    for number, split in enumerate(splits):
        if not (share := entry.shares.get(split, 0.0)):
            continue
        width, upper = max(2, round(share * pixels_per_share)), y + number * (height + 1)
        bar = hatch(height, width) if entry.color is None else np.full((height, width, 3), entry.color, np.uint8)
        pale = 255 - (255 - bar.astype(np.int16)) // (1 if number == 0 else 2)
        canvas.paste(Image.fromarray(pale.astype(np.uint8)), (x, upper))
        ImageDraw.Draw(canvas).rectangle((x, upper, x + width - 1, upper + height - 1), None, _GREY)
