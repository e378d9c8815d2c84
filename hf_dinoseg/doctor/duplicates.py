"""Images that are there more than once: in one split, or in training and in validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..images import cell_name
from .file_facts import byte_size, digest, named_cell
from .survey import Survey


@dataclass(frozen=True)
class Twins:
    """Two files that show the same.

    Attributes:
        first, second: their names.
        splits: where each of them is; the first split comes first.
        same_bytes: the files are equal; else only what they show is.
        masks_differ: their masks are not the same.
    """

    first: str
    second: str
    splits: tuple[str, str]
    same_bytes: bool
    masks_differ: bool


class _Image(NamedTuple):
    name: str
    split: str
    mask: Callable[[], Hashable]  # what tells its mask from others


def find_twins(
    splits: Mapping[str, Any], surveys: Mapping[str, Survey] | None = None, seconds: float | None = None
) -> list[Twins]:
    """Images equal to one before them: of its own split, and of the splits before.

    Files are compared byte for byte, and only those of equal size are opened. Where a survey decoded images, what
    they show is compared as well, which finds one image saved in two ways. Images of one colour are left out: they
    look alike without being the same.

    Args:
        splits: rows with `id`, `image`, `mask`, by index.
        surveys: of the same splits.
        seconds: end the search after this time; None has no limit.
    """
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    by_size: dict[int, list[tuple[str, int]]] = {}
    for split, rows in splits.items():
        for place in range(len(rows)):
            if time.monotonic() > deadline:
                break
            if size := byte_size(rows[place]["image"]):
                by_size.setdefault(size, []).append((split, place))
    same_file: dict[Hashable, list[_Image]] = {}
    for split, place in (where for wheres in by_size.values() if len(wheres) > 1 for where in wheres):
        if time.monotonic() > deadline:
            break
        row = splits[split][place]
        if (key := digest(row["image"])) is not None:
            mask = _later(digest, row["mask"])
            same_file.setdefault(key, []).append(_Image(cell_name(named_cell(row, "image")), split, mask))
    twins = [*_twins(same_file.values(), same_bytes=True)]
    told = {(twin.splits, twin.second) for twin in twins}
    same_pixels: dict[Hashable, list[_Image]] = {}
    for split, survey in (surveys or {}).items():
        for pair in survey.pairs:
            if pair.image.pixels and pair.image.extrema and pair.image.extrema[0] < pair.image.extrema[1]:
                values = tuple(sorted(pair.values.items()))
                image = _Image(pair.image.name, split, _later(hash, values))
                same_pixels.setdefault(pair.image.pixels, []).append(image)
    return twins + [t for t in _twins(same_pixels.values(), same_bytes=False) if (t.splits, t.second) not in told]


def _twins(groups: Iterable[list[_Image]], same_bytes: bool) -> Iterator[Twins]:
    for group in groups:
        first: dict[str, _Image] = {}
        for image in group:
            for split, other in first.items():
                differ = other.mask() != image.mask()
                yield Twins(other.name, image.name, (split, image.split), same_bytes, differ)
            first.setdefault(image.split, image)


def _later(function: Callable[[Any], Hashable], argument: Any) -> Callable[[], Hashable]:
    return lambda: function(argument)
