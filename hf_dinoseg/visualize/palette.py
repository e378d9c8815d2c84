"""Which colour a class has, and label maps as files that show it.

The dataset's own colours come first. Classes without one get a colour that depends only on their place among the
classes. Two runs, or a file and its legend, therefore agree: black for a class named "background", then the seven
chromatic colours of Okabe and Ito that stay apart for every common kind of colour vision
(https://jfly.uni-koeln.de/color/), then, for as many classes as there are, the colour farthest from all before it in
the perceptual space OKLab (https://bottosson.github.io/posts/oklab/).

The palette `colorblind` takes no colour from the dataset, and measures how far two colours are by the eye that tells
them apart least: one with all three kinds of cones, or one that lacks a kind (`color_vision`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from ..errors import InputError
from ..labels import MOST_ID, Color, LabelSpace
from .color_blindness import DEFICIENCIES, oklab, seen_with, to_linear

Palette = Literal["dataset", "colorblind"]

VOID_COLOR: Color = (128, 128, 128)
BACKGROUND_COLOR: Color = (0, 0, 0)

_OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_LEVELS = np.linspace(10, 250, 17).round().astype(np.uint8)  # of each channel, in the grid that colours are taken from
_LIGHTNESS = (0.35, 0.95)  # OKLab L: neither lost on black nor on white
_LEAST_CHROMA = 0.05  # OKLab: greys are for void and for dimmed images


def class_colors(label_space: LabelSpace) -> dict[int, Color]:
    """The colour of each class.

    Args:
        label_space: its `colors` are used for the classes that have one.

    Returns:
        `{original id: (R, G, B)}` for every class, classes that are merged into another sharing its colour. No two
        other generated colours are equal, none is the grey of void, and only background is black. Void has
        `VOID_COLOR` whatever the label space says.

    Example:
        >>> class_colors(LabelSpace({0: "background", 1: "vessel", 2: "disc"}, colors={2: (255, 255, 255)}))
        {0: (0, 0, 0), 1: (230, 159, 0), 2: (255, 255, 255)}
    """
    given = {i: c for i, c in label_space.colors.items() if i in label_space.original_ids}
    wanting = [i for i in label_space.original_ids if i not in given]
    colors = dict(given)
    colors.update(_generated(label_space, wanting, tuple(given.values()), safe=False))
    colors = {i: colors[i] for i in label_space.original_ids}
    colors.update({source: colors[target] for source, target in label_space.merge.items()})
    return colors


def with_palette(label_space: LabelSpace, palette: Palette) -> LabelSpace:
    """The label space as images are to be drawn from it.

    Args:
        palette: `dataset` changes nothing; `colorblind` gives every class a colour that stays apart from the others
            for common kinds of colour vision, whatever the dataset's colours are.

    Returns:
        A label space to draw with; the other one goes on reading masks, whose colours may name classes.

    Raises:
        ValueError: on another palette, or more classes than there are colours.

    Example:
        >>> red_and_green = LabelSpace({0: "background", 1: "a", 2: "b"}, colors={1: (200, 0, 0), 2: (0, 140, 0)})
        >>> class_colors(with_palette(red_and_green, "colorblind"))
        {0: (0, 0, 0), 1: (230, 159, 0), 2: (86, 180, 233)}
    """
    if palette == "dataset":
        return label_space
    if palette != "colorblind":
        raise InputError(f"palette is {palette!r}; it is one of dataset, colorblind.")
    colors = _generated(label_space, list(label_space.original_ids), (), safe=True)
    return replace(label_space, colors=colors, encoding="index", unknown_colors="error")


def _generated(label_space: LabelSpace, wanting: list[int], taken: tuple[Color, ...], safe: bool) -> dict[int, Color]:
    """Colours for the classes that want one; black for the one named background."""
    background = next((i for i in wanting if label_space.classes[i].strip().casefold() == "background"), None)
    others = [i for i in wanting if i != background]
    colors = dict(zip(others, _distinct_colors(len(others), taken, safe), strict=True))
    return colors if background is None else {background: BACKGROUND_COLOR, **colors}


def drawn_black(original_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """(H, W) bool: where the class is drawn black, as background is; clear in overlays."""
    return np.isin(original_ids, [i for i, color in class_colors(label_space).items() if not any(color)])


def void_mask(original_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """(H, W) bool: where a map of original ids is void.

    Raises:
        ValueError: on an id that is neither a class nor void; nothing unknown is drawn as if it were void.
    """
    classes = [*label_space.original_ids, *label_space.merge]
    is_void = ~np.isin(original_ids, classes)
    if is_void.any():
        void = {*label_space.ignore, label_space.void_id}
        if unknown := sorted(set(np.unique(original_ids[is_void]).tolist()) - void):
            raise InputError(
                f"ids {', '.join(map(str, unknown[:8]))} are neither classes nor void in the label space. Images "
                "are drawn from original ids: pass train ids through LabelSpace.decode first."
            )
    return is_void


def colorize(original_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """A map of original ids in its classes' colours.

    Args:
        original_ids: (H, W) integers.

    Returns:
        (H, W, 3) uint8; void is `VOID_COLOR`.

    Raises:
        ValueError: on an id that the label space does not know.
    """
    is_void = void_mask(original_ids, label_space)
    colors = class_colors(label_space)
    ids = np.array(sorted(colors))
    table = np.array([colors[i] for i in ids.tolist()], dtype=np.uint8)
    drawn = table[np.searchsorted(ids, np.where(is_void, ids[0], original_ids))]
    drawn[is_void] = VOID_COLOR
    return drawn


def palette_image(original_ids: np.ndarray, label_space: LabelSpace, transparent: bool = False) -> Image.Image:
    """A label map as an image that is both: its pixel values are the original ids, and it shows their colours.

    Args:
        original_ids: (H, W) integers.
        transparent: classes that are drawn black (background) are clear once the image is saved as PNG; the ids are
            the same. 16-bit grey stays as it is.

    Returns:
        A mode "P" image (index = original id) when every id of the label space is below 256. Otherwise mode "I;16",
        16-bit grey with the ids as values: palettes end at 256 colours, so such a file keeps the ids and looks dark.
        The mode follows from the label space, so all files of one dataset are alike.

    Raises:
        ValueError: on an id that the label space does not know, or that no PNG can hold (negative or above 65535).
    """
    void_mask(original_ids, label_space)
    answers = {*label_space.original_ids, label_space.void_id, int(original_ids.min()), int(original_ids.max())}
    if unfit := sorted(i for i in answers if not 0 <= i <= MOST_ID):
        raise InputError(
            f"ids {', '.join(map(str, unfit[:8]))} do not fit in a label image, which holds 0 to {MOST_ID}. Save the "
            "masks with other ids, and train by these."
        )
    # ids that are only read (merged or void in masks) may be of any size
    ids = {i for i in (*label_space.merge, *label_space.ignore) if 0 <= i <= MOST_ID} | answers
    if max(ids) > 255:
        return Image.fromarray(original_ids.astype(np.uint16))
    palette = np.full((256, 3), VOID_COLOR, dtype=np.uint8)
    for original_id, color in class_colors(label_space).items():
        if original_id in ids:
            palette[original_id] = color
    image = Image.fromarray(original_ids.astype(np.uint8))
    image.putpalette(palette.tobytes())
    if transparent:
        clear = {i for i, color in class_colors(label_space).items() if not any(color)}
        image.info["transparency"] = bytes(0 if i in clear else 255 for i in range(256))
    return image


@lru_cache(maxsize=8)
def _distinct_colors(count: int, taken: tuple[Color, ...], safe: bool) -> tuple[Color, ...]:
    """`count` colours, each far from those before it, from `taken`, and from black, white and void grey; `safe` for
    every kind of colour vision."""
    fixed = [BACKGROUND_COLOR, VOID_COLOR, (255, 255, 255), *taken]
    chosen = [c for c in _OKABE_ITO if c not in taken][:count]
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(to_linear(grid))
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (chroma > _LEAST_CHROMA)
    grid, lab = grid[usable], _seen(grid[usable], safe)
    distance = np.full(len(grid), np.inf)
    for color in _seen(np.array([*fixed, *chosen], dtype=np.uint8), safe):
        distance = np.minimum(distance, np.square(lab - color).sum(axis=2).min(axis=1))
    while len(chosen) < count:
        best = int(distance.argmax())
        if distance[best] == 0:
            raise InputError(f"{count} classes are more than there are distinct colours ({len(chosen)}).")
        chosen.append((int(grid[best, 0]), int(grid[best, 1]), int(grid[best, 2])))
        distance = np.minimum(distance, np.square(lab - lab[best]).sum(axis=2).min(axis=1))
    return tuple(chosen)


def _seen(rgb: np.ndarray, safe: bool) -> np.ndarray:
    """(N, 3) uint8 sRGB to (N, kinds of colour vision, 3) OKLab."""
    linear = to_linear(rgb)
    return np.stack([oklab(linear), *(oklab(seen_with(linear, d)) for d in DEFICIENCIES if safe)], axis=1)
