"""The drawn eyes: the same from the same seed, drawn fast, and with the looks that their labels promise."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from hf_dinoseg.data import synthetic
from hf_dinoseg.data.synthetic import ARTERY, BACKGROUND, DISC, VEIN, draw_fundus, encode_pair

EYES = [draw_fundus(i, seed=3) for i in range(6)]


def test_the_same_index_and_seed_draw_the_same_eye_in_another_process() -> None:
    code = (  # the file alone, without the package's other imports
        "import runpy, sys, zlib; draw = runpy.run_path(sys.argv[1])['draw_fundus']; p, m = draw(4, 7, 48);"
        "print(zlib.crc32(p.tobytes()), zlib.crc32(m.tobytes()))"
    )
    command = [sys.executable, "-c", code, synthetic.__file__]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    image, mask = draw_fundus(4, 7, 48)
    assert there.stdout.split() == [str(zlib.crc32(image.tobytes())), str(zlib.crc32(mask.tobytes()))]


def test_another_index_or_seed_draws_another_eye() -> None:
    drawn = {draw_fundus(i, seed, 48)[0].tobytes() for i in range(4) for seed in range(3)}
    assert len(drawn) == 12


@pytest.mark.parametrize("size", [48, 97, 256])
def test_image_and_mask_have_the_size_and_every_class(size: int) -> None:
    image, mask = draw_fundus(0, 0, size)
    assert image.mode == "RGB" and image.size == (size, size)
    assert mask.shape == (size, size) and mask.dtype == np.uint8
    assert np.unique(mask).tolist() == sorted((BACKGROUND, ARTERY, VEIN, DISC))


def test_the_corners_are_black_and_background() -> None:
    for image, mask in EYES:
        pixels = np.asarray(image)
        for corner in (pixels[:20, :20], pixels[:20, -20:], pixels[-20:, :20], pixels[-20:, -20:]):
            assert corner.mean() < 12
        assert (mask[:20, :20] == BACKGROUND).all() and (mask[-20:, -20:] == BACKGROUND).all()


def test_shares_are_those_of_thin_vessels_and_a_small_disc() -> None:
    shares = np.mean([np.bincount(mask.ravel(), minlength=4) / mask.size for _, mask in EYES], axis=0)
    assert 0.75 < shares[BACKGROUND] < 0.92
    assert 0.03 < shares[ARTERY] < 0.12 and 0.03 < shares[VEIN] < 0.12
    assert 0.004 < shares[DISC] < 0.03


def thickness(mask: np.ndarray) -> list[int]:
    """Pixels of a class that are left after each erosion by one pixel on every side."""
    left = [int(mask.sum())]
    while mask.any():
        mask = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
        left.append(int(mask.sum()))
    return left


def test_vessels_are_thin_branches_and_thicker_trunks_and_veins_are_wider() -> None:
    arteries = [thickness(mask == ARTERY) for _, mask in EYES]
    veins = [thickness(mask == VEIN) for _, mask in EYES]
    for left in arteries + veins:
        assert left[1] < 0.75 * left[0]  # a quarter of its pixels or more lie on its edge,
        assert left[2] < 0.45 * left[0]  # more than half within two pixels of it,
        assert left[2] > 0  # and some of it is five or more wide
        assert len(left) <= 10  # nothing is wider than about 17, where two veins meet
    assert np.mean([left[2] / left[0] for left in veins]) > np.mean([left[2] / left[0] for left in arteries])


def test_colours_tell_the_classes_apart_as_on_images() -> None:
    for image, mask in EYES:
        pixels = np.asarray(image).astype(float)
        inside = np.hypot(*(np.indices(mask.shape) - 127.5)) < 110
        mean = {label: pixels[(mask == label) & inside].mean(axis=0) for label in (BACKGROUND, ARTERY, VEIN, DISC)}
        assert mean[BACKGROUND][0] > mean[BACKGROUND][1] > mean[BACKGROUND][2]  # orange
        assert mean[DISC][1] > 1.3 * mean[BACKGROUND][1]  # bright
        assert mean[ARTERY][1] < 0.9 * mean[BACKGROUND][1]  # vessels are darkest in green
        assert mean[VEIN].sum() < mean[ARTERY].sum() < mean[BACKGROUND].sum()  # veins are darker
        assert mean[ARTERY][0] > 1.1 * mean[VEIN][0]  # arteries are redder


def test_light_colour_and_noise_vary() -> None:
    centres = np.array([np.asarray(image)[96:160, 96:160].reshape(-1, 3).mean(0) for image, _ in EYES])
    assert centres.std(axis=0).max() > 5
    flat = [np.asarray(image).astype(float)[100:156, 100:156] for image, _ in EYES]
    noise = [np.abs(np.diff(area, axis=1)).mean() for area in flat]
    assert min(noise) > 1 and max(noise) > 1.3 * min(noise)


def test_encoding_keeps_the_mask_exactly_and_the_image_nearly() -> None:
    image, mask = EYES[0]
    image_bytes, mask_bytes = encode_pair(image, mask)
    assert (np.asarray(Image.open(io.BytesIO(mask_bytes))) == mask).all()
    back = np.asarray(Image.open(io.BytesIO(image_bytes))).astype(int)
    assert np.abs(back - np.asarray(image)).mean() < 4
