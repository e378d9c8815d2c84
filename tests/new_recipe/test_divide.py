"""Neighbours of one scene and copies of one image stay on one side of the division."""

from __future__ import annotations

import numpy as np

from hf_dinoseg.new_recipe.divide import divide

NONE: list[tuple[int, int]] = []


def _video(frames: int, scenes: int = 3) -> np.ndarray:
    """Thumbnails of which each is nearly the one before it, but for cuts between scenes."""
    rng = np.random.default_rng(0)
    looks = []
    for _ in range(scenes):
        look = rng.normal(size=(8, 8))
        for _ in range(frames // scenes):
            look = look + 0.2 * rng.normal(size=(8, 8))
            looks.append(look)
    return np.stack(looks)


def test_a_video_is_cut_in_few_places() -> None:
    looks = _video(60)
    classes = [frozenset({0, 1})] * 60
    division = divide(looks, classes, NONE)
    assert division.validation is not None and division.train is not None
    assert len(division.validation) == 12 and sorted(division.train + division.validation) == list(range(60))
    assert np.diff(division.validation).max() == 1  # one stretch: at most two neighbours are parted


def test_the_stretch_is_one_that_shows_every_class() -> None:
    classes = [frozenset({0, 1}) if 20 <= i < 40 else frozenset({0}) for i in range(60)]
    division = divide(_video(60), classes, NONE)
    assert division.validation is not None and division.train is not None
    for side in (division.train, division.validation):
        assert frozenset[int]().union(*(classes[i] for i in side)) == {0, 1}


def test_images_that_have_nothing_to_do_with_one_another_are_drawn() -> None:
    looks = np.random.default_rng(0).normal(size=(60, 8, 8))
    assert divide(looks, [frozenset({0})] * 60, NONE).validation is None


def test_copies_stay_together() -> None:
    looks = np.random.default_rng(0).normal(size=(30, 8, 8))
    twins = [(0, 7), (7, 9), (3, 4)]
    division = divide(looks, [frozenset({0})] * 30, twins)
    assert division.validation is not None and 1 <= len(division.validation) <= 6
    held = set(division.validation)
    assert all((first in held) == (second in held) for first, second in twins)


def test_of_two_images_each_side_gets_one() -> None:
    division = divide(np.zeros((2, 8, 8)), [frozenset({0})] * 2, NONE)
    assert division.validation is None and "1 of 2" in division.reason
