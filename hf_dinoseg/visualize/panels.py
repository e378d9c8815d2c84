"""One image that answers "what did it get wrong?": image | truth | prediction | error, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from ..errors import ImageError
from ..images import open_image
from ..labels import Color, LabelSpace
from .fonts import fitting, label_font
from .overlay import check_size, hatch
from .palette import class_colors, colorize, void_mask

WRONG_COLOR: Color = (255, 48, 48)
_DIM = (25, 0.4)  # offset and contrast of the grey image behind errors
_CELL = (480, 360)  # the largest a cell may be; smaller images are enlarged in whole steps
_GAP = 8
_NARROWEST_SLOT = 128  # so that headings of a tall, thin image can be read
_PAPER, _INK, _FAINT = (255, 255, 255), (25, 25, 25), (150, 150, 150)
_MOST_LEGEND_ENTRIES = 48
_IMAGE_BOX = "dinoseg:image"  # left, top, right, bottom of its cell; width, height of itself


@dataclass(frozen=True)
class _Entry:
    """A line of the legend; a colour of None stands for the hatch of void."""

    color: Color | None
    text: str


def panel(
    image: Image.Image,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    label_space: LabelSpace,
    title: str = "",
    note: str = "",
) -> Image.Image:
    """Image, truth, prediction and error side by side, with the classes that occur named below.

    Void is hatched. In the error cell a right pixel shows the dimmed image and a wrong one is red; a pixel of
    truth for which the prediction is void (no answer) is wrong. Without truth there are only image and prediction.

    Args:
        image: RGB, (H, W).
        truth: (H, W) original ids, or None.
        prediction: (H, W) original ids.
        title: a line above, such as the image's name; shortened where it does not fit.
        note: said beside the heading of the prediction, such as what it does with background; above all if it is too
            long for that.

    Returns:
        An RGB image whose cells are at most 360 pixels high and 480 wide.

    Raises:
        ValueError: if sizes differ, or on an id that the label space does not know.
    """
    check_size(image, prediction, "prediction")
    image = image.convert("RGB")
    size = _cell_size(image.size)
    maps = [prediction]
    cells = [
        ("image", _fit(image, size)),
        (f"prediction: {note}" if note else "prediction", _draw_map(prediction, label_space, size)),
    ]
    extra: list[_Entry] = []
    if truth is not None:
        check_size(image, truth, "truth")
        maps.append(truth)
        canvas, share = _draw_errors(image, truth, prediction, label_space, size)
        heading = "error" if share is None else f"error: {100 * share:.1f} % of labelled pixels"
        cells = [cells[0], ("truth", _draw_map(truth, label_space, size)), cells[1], (heading, canvas)]
        extra = [_Entry(WRONG_COLOR, "wrong")]
    drawn = _compose(cells, _legend(maps, label_space) + extra, title)
    drawn.info[_IMAGE_BOX] = f"{drawn.info[_IMAGE_BOX]} {image.width} {image.height}"
    return drawn


def save_panel(drawn: Image.Image, path: Path) -> None:
    """Write a panel as PNG, with a note of where in it the image is, for `image_of_panel`."""
    note = PngInfo()
    note.add_text(_IMAGE_BOX, drawn.info[_IMAGE_BOX])
    drawn.save(path, format="PNG", pnginfo=note)


def image_of_panel(path: Path) -> Image.Image | None:
    """The image that a saved panel shows, at its own size or, if that is larger than a cell, at the cell's.

    None if the file is no image, or does not say where in it that is: a checkpoint's files may come from anyone.
    """
    try:
        with open_image(path) as drawn:
            left, top, right, bottom, width, height = map(int, drawn.info[_IMAGE_BOX].split())
            inside = 0 <= left < right <= drawn.width and 0 <= top < bottom <= drawn.height
            if not inside or width < 1 or height < 1 or (width <= right - left and height > bottom - top):
                return None
            image = drawn.convert("RGB").crop((left, top, right, bottom))
    except ImageError:
        return None
    return image if width > image.width else image.resize((width, height), Image.Resampling.NEAREST)


def legend(label_space: LabelSpace, width: int = 1000) -> Image.Image:
    """Every class's colour, id and name, in columns; and void's hatch. RGB, as high as it takes."""
    colors = class_colors(label_space)
    entries = [_Entry(colors[i], f"{i} {label_space.classes[i]}") for i in label_space.original_ids]
    font = label_font(15)
    columns, entry_width = _columns(entries, font, width)
    line = 23
    entries.append(_Entry(None, "void"))
    canvas = Image.new("RGB", (width, 2 * _GAP + -(-len(entries) // columns) * line), _PAPER)
    _draw_entries(canvas, entries, font, (columns, entry_width, line), _GAP)
    return canvas


def _cell_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(_CELL[0] / size[0], _CELL[1] / size[1])
    if scale >= 1:
        scale = int(scale)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fit(canvas: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Shrunk by averaging, so that a line one pixel wide fades instead of breaking up; enlarged by repeating pixels."""
    enlarging = size[0] >= canvas.width
    return canvas.resize(size, Image.Resampling.NEAREST if enlarging else Image.Resampling.BOX)


