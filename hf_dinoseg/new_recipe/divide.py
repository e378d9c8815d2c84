"""Which images are held out: neighbours of one scene, and copies, stay on one side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..doctor.duplicates import Twins

SHARE = 0.2
_LIKE_NEIGHBOURS = 3.5  # standard errors, see `neighbours_alike`
_RANDOM_PAIRS = 10_000
_STRETCHES = 10  # places that a stretch of neighbours is tried at


@dataclass(frozen=True)
class Division:
    """Training and validation.

    Attributes:
        train, validation: places of the images, ascending; None where a share by chance is as good (`data.validation:
            0.2`).
        reason: a sentence for the recipe.
    """

    train: list[int] | None
    validation: list[int] | None
    reason: str


def divide(
    looks: np.ndarray, classes: Sequence[frozenset[int]], twins: Sequence[tuple[int, int]], share: float = SHARE
) -> Division:
    """Hold a share of the images out.

    Args:
        looks: (N, S, S) thumbnails of the images, in order of their names.
        classes: the classes in each mask.
        twins: pairs of places that show the same.
        share: of the images that are held out.
    """
    count = len(looks)
    held = min(max(1, round(share * count)), count - 1)
    if count >= 2 * _STRETCHES and neighbours_alike(looks) >= _LIKE_NEIGHBOURS:
        validation = _stretch(classes, held)
        reason = (
            "images that follow one another look alike (a video, a scan, one place after the other): a stretch of "
            f"{held} is held out, so that no neighbour of a training image is among them"
        )
        return _lists(validation, count, reason)
    if twins:
        validation = _whole_groups(_groups(count, twins), held)
        return _lists(validation, count, f"{len(validation)} images are held out; copies of one image stay together")
    return Division(None, None, f"{held} of {count} images are held out, drawn by their names: always the same")


def neighbours_alike(looks: np.ndarray) -> float:
    """How much more alike neighbours are than any two images: their mean correlation, in standard errors above that
    of pairs drawn at random.

    Measured: 4.7 to 17 for stretches of 40 to 184 frames of CamVid, below 1.3 for the same frames in random
    order and for drawn retina images.
    """
    flat = looks.reshape(len(looks), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9
    rng = np.random.default_rng(0)
    first = rng.integers(len(flat), size=_RANDOM_PAIRS)
    second = (first + rng.integers(1, len(flat), size=_RANDOM_PAIRS)) % len(flat)
    by_chance = (flat[first] * flat[second]).sum(axis=1)
    neighbours = (flat[:-1] * flat[1:]).sum(axis=1)
    error = by_chance.std() / np.sqrt(len(neighbours)) + 1e-9
    return float((neighbours.mean() - by_chance.mean()) / error)


def twin_places(twins: Sequence[Twins], names: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the images that `doctor.find_twins` found."""
    place = {name: i for i, name in enumerate(names)}
    return [(place[t.first], place[t.second]) for t in twins if t.first in place and t.second in place]


def _stretch(classes: Sequence[frozenset[int]], held: int) -> list[int]:
    """The stretch in which, and outside of which, most classes are seen; of equal ones the last."""
    count = len(classes)

    def seen(start: int) -> int:
        inside = frozenset[int]().union(*classes[start : start + held])
        outside = frozenset[int]().union(*classes[:start], *classes[start + held :])
        return len(inside) + len(outside)

    starts = np.linspace(0, count - held, _STRETCHES).round().astype(int).tolist()
    best = max(starts, key=lambda start: (seen(start), start))
    return list(range(best, best + held))


def _groups(count: int, twins: Sequence[tuple[int, int]]) -> list[list[int]]:
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for first, second in twins:
        parent[root(first)] = root(second)
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _whole_groups(groups: list[list[int]], held: int) -> list[int]:
    order = np.random.default_rng(0).permutation(len(groups)).tolist()
    chosen: list[int] = []
    for i in sorted(order, key=lambda i: len(groups[i])) if len(groups) < 5 else order:
        if len(chosen) + len(groups[i]) <= held or not chosen:
            chosen += groups[i]
    return sorted(chosen)


def _lists(validation: Sequence[int], count: int, reason: str) -> Division:
    held = set(validation)
    return Division([i for i in range(count) if i not in held], sorted(held), reason)
