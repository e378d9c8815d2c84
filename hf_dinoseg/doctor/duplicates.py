"""Images that are there more than once: in one split, or in training and in validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..images import cell_name
from .file_facts import THUMBNAIL, byte_size, digest, named_cell
from .survey import PairFacts, Survey

#: Two images are the same if no pixel of their thumbnails, at mean 0 and standard deviation 1, differs by more.
#: tests/doctor/test_duplicates.py measures it: copies of CamVid's and drawn retina images, in other formats, at JPEG
#: quality 20 and better, of half, odd and double size, mirrored and turned, stay below nine tenths of it; other frames
#: of CamVid are more than twice as far apart, other drawn images three times.
ALIKE = 0.25

_LEAST_CONTRAST = 2.0  # grey levels: below, a thumbnail shows nothing to compare
_MASKS_ALIKE = 0.02  # of the pixels, where masks of two sizes are compared
_ROWS = 1024  # thumbnails compared at once with all before them


@dataclass(frozen=True)
class Twins:
    """Two files that show the same.

    Attributes:
        first, second: their names.
        splits: where each of them is; the first split comes first.
        same_bytes: the files are equal; else they look alike, perhaps after mirroring or turning one.
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
    """Images that equal an earlier one, of the same split or of a split before it.

    Files are compared byte for byte, and only those of equal size are opened. Where a survey decoded images, what
    they show is compared as well, which finds an image saved in another format, size or quality, and one that was
    mirrored or turned (see `ALIKE`). Images of nearly one colour are left out: they look alike without being the same.

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
    twins = [*_same_files(same_file.values())]
    told = {(twin.splits, twin.second) for twin in twins}
    return twins + [t for t in _look_alikes(surveys or {}) if (t.splits, t.second) not in told]


def _look_alikes(surveys: Mapping[str, Survey]) -> Iterator[Twins]:
    pairs = [(split, pair) for split, survey in surveys.items() for pair in survey.pairs if pair.image.thumbnail]
    looks = np.array([np.frombuffer(pair.image.thumbnail or b"", np.uint8) for _, pair in pairs], np.float32)
    looks = looks.reshape(-1, THUMBNAIL, THUMBNAIL)
    clear = np.flatnonzero(looks.std(axis=(1, 2)) >= _LEAST_CONTRAST)
    for second, firsts in _alike(looks[clear]):
        split, pair = pairs[clear[second]]
        met: set[str] = set()
        for other_split, other in (pairs[clear[first]] for first in firsts):
            if other_split not in met:
                met.add(other_split)
                yield Twins(other.image.name, pair.image.name, (other_split, split), False, _masks_differ(other, pair))


def _alike(looks: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Each thumbnail that is like one before it, in any of the eight ways to mirror and turn it, with all those."""
    if not len(looks):
        return
    looks = (looks - looks.mean(axis=(1, 2), keepdims=True)) / looks.std(axis=(1, 2), keepdims=True)
    coarse, squares = _coarse(looks)
    # no pixel differs by more than ALIKE: then neither do the means of 2×2 pixels in quadratic mean, which one
    # product of matrices tells for very many at once
    farthest = coarse.shape[1] * ALIKE**2
    for start in range(0, len(looks), _ROWS):
        block = looks[start : start + _ROWS]
        likes: dict[int, set[int]] = {}
        for turns in range(8):
            turned = np.rot90(block[..., ::-1] if turns % 2 else block, turns // 2, axes=(1, 2))
            own, own_squares = _coarse(turned)
            end = start + len(block)
            distances = own_squares[:, None] + squares[None, :end] - 2 * (own @ coarse[:end].T)
            for row, first in zip(*np.nonzero(distances <= farthest), strict=True):
                if first < start + row and np.abs(turned[row] - looks[first]).max() <= ALIKE:
                    likes.setdefault(start + int(row), set()).add(int(first))
        yield from ((second, sorted(likes[second])) for second in sorted(likes))


def _coarse(looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, side² / 4) means of 2×2 pixels, and (N,) sums of their squares."""
    half = THUMBNAIL // 2
    means = np.ascontiguousarray(looks).reshape(-1, half, 2, half, 2).mean(axis=(2, 4)).reshape(len(looks), -1)
    return means, np.square(means).sum(axis=1)


def _masks_differ(first: PairFacts, second: PairFacts) -> bool:
    """Whether two masks hold other values; of masks of two sizes, which may lose a few pixels, clearly other shares."""
    if not first.values or not second.values:
        return False
    totals = sum(first.values.values()), sum(second.values.values())
    if totals[0] == totals[1]:
        return first.values != second.values
    apart = sum(
        abs(first.values.get(v, 0) / totals[0] - second.values.get(v, 0) / totals[1])
        for v in {*first.values, *second.values}
    )
    return apart / 2 > _MASKS_ALIKE


def _same_files(groups: Iterable[list[_Image]]) -> Iterator[Twins]:
    for group in groups:
        first: dict[str, _Image] = {}
        for image in group:
            for split, other in first.items():
                differ = other.mask() != image.mask()
                yield Twins(other.name, image.name, (split, image.split), True, differ)
            first.setdefault(image.split, image)


def _later(function: Callable[[Any], Hashable], argument: Any) -> Callable[[], Hashable]:
    return lambda: function(argument)