def _hatch_void(canvas: Image.Image, is_void: np.ndarray) -> Image.Image:
    """Stripes of the same width on every panel, whatever the size of the images: drawn after fitting."""
    mask = _fit(Image.fromarray(is_void.astype(np.uint8) * 255), canvas.size)
    stripes = Image.fromarray(hatch(canvas.height, canvas.width))
    return Image.composite(stripes, canvas, mask)


def _draw_map(original_ids: np.ndarray, label_space: LabelSpace, size: tuple[int, int]) -> Image.Image:
    canvas = _fit(Image.fromarray(colorize(original_ids, label_space)), size)
    return _hatch_void(canvas, void_mask(original_ids, label_space))


def _draw_errors(
    image: Image.Image, truth: np.ndarray, prediction: np.ndarray, label_space: LabelSpace, size: tuple[int, int]
) -> tuple[Image.Image, float | None]:
    """The error cell, and the share of labelled pixels that are wrong (None when none is labelled)."""
    is_void = void_mask(truth, label_space)
    wrong = (_merged(truth, label_space) != _merged(prediction, label_space)) & ~is_void
    grey = _DIM[0] + _DIM[1] * np.asarray(image.convert("L"), dtype=np.float32)
    drawn = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    drawn[wrong] = WRONG_COLOR
    labelled = int((~is_void).sum())
    share = int(wrong.sum()) / labelled if labelled else None
    return _hatch_void(_fit(Image.fromarray(drawn), size), is_void), share


def _merged(original_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """Ids as a prediction would say them: a merged class is the one it went into."""
    return label_space.decode_table[label_space.places(original_ids)]


def _legend(maps: Sequence[np.ndarray], label_space: LabelSpace) -> list[_Entry]:
    """The classes in the maps, by id; the largest ones where there are very many; void last."""
    colors = class_colors(label_space)
    pixels: dict[int, int] = {}
    for original_ids in maps:
        for i, n in zip(*np.unique(_merged(original_ids, label_space), return_counts=True), strict=True):
            pixels[int(i)] = pixels.get(int(i), 0) + int(n)
    present = [i for i in label_space.original_ids if i in pixels]
    largest = sorted(present, key=lambda i: -pixels[i])[:_MOST_LEGEND_ENTRIES]
    entries = [_Entry(colors[i], f"{i} {label_space.classes[i]}") for i in sorted(largest)]
    if hidden := len(present) - len(largest):
        entries.append(_Entry(_PAPER, f"and {hidden} smaller classes"))
    if any(void_mask(original_ids, label_space).any() for original_ids in maps):
        entries.append(_Entry(None, "void"))
    return entries


def _compose(cells: Sequence[tuple[str, Image.Image]], legend: Sequence[_Entry], title: str) -> Image.Image:
    slot = max(cells[0][1].width, _NARROWEST_SLOT)
    width = len(cells) * (slot + _GAP) + _GAP
    # Large enough to read when a wide panel is shown 1000 pixels wide, as on a page.
    font_size = max(14, round(width * 0.0135))
    font = label_font(font_size)
    line = round(font_size * 1.5)
    columns, entry_width = _columns(legend, font, width)
    rows = -(-len(legend) // columns)
    above, cells = [title] if title else [], list(cells)
    for place, (heading, canvas) in enumerate(cells):
        name, _, note = heading.partition(": ")
        if note and font.getlength(heading) > slot:  # on a line of its own, where all of it can be read
            above.append(heading)
            cells[place] = (name, canvas)
    top = _GAP + len(above) * line
    below = top + line + cells[0][1].height + _GAP
    canvas = Image.new("RGB", (width, below + rows * line + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, text in enumerate(above):
        draw.text((_GAP, _GAP + number * line), fitting(text, font, width - 2 * _GAP), _INK, font)
    left = _GAP
    first = cells[0][1]
    canvas.info[_IMAGE_BOX] = f"{left} {top + line} {left + first.width} {top + line + first.height}"
    for heading, cell in cells:
        draw.text((left, top), fitting(heading, font, slot), _INK, font)
        canvas.paste(cell, (left, top + line))
        left += slot + _GAP
    _draw_entries(canvas, legend, font, (columns, entry_width, line), below)
    return canvas


def _columns(entries: Sequence[_Entry], font: Any, width: int) -> tuple[int, int]:
    """How many columns of entries fit, and how wide each is."""
    longest = max((ceil(font.getlength(entry.text)) for entry in entries), default=0)
    entry_width = min(longest + font.size + 3 * _GAP, width - _GAP)
    return max(1, (width - _GAP) // entry_width), entry_width


def _draw_entries(
    canvas: Image.Image, entries: Sequence[_Entry], font: Any, layout: tuple[int, int, int], top: int
) -> None:
    """Swatch and text of each entry; the layout is columns, their width, and the height of a line."""
    columns, entry_width, line = layout
    draw, swatch = ImageDraw.Draw(canvas), font.size
    for number, entry in enumerate(entries):
        x, y = _GAP + number % columns * entry_width, top + number // columns * line
        if entry.color is None:
            canvas.paste(Image.fromarray(hatch(swatch, swatch)), (x, y))
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), entry.color, _FAINT)
        text = fitting(entry.text, font, entry_width - swatch - 3 * _GAP)
        draw.text((x + swatch + _GAP, y + swatch // 2), text, _INK, font, anchor="lm")
