"""Reading a split for the doctor: what its files are and which values its masks hold, faults included.

Masks are read raw. Nothing here asks the label space whether a value is allowed; that is what checks are for.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..errors import DataError
from ..images import MAX_PIXELS, cell_name, open_image, read_mask
from ..labels import Color, LabelSpace
from .file_facts import FileFacts, inspect_image, named_cell, presence

#: of the pixels that are 0: with more than this in lines, 0 is drawn as seams between regions are
MOSTLY_LINES = 0.8

_THIN = 3  # pixels: a region nowhere wider than twice this and one is a line


@dataclass(frozen=True)
class ZeroPattern:
    """Where the value 0 lies in one mask, in pixels."""

    thin: int  # in lines
    frame: int  # on the outermost ring of the image
    frame_total: int


@dataclass(frozen=True)
class PairFacts:
    """An image and its mask as they were found.

    Attributes:
        values: pixels of each raw value: the number, or the packed colour (R << 16 | G << 8 | B) if `colored`.
        palette: the colours that a palette mask gives to the values found.
    """

    id: str
    image: FileFacts
    mask: FileFacts
    values: dict[int, int] = field(default_factory=dict)
    colored: bool = False
    palette: dict[int, Color] = field(default_factory=dict)
    zero: ZeroPattern | None = None


@dataclass(frozen=True)
class Survey:
    """What was found in one split.

    Attributes:
        rows: pairs in the split.
        pairs: the pairs that were read.
        absent: files, of all rows, that are missing or empty.
    """

    rows: int
    pairs: tuple[PairFacts, ...]
    absent: tuple[FileFacts, ...] = ()

    @property
    def complete(self) -> bool:
        return len(self.pairs) == self.rows

    def counts(self, colored: bool = False) -> Counter[int]:
        """Pixels of each raw value over the masks of one kind."""
        total: Counter[int] = Counter()
        for pair in self.pairs:
            if pair.colored == colored:
                total.update(pair.values)
        return total

    def scope(self) -> str:
        """How much the figures rest on: `51 masks`, or `500 of 20210 masks`."""
        return f"{self.rows} masks" if self.complete else f"{len(self.pairs)} of {self.rows} masks"


def survey(
    rows: Any,
    encoding: str,
    samples: int | None = None,
    num_threads: int | None = None,
    decode_images: bool = True,
    seconds: float | None = None,
    progress: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Survey:
    """Read pairs spread evenly over a split.

    Args:
        rows: has a length and yields `{"id", "image", "mask"}`, also by index: a `datasets.Dataset` of a source.
        encoding: the label space's.
        samples: pairs to read at most; None reads all.
        num_threads: None for one a core. Pillow decodes outside the interpreter lock.
        decode_images: read the images' pixels too, not only their heads.
        seconds: begin no further pair after this time; None has no limit. At least one pair is read.
        progress: words before a progress bar on standard error; None draws none.
        max_pixels: files of more are refused.
    """
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    count = len(rows)
    chosen = even_indices(count, samples)
    # shuffled: what was read by the deadline is then spread over the split
    chosen = np.random.default_rng(0).permutation(chosen).tolist()

    def read(place: int) -> tuple[int, PairFacts] | None:
        if time.monotonic() > deadline and place != chosen[0]:
            return None
        return place, read_pair(rows[place], encoding, decode_images, max_pixels)

    with ThreadPoolExecutor(num_threads or usable_cores()) as pool:
        results = tqdm(pool.map(read, chosen), progress, len(chosen), unit="pair", disable=None if progress else True)
        found = sorted((result for result in results if result is not None), key=lambda r: r[0])
    pairs = tuple(pair for _, pair in found)
    read_places = {place for place, _ in found}
    absent = [
        file for pair in pairs for file in (pair.image, pair.mask) if file.fault_code in ("missing-file", "empty-file")
    ]
    if len(pairs) < count:
        for place in (p for p in range(count) if p not in read_places):
            if time.monotonic() > deadline:
                break
            row = rows[place]
            absent += [file for c in ("image", "mask") if (file := presence(named_cell(row, c))) is not None]
    return Survey(count, pairs, tuple(absent))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def even_indices(count: int, most: int | None) -> np.ndarray:
    """At most `most` of 0..count-1, spread evenly, ascending."""
    if most is None or most >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(int)


def read_pair(
    row: Mapping[str, Any], encoding: str, decode_image: bool = True, max_pixels: int = MAX_PIXELS
) -> PairFacts:
    """One row; a file that cannot be read is a fault in what is returned."""
    image = inspect_image(named_cell(row, "image"), decode_image, max_pixels)
    cell = named_cell(row, "mask")
    mask = inspect_image(cell, decode=False, max_pixels=max_pixels)
    if mask.fault is not None:
        return PairFacts(str(row["id"]), image, mask)
    try:
        stored = read_mask(cell, encoding, max_pixels)
    except DataError as error:
        return PairFacts(str(row["id"]), image, mask.broken(_without_name(str(error), cell_name(cell))))
    except MemoryError:
        return PairFacts(str(row["id"]), image, mask.broken("too large for this machine's memory"))
    if stored.ndim == 3:
        return PairFacts(str(row["id"]), image, mask, _color_counts(stored), colored=True)
    if stored.dtype == bool:
        stored = stored.astype(np.uint8) * (255 if encoding == "binary" else 1)
    values = value_counts(stored)
    palette = _palette(cell, values, max_pixels) if mask.mode == "P" else {}
    return PairFacts(str(row["id"]), image, mask, values, False, palette, zero_pattern(stored) if 0 in values else None)


def value_counts(stored: np.ndarray) -> dict[int, int]:
    """Pixels of each value of an integer array."""
    if stored.dtype in (np.uint8, np.uint16):
        counts = np.bincount(stored.ravel())
        return {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    values, numbers = np.unique(stored, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, numbers, strict=True)}


def pack(color: Sequence[int]) -> int:
    """A colour as one number."""
    return int(color[0]) << 16 | int(color[1]) << 8 | int(color[2])


def unpack(packed: int) -> Color:
    return packed >> 16, packed >> 8 & 255, packed & 255


def _color_counts(stored: np.ndarray) -> dict[int, int]:
    wide = stored.astype(np.uint32)
    return value_counts((wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]).ravel())


def raw_ids(space: LabelSpace) -> dict[int, int]:
    """`{raw value: original id}` of everything that may stand in a mask, in the terms of `PairFacts.values`."""
    if space.encoding == "binary":
        pairs = ((0, 0), (255, 1))
        return {raw: original for raw, original in pairs if original in space.train_ids}
    if space.encoding == "rgb":
        return {pack(color): original for original, color in space.colors.items() if original in space.train_ids}
    return {original: original for original in space.train_ids}


def train_counts(found: Mapping[int, int], space: LabelSpace) -> np.ndarray:
    """(num_labels + 1,) pixels of each train id, void last; values that the label space does not know are left out."""
    known = raw_ids(space)
    counts = np.zeros(space.num_labels + 1, dtype=np.int64)
    for value, pixels in found.items():
        if (original := known.get(value)) is not None:
            train_id = space.train_ids[original]
            counts[space.num_labels if train_id == space.ignore_index else train_id] += pixels
    return counts


def _palette(cell: Mapping[str, Any], values: Mapping[int, int], max_pixels: int) -> dict[int, Color]:
    with open_image(cell, max_pixels) as image:
        flat = image.getpalette("RGB") or []
    return {v: (flat[3 * v], flat[3 * v + 1], flat[3 * v + 2]) for v in values if 3 * v + 2 < len(flat)}


def zero_pattern(stored: np.ndarray) -> ZeroPattern:
    """Where 0 lies in a (H, W) mask: in lines, and on the image's rim."""
    zero = stored == 0
    core = _over_squares(zero, np.logical_and, beyond=True)  # erosion
    core = _over_squares(core, np.logical_or, beyond=False)  # and back: what is left after both is wide
    rim = np.ones_like(zero)
    rim[1:-1, 1:-1] = False
    return ZeroPattern(int((zero & ~core).sum()), int((zero & rim).sum()), int(rim.sum()))


def zero_in_lines(pairs: Iterable[PairFacts]) -> float:
    """Of the pixels that are 0 in these masks, the share in lines; 0 if none is."""
    zero = [(pair.zero.thin, pair.values[0]) for pair in pairs if pair.zero is not None]
    return sum(thin for thin, _ in zero) / max(1, sum(count for _, count in zero))


def _over_squares(flags: np.ndarray, combine: np.ufunc, beyond: bool) -> np.ndarray:
    """All (or any) of the flags in the square around each pixel, whose side is 2 `_THIN` + 1 = 7 pixels."""
    for _ in range(2):  # rows, then, after turning, columns
        line = np.pad(flags, [(_THIN, _THIN), (0, 0)], constant_values=beyond)
        pairs = combine(line[:-1], line[1:])
        fours = combine(pairs[:-2], pairs[2:])
        flags = combine(fours[:-3], fours[3:]).T
    return flags


def _without_name(message: str, name: str) -> str:
    return message.removeprefix(f"{name}: ").rstrip(".")
