"""The training transform against pictures that carry their own coordinates, brute force, and colour theory."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_dinoseg.data import TrainTransform, augment

WIDTH, HEIGHT = 250, 200


def coordinates(width: int = WIDTH, height: int = HEIGHT) -> tuple[Image.Image, np.ndarray]:
    """A picture whose red is x and green is y, and a label map that numbers the pixels: y * width + x."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y, np.full_like(x, 77)], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels), (y * width + x).astype(np.uint16)


def transform(crop_size: int, **options: Any) -> TrainTransform:
    defaults = {"scale": (1, 1), "max_class_share": 1.0, "flip": False, "photometric": False, "ignore_index": 65535}
    return TrainTransform(crop_size, **{**defaults, **options})


@pytest.mark.parametrize("scale", [0.5, 0.53, 0.77, 1.0, 1.31, 2.0, 4.0])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_and_labels_stay_aligned_to_a_fraction_of_a_pixel(scale: float, flip: bool) -> None:
    image, label_map = coordinates()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        pixels, labels = transform(96, scale=(scale, scale), flip=flip)(image, label_map, rng)
        for channel, label in ((0, labels % WIDTH), (1, labels // WIDTH)):
            # Both say which source pixel stands here. Sampled at one place they differ by at most half a source pixel
            # and half a level of rounding, and by nothing on average; a shift of half an output pixel would show.
            far = (
                (labels % WIDTH > 3)
                & (labels % WIDTH < WIDTH - 4)
                & (labels // WIDTH > 3)
                & (labels // WIDTH < HEIGHT - 4)
            )
            difference = pixels[..., channel].astype(float)[far] - label[far]
            assert np.abs(difference).max() <= 1.01
            assert abs(difference.mean()) < 0.55 * min(1, 1 / (2 * scale)) + 0.02


@pytest.mark.parametrize("scale", [1.5, 2.0, 3.0])
def test_upscaled_pixels_and_labels_have_no_bias(scale: float) -> None:
    image, label_map = coordinates()
    differences = []
    for seed in range(8):
        pixels, labels = transform(120, scale=(scale, scale))(image, label_map, np.random.default_rng(seed))
        inner = (labels % WIDTH > 2) & (labels % WIDTH < WIDTH - 3)
        differences.append((pixels[..., 0].astype(float) - labels % WIDTH)[inner].mean())
    assert abs(np.mean(differences)) < 0.05  # half an output pixel is 0.17 or more


@pytest.mark.parametrize("scale, size", [(0.5, (125, 100)), (2.0, (500, 400)), (1.0, (250, 200))])
def test_the_crop_is_the_one_that_resizing_the_whole_picture_would_give(scale: float, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    label_map = coordinates()[1]
    whole = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)).astype(int)
    whole_labels = np.asarray(Image.fromarray(label_map.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    for seed in range(4):
        pixels, labels = transform(80, scale=(scale, scale))(
            Image.fromarray(noise), label_map, np.random.default_rng(seed)
        )
        # Magnified, a label stands in several places where the crop may begin; at one of them all agrees.
        places = [np.s_[top : top + 80, left : left + 80] for top, left in np.argwhere(whole_labels == labels[0, 0])]
        place = next(p for p in places if np.array_equal(whole_labels[p], labels))
        assert np.abs(whole[place] - pixels).max() <= 1


def test_only_the_kept_region_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resize = Image.Image.resize

    def recorded(self: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Image.Image:
        sizes.append(size)
        return resize(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    transform(64, scale=(2, 2))(*coordinates(), np.random.default_rng(0))
    assert sizes == [(64, 64)]


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    image, label_map = coordinates(100, 100)
    pixels, labels = transform(100)(image, label_map, np.random.default_rng(0))
    assert (pixels == np.asarray(image)).all() and (labels == label_map).all()
    assert pixels.dtype == np.uint8 and labels.dtype == label_map.dtype


@pytest.mark.parametrize("dtype, void", [(np.uint8, 255), (np.uint16, 65535)])
def test_padding_is_void_and_of_the_mean_colour(dtype: Any, void: int) -> None:
    pixels = np.full((10, 20, 3), (200, 100, 0), np.uint8)
    pixels[:, :10] = (100, 0, 50)
    label_map = np.ones((10, 20), dtype)
    places = set()
    for seed in range(40):
        out, labels = transform(32, ignore_index=void)(Image.fromarray(pixels), label_map, np.random.default_rng(seed))
        assert out.shape == (32, 32, 3) and labels.shape == (32, 32) and labels.dtype == dtype
        rows, columns = np.nonzero(labels == 1)
        top, left = int(rows.min()), int(columns.min())
        assert (labels[top : top + 10, left : left + 20] == 1).all() and (labels == void).sum() == 32 * 32 - 200
        assert (out[top : top + 10, left : left + 20] == pixels).all()
        assert np.abs(out[labels == void].astype(int) - (150, 50, 25)).max() <= 1
        places.add((top, left))
    assert len(places) > 20  # anywhere, not in one corner


def test_padding_along_one_side_only() -> None:
    image, label_map = coordinates(250, 40)
    _, labels = transform(100)(image, label_map, np.random.default_rng(3))
    filled = labels != 65535
    assert filled.any(axis=1).sum() == 40 and filled.any(axis=0).sum() == 100
    assert filled.sum() == 4000 and len(np.unique(labels[filled])) == 4000


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 24), st.floats(0.1, 4), st.integers(0, 5), st.booleans())
def test_any_size_gives_a_full_crop_of_known_labels(
    width: int, height: int, crop: int, scale: float, seed: int, photometric: bool
) -> None:
    label_map = np.random.default_rng(seed).integers(0, 3, (height, width), np.uint8)
    apply = TrainTransform(crop, scale=(scale, scale), max_class_share=0.6, photometric=photometric)
    pixels, labels = apply(Image.new("RGB", (width, height), (9, 99, 199)), label_map, np.random.default_rng(seed))
    assert pixels.shape == (crop, crop, 3) and labels.shape == (crop, crop)
    assert set(np.unique(labels).tolist()) <= set(np.unique(label_map).tolist()) | {255}
    kept = [crop if n * scale > crop else max(1, round(n * scale)) for n in (width, height)]
    assert (labels != 255).sum() == kept[0] * kept[1]
    if not photometric:
        assert np.abs(pixels.astype(int) - (9, 99, 199)).max() <= 1


def share_by_hand(labels: np.ndarray) -> float:
    valid = labels[labels != 255].tolist()
    return max((valid.count(v) / len(valid) for v in set(valid)), default=1.0)


def test_crops_respect_the_class_ceiling_or_are_the_best_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    label_map = np.zeros((60, 120), np.uint8)
    label_map[20:32, 30:60] = 1  # a crop of 20 meets it rarely
    label_map[:, 100:] = 255
    tried: list[float] = []
    measure = augment.largest_class_share

    def recorded(labels: np.ndarray, void: int) -> float:
        tried.append(share_by_hand(labels))
        return measure(labels, void)

    monkeypatch.setattr(augment, "largest_class_share", recorded)
    apply = transform(20, max_class_share=0.75, ignore_index=255)
    lengths = set()
    for seed in range(60):
        tried.clear()
        _, labels = apply(Image.new("RGB", (120, 60)), label_map, np.random.default_rng(seed))
        assert share_by_hand(labels) == min(tried)
        assert all(share > 0.75 for share in tried[:-1])
        assert tried[-1] <= 0.75 or len(tried) == 10
        lengths.add(len(tried))
    assert {1, 10} <= lengths


def test_void_is_not_counted_against_the_class_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    label_map = np.full((64, 64), 255, np.uint8)
    label_map[::4, ::2], label_map[2::4, ::2] = 0, 1  # an eighth each, the rest void: a share of one half
    measured: list[float] = []
    measure = augment.largest_class_share

    def recorded(labels: np.ndarray, void: int) -> float:
        measured.append(measure(labels, void))
        return measured[-1]

    monkeypatch.setattr(augment, "largest_class_share", recorded)
    transform(32, max_class_share=0.75, ignore_index=255)(
        Image.new("RGB", (64, 64)), label_map, np.random.default_rng(0)
    )
    assert measured == [0.5]


@pytest.mark.parametrize("value", [255, 3])
def test_a_crop_of_nothing_but_void_or_of_one_class_ends_after_ten_tries(
    value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def recorded(*box: Any) -> np.ndarray:
        calls.append(box)
        return np.full((16, 16), value, np.uint8)

    monkeypatch.setattr(augment, "crop_nearest", recorded)
    _, labels = TrainTransform(16, scale=(1, 1))(
        Image.new("RGB", (64, 64)), np.full((64, 64), value, np.uint8), np.random.default_rng(0)
    )
    assert len(calls) == 10 and (labels == value).all()


def test_the_generator_is_the_only_source_of_chance() -> None:
    image, label_map = coordinates()
    apply = transform(64, scale=(0.5, 2), flip=True, photometric=True, max_class_share=0.75)
    first = apply(image, label_map, np.random.default_rng(4))
    np.random.seed(0)
    again = apply(image, label_map, np.random.default_rng(4))
    other = apply(image, label_map, np.random.default_rng(5))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[1] != other[1]).any()
    assert (np.asarray(image) == np.asarray(coordinates()[0])).all() and (label_map == coordinates()[1]).all()


def test_half_of_the_crops_are_mirrored_left_and_right_and_none_upside_down() -> None:
    image, label_map = coordinates(40, 30)
    apply = transform(20, flip=True)
    mirrored = 0
    for seed in range(300):
        _, labels = apply(image, label_map, np.random.default_rng(seed))
        assert labels[5, 0] < labels[15, 0]
        mirrored += int(labels[0, 0] > labels[0, 19])
    assert 120 < mirrored < 180


def test_scales_are_drawn_over_the_whole_range() -> None:
    image, label_map = coordinates()
    apply = transform(32, scale=(0.5, 2.0))
    steps = []
    for seed in range(200):
        _, labels = apply(image, label_map, np.random.default_rng(seed))
        steps.append(31 / ((labels[0, 31] % WIDTH) - (labels[0, 0] % WIDTH)))  # output pixels a source pixel
    assert 0.45 < min(steps) < 0.6 and 1.75 < max(steps) < 2.3
    assert 1.1 < np.mean(steps) < 1.4


# ------------------------------------------------------------------ colour


def test_hue_matrix_turns_red_to_green_to_blue_and_keeps_greys() -> None:
    assert np.allclose(augment.hue_matrix(0), np.eye(3))
    assert np.allclose(augment.hue_matrix(1 / 3) @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(augment.hue_matrix(1 / 3) @ [0, 1, 0], [0, 0, 1])
    for turn in (-0.07, 0.03, 0.4):
        assert np.allclose(augment.hue_matrix(turn) @ np.full(3, 0.6), 0.6)
        turned = augment.hue_matrix(turn) @ [0.6, 0.4, 0.4]  # pale: HSV's hexagon and the circle nearly agree
        if abs(turn) < 0.1:
            assert abs((colorsys.rgb_to_hsv(*turned)[0] - turn + 0.5) % 1 - 0.5) < 0.01


def test_saturation_matrix_keeps_luma_and_scales_the_distance_from_grey() -> None:
    color = np.array([200.0, 50.0, 120.0])
    luma = 0.299 * 200 + 0.587 * 50 + 0.114 * 120
    assert np.allclose(augment.saturation_matrix(0) @ color, luma)
    assert np.allclose(augment.saturation_matrix(1) @ color, color)
    assert np.allclose(augment.saturation_matrix(1.5) @ color, luma + 1.5 * (color - luma))


def test_colour_changes_stay_in_range_and_are_each_drawn_half_of_the_time() -> None:
    drawn = [augment.color_matrix(np.random.default_rng(seed)) for seed in range(3000)]
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


def test_photometric_jitter_changes_pixels_and_never_labels() -> None:
    image, label_map = coordinates()
    changed = 0
    for seed in range(20):
        plain = transform(64)(image, label_map, np.random.default_rng(seed))
        jittered = transform(64, photometric=True)(image, label_map, np.random.default_rng(seed))
        assert (plain[1] == jittered[1]).all()
        changed += int((plain[0] != jittered[0]).any())
    assert changed >= 15


def test_a_colour_matrix_is_applied_with_rounding_and_cut_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "color_matrix", lambda rng: (1.5, 0, 0, 10, 0, 0.5, 0, -20, 0.5, 0, 0.5, 0))
    image = Image.new("RGB", (4, 4), (100, 21, 42))
    pixels, _ = transform(4, photometric=True)(image, np.zeros((4, 4), np.uint8), np.random.default_rng(0))
    assert pixels[0, 0].tolist() == [160, 0, 71]
    bright = Image.new("RGB", (4, 4), (250, 21, 41))
    assert (
        transform(4, photometric=True)(bright, np.zeros((4, 4), np.uint8), np.random.default_rng(0))[0][0, 0, 0] == 255
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_size": 0}, "crop_size is 0"),
        ({"crop_size": 8, "scale": (2.0, 0.5)}, "smaller one first"),
        ({"crop_size": 8, "scale": (0, 1)}, "above 0"),
        ({"crop_size": 8, "max_class_share": 0}, "max_class_share is 0"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)


def test_a_label_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 4\).*\(4, 8\)"):
        TrainTransform(4)(Image.new("RGB", (8, 4)), np.zeros((8, 4), np.uint8), np.random.default_rng(0))
