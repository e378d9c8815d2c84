"""Photometric jitter against colour theory."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from hf_dinoseg.data.color_jitter import change_colors, color_matrix, jitter_matrix


def linear(**change: float) -> np.ndarray:
    """3×3, of a change that moves no black."""
    matrix = np.reshape(jitter_matrix(**{"brightness": 0, "contrast": 1, "saturation": 1, "hue": 0, **change}), (3, 4))
    assert (matrix[:, 3] == 0).all()
    return matrix[:, :3]


def test_hue_matrix_turns_red_to_green_to_blue_and_keeps_greys() -> None:
    assert np.allclose(linear(hue=0), np.eye(3))
    assert np.allclose(linear(hue=1 / 3) @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(linear(hue=1 / 3) @ [0, 1, 0], [0, 0, 1])
    for turn in (-0.07, 0.03, 0.4):
        assert np.allclose(linear(hue=turn) @ np.full(3, 0.6), 0.6)
        turned = linear(hue=turn) @ [0.6, 0.4, 0.4]  # pale: HSV's hexagon and the circle nearly agree
        if abs(turn) < 0.1:
            assert abs((colorsys.rgb_to_hsv(*turned)[0] - turn + 0.5) % 1 - 0.5) < 0.01


def test_saturation_matrix_keeps_luma_and_scales_the_distance_from_grey() -> None:
    color = np.array([200.0, 50.0, 120.0])
    luma = 0.299 * 200 + 0.587 * 50 + 0.114 * 120
    assert np.allclose(linear(saturation=0) @ color, luma)
    assert np.allclose(linear(saturation=1) @ color, color)
    assert np.allclose(linear(saturation=1.5) @ color, luma + 1.5 * (color - luma))


def test_changes_follow_one_another_as_brightness_contrast_saturation_hue() -> None:
    color = np.array([30.0, 90.0, 170.0])
    expected = (color + 20) * 1.3
    luma = expected @ [0.299, 0.587, 0.114]
    expected = luma + 0.6 * (expected - luma)
    expected = Rotation.from_rotvec(2 * np.pi * 0.04 * np.ones(3) / np.sqrt(3)).apply(expected)
    assert np.allclose(np.reshape(jitter_matrix(20, 1.3, 0.6, 0.04), (3, 4)) @ [*color, 1], expected)


def test_colour_changes_stay_in_range_and_are_each_drawn_half_of_the_time() -> None:
    drawn = [color_matrix(np.random.default_rng(seed)) for seed in range(3000)]
    assert 0.045 < np.mean([matrix is None for matrix in drawn]) < 0.08  # 1/16: none of four
    matrices = np.array([matrix for matrix in drawn if matrix is not None]).reshape(-1, 3, 4)
    # Of a grey, hue and saturation leave all as it is: it tells contrast and brightness alone.
    contrast = matrices[..., :3].sum(axis=2)
    assert np.ptp(contrast, axis=1).max() < 1e-9
    assert 0.5 <= contrast.min() < 0.52 and 1.48 < contrast.max() <= 1.5
    brightness = matrices[..., 3] / contrast
    assert np.ptp(brightness, axis=1).max() < 1e-9
    assert -32 <= brightness.min() < -31 and 31 < brightness.max() <= 32
    for change in (np.abs(brightness[:, 0]) > 1e-9, np.abs(contrast[:, 0] - 1) > 1e-9):
        assert 0.47 < change.sum() / 3000 < 0.53
    # What is left is saturation and hue. A hue's turn keeps R + G + B; saturation's change moves it for pure colours.
    rest = matrices[..., :3] / contrast[:, :1, None]
    assert np.allclose(rest.sum(axis=2), 1)
    # The determinant of a turn is 1, that of the saturation's change is the factor squared.
    saturation = np.sqrt(np.linalg.det(rest))
    assert 0.5 <= saturation.min() < 0.52 and 1.48 < saturation.max() <= 1.5
    turned = rest[np.abs(saturation - 1) < 1e-9]
    angle = np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert 24 < angle.max() <= 360 * 18 / 255 + 1e-6


@pytest.mark.parametrize("size", [(1, 1), (37, 5), (400, 300)])
def test_colours_change_as_pillow_changes_them(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    channels_first = torch.from_numpy(noise).permute(2, 0, 1)
    for seed in range(12):
        if (matrix := color_matrix(np.random.default_rng(seed))) is None:
            continue
        expected = np.asarray(Image.fromarray(noise).convert("RGB", matrix)).astype(int)
        changed = change_colors(channels_first, matrix)
        assert changed.dtype == torch.uint8 and changed.is_contiguous()
        assert np.abs(changed.permute(1, 2, 0).numpy() - expected).max() <= 1  # sums may be rounded in another order
        assert (changed.permute(1, 2, 0).numpy() != expected).mean() < 1e-3


def test_the_hue_turns_as_far_as_is_asked_for() -> None:
    """Greys apart, half a turn sends a colour to the other side of the grey axis; the draws are those of the usual."""

    def furthest(hue: float | None) -> float:
        drawn = [color_matrix(np.random.default_rng(seed), hue) for seed in range(300)]
        matrices = [np.reshape(matrix, (3, 4))[:, :3] for matrix in drawn if matrix is not None]
        # contrast and saturation only scale the plane across the grey axis, so its turn can be read off
        u, v = np.array([1, -1, 0]) / np.sqrt(2), np.array([1, 1, -2]) / np.sqrt(6)
        return max(abs(np.arctan2(v @ (m @ u), u @ (m @ u))) for m in matrices) / (2 * np.pi)

    assert furthest(None) == pytest.approx(18 / 255, rel=0.05)
    assert furthest(0.1) == pytest.approx(0.1, rel=0.05) and furthest(0.5) == pytest.approx(0.5, rel=0.05)
    usual, same = (color_matrix(np.random.default_rng(3), hue) for hue in (None, 18 / 255))
    assert usual == pytest.approx(same)
