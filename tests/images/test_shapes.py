"""Drawing of shapes: against matplotlib's point-in-polygon test, areas, and grids drawn by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy.spatial import Delaunay

from hf_dinoseg.errors import ImageError, TooLargeError
from hf_dinoseg.images import pack_fault, pack_shapes, polygon_shape, read_mask, run_shape
from hf_dinoseg.images.shapes import Overlap, fill

WIDTH, HEIGHT = 23, 17


def filled(rings: Sequence[Sequence[float]]) -> np.ndarray:
    left, top, inside = fill(rings, WIDTH, HEIGHT)
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return whole


def drawn(shapes: list[dict], overlap: Overlap = "last", unlabelled: int = 0) -> np.ndarray:
    packed = pack_shapes((WIDTH, HEIGHT), shapes, unlabelled, overlap)
    return read_mask({"path": "a.json", "bytes": packed})


def centres() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, y], -1).reshape(-1, 2) + 0.5


@pytest.mark.parametrize("seed", range(20))
def test_polygons_hold_the_pixels_whose_centres_are_inside(seed: int) -> None:
    """Corners anywhere, also outside of the image; edges cross one another. A pixel is inside by the even-odd rule."""
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-6, 26, (rng.integers(3, 9), 2)) for _ in range(rng.integers(1, 4))]
    crossings = np.zeros(HEIGHT * WIDTH, int)
    x, y = centres().T
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
            spans = (y0 > y) != (y1 > y)
            crossings += spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    expected = crossings.reshape(HEIGHT, WIDTH) % 2 == 1
    assert (filled([ring.ravel().tolist() for ring in rings]) == expected).all()


def test_a_convex_polygon_agrees_with_matplotlib() -> None:
    ring = np.array([[3.2, 1.1], [20.7, 4.4], [18.3, 15.9], [6.1, 12.2]])
    expected = Outline(ring).contains_points(centres()).reshape(HEIGHT, WIDTH)
    assert (filled([ring.ravel().tolist()]) == expected).all() and expected.sum() > 100


def test_polygons_that_share_edges_neither_overlap_nor_leave_gaps() -> None:
    """Triangles that tile a rectangle, with corners on centres and on borders of pixels."""
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT], *(rng.integers(1, 32, (40, 2)) / 2)])
    counts = sum(filled([corners[triangle].ravel().tolist()]).astype(int) for triangle in Delaunay(corners).simplices)
    assert (counts == 1).all()


def test_a_bridge_to_a_hole_takes_no_pixels() -> None:
    """One ring that goes to its hole and back along the same line, as formats without holes write them."""
    with_hole = filled([[2, 2, 12, 2, 12, 12, 2, 12], [5, 5, 8, 5, 8, 8, 5, 8]])
    bridged = filled([[2, 2, 5, 5, 8, 5, 8, 8, 5, 8, 5, 5, 2, 2, 12, 2, 12, 12, 2, 12]])
    assert (with_hole == bridged).all() and with_hole.sum() == 100 - 9


@pytest.mark.parametrize(("overlap", "owner"), [("last", 9), ("first", 300), ("smallest", 4)])
def test_overlap(overlap: Overlap, owner: int) -> None:
    shapes = [
        polygon_shape(300, [[[0, 0, 6, 0, 6, 6, 0, 6]]]),
        polygon_shape(4, [[[3, 3, 5, 3, 5, 5, 3, 5]]]),
        polygon_shape(9, [[[2, 2, 8, 2, 8, 8, 2, 8]]]),
    ]
    mask = drawn(shapes, overlap, unlabelled=255)
    assert mask[3, 3] == mask[4, 4] == owner
    assert (mask[0, 0], mask[7, 7], mask[9, 9]) == (300, 9, 255) and mask.dtype == np.uint16


def test_parts_are_joined_and_holes_are_cut() -> None:
    parts = [[[0, 0, 4, 0, 4, 4, 0, 4], [1, 1, 2, 1, 2, 2, 1, 2]], [[3, 3, 6, 3, 6, 5, 3, 5]]]
    mask = drawn([polygon_shape(1, parts)])
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[0:4, 0:4], expected[1, 1], expected[3:5, 3:6] = 1, 0, 1
    assert (mask == expected).all()


def test_runs_along_rows_and_down_columns() -> None:
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[2, 4:6], expected[3, 3:5] = 7, 7  # of a box 3 wide and 2 high: .XX / XX.
    assert (drawn([run_shape(7, [1, 4, 1], (3, 2, 3, 2))]) == expected).all()
    by_column = np.zeros((HEIGHT, WIDTH), int)
    by_column[3, 3] = by_column[2, 4] = by_column[3, 4] = by_column[2, 5] = 7
    assert (drawn([run_shape(7, [1, 4, 1], (3, 2, 3, 2), by_column=True)]) == by_column).all()


def test_what_cannot_be_drawn_is_an_error_that_names_the_file() -> None:
    for shape in (
        polygon_shape(1, [[[0, 0, float("nan"), 1, 2, 2]]]),
        polygon_shape(1, [[[0, 0, 1]]]),
        run_shape(1, [3, 3], (0, 0, 2, 2)),
        run_shape(1, [2, 2], (WIDTH - 1, 0, 2, 2)),
    ):
        with pytest.raises(ImageError, match=r"a\.json"):
            drawn([shape])
    with pytest.raises(ImageError, match="no image there"):
        read_mask({"path": "a.json", "bytes": pack_fault("no image there")})
    with pytest.raises(TooLargeError, match="max_pixels"):
        read_mask({"path": "a", "bytes": pack_shapes((90_000, 90_000), [], 0, "last")})
