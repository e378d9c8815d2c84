"""From a label map to polygons: outlines along the edges of pixels, and simpler ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..labels import LabelSpace

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up; y points down


class Region(NamedTuple):
    """Pixels of one class that touch at their sides.

    Attributes:
        label_id: the class's original id.
        rings: (N, 2) corners (x, y) in pixels, the outer ring first, then its holes. The corner of the first pixel is
            (0, 0). Rings are closed; the first corner does not come again.
        pixels: how many there are.
    """

    label_id: int
    rings: list[np.ndarray]
    pixels: int


def regions(label_map: np.ndarray, labels: LabelSpace, tolerance: float = 0.0) -> list[Region]:
    """The regions of all classes, in the order of `labels.original_ids`; void is none.

    Args:
        label_map: (H, W) original ids.
        labels: which ids are classes.
        tolerance: outlines may leave out corners that are at most so many pixels away from what is left; 0 keeps each
            pixel where it is. A ring that would become a line stays as it is.
    """
    found: list[Region] = []
    present = set(np.unique(label_map).tolist())
    for label_id in labels.original_ids:
        if label_id not in present:
            continue
        pieces, _ = ndimage.label(label_map == label_id)
        for number, place in enumerate(ndimage.find_objects(pieces), 1):
            inside = pieces[place] == number
            rings = [ring + (place[1].start, place[0].start) for ring in outlines(inside)]
            found.append(Region(label_id, [simplified(ring, tolerance) for ring in rings], int(inside.sum())))
    return found


def outlines(inside: np.ndarray) -> list[np.ndarray]:
    """The rings about a piece whose pixels touch at their sides: (H, W) bool to (N, 2) corners each.

    The outer ring is the first and goes clockwise as it is seen; holes go the other way. Filled by the even-odd rule,
    they give the very same pixels.
    """
    height, width = inside.shape
    padded = np.pad(inside, 1)
    here = padded[1:-1, 1:-1]
    wide = width + 1
    edges: list[set[int]] = []  # of each direction, the corners at which an edge begins, the piece on its right
    for (row, column), beside in zip(
        ((0, 0), (0, 1), (1, 1), (1, 0)),
        (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2]),
        strict=True,
    ):
        y, x = np.nonzero(here & ~beside)
        edges.append(set(((y + row) * wide + x + column).tolist()))
    ahead = [dx + dy * wide for dx, dy in _STEPS]
    rings = []
    for start in sorted(edges[0]):
        if start not in edges[0]:
            continue
        corners, at, direction, closed = [start], start, 0, False
        while not closed:
            edges[direction].discard(at)
            at += ahead[direction]
            # where four corners meet, to the right: pixels that touch at a corner only are no neighbours
            for way in ((direction + 1) % 4, direction, (direction + 3) % 4):
                if (closed := at == start and way == 0) or at in edges[way]:
                    break
            if way != direction and not closed:
                corners.append(at)
            direction = way
        rings.append(np.stack([np.array(corners) % wide, np.array(corners) // wide], axis=1))
    return sorted(rings, key=_area, reverse=True)


def _area(ring: np.ndarray) -> float:
    """Positive for rings that go clockwise as they are seen."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A ring with fewer of its corners: those left out lie at most `tolerance` away from it.

    Ramer, 1972, https://doi.org/10.1016/S0146-664X(72)80017-0; Douglas and Peucker, 1973.
    """
    if tolerance <= 0 or len(ring) <= 4:
        return ring
    points = np.concatenate([ring, ring[:1]]).astype(np.float64)
    far = int(np.square(points - points[0]).sum(axis=1).argmax())
    kept = np.zeros(len(points), bool)
    kept[[0, far, len(ring)]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        distances = _distances(points[first + 1 : last], points[first], points[last])
        if distances.max() > tolerance:
            middle = first + 1 + int(distances.argmax())
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    simple = ring[kept[:-1]]
    return simple if len(simple) > 2 and _area(simple) * _area(ring) > 0 else ring


def _distances(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of (N, 2) points from the line between a and b."""
    along = b - a
    length = float(along @ along)
    share = np.clip((points - a) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.sqrt(np.square(points - a - share[:, None] * along).sum(axis=1))


def joined(rings: list[np.ndarray]) -> np.ndarray:
    """One ring for formats without holes: it goes to each hole and back along the same line, which takes no pixels."""
    outer = rings[0]
    if len(rings) == 1:
        return outer
    tree, ways = cKDTree(outer), dict[int, list[np.ndarray]]()
    for hole in rings[1:]:
        distances, nearest = tree.query(hole)
        there = int(distances.argmin())
        ways.setdefault(int(nearest[there]), []).append(np.concatenate([hole[there:], hole[: there + 1]]))
    parts: list[np.ndarray] = []
    for corner in range(len(outer)):
        parts.append(outer[corner : corner + 1])
        for around in ways.get(corner, ()):
            parts += [around, outer[corner : corner + 1]]
    return np.concatenate(parts)
