"""The training transform against images that carry their own coordinates, brute force, and colour theory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import affine_transform

from hf_dinoseg.data import TrainTransform
from hf_dinoseg.data import transforms as augment

WIDTH, HEIGHT = 250, 200


def coordinates(width: int = WIDTH, height: int = HEIGHT) -> tuple[Image.Image, np.ndarray]:
    """An image whose red is x and green is y, and a label map that numbers the pixels: y * width + x."""
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


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.6, 2.0])
def test_the_crop_is_what_pillow_makes_of_the_same_box(scale: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    label_map = coordinates()[1]
    side = round(80 / scale)
    for seed in range(4):
        pixels, labels = transform(80, scale=(scale, scale))(
            Image.fromarray(noise), label_map, np.random.default_rng(seed)
        )
        first = int((0.5 * side) // 80)  # the source pixel under the first output pixel's middle, from the box's start
        left, top = int(labels[0, 0]) % WIDTH - first, int(labels[0, 0]) // WIDTH - first
        box = (left, top, left + side, top + side)
        expected = Image.fromarray(noise).crop(box).resize((80, 80), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(expected).astype(int) - pixels).max() <= 2  # rounded at other steps
        nearest = Image.fromarray(label_map.astype(np.int32)).crop(box).resize((80, 80), Image.Resampling.NEAREST)
        assert (np.asarray(nearest) == labels).all()


@pytest.mark.parametrize("size", [(250, 200), (2100, 2050)])
def test_an_image_too_large_for_one_piece_of_memory_is_cut_the_same_way(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    x, y = augment.Box(100, 140, 0, 40), augment.Box(30, 90, 0, 60)
    image = Image.fromarray(noise)
    assert (augment.box_pixels(image, x, y)[..., :3].numpy() == noise[30:90, 100:140]).all()
    seen = augment.box_pixels(image, x, y)
    del image  # its memory stays as long as it is looked at
    Image.new("RGB", size)
    assert (seen[..., :3].numpy() == noise[30:90, 100:140]).all()


@pytest.mark.parametrize("dtype, void", [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_a_sample_lists_the_classes_that_it_shows(dtype: Any, void: int, rotation: float) -> None:
    label_map = np.random.default_rng(0).integers(0, 40, (50, 60)).astype(dtype)
    label_map[label_map > 30] = void
    for seed in range(8):
        for share in (0.04, 1.0):
            apply = TrainTransform(12, max_class_share=share, ignore_index=void, rotation=rotation)
            sample = apply.sample(Image.new("RGB", (60, 50)), label_map, np.random.default_rng(seed))
            assert sample.class_labels.tolist() == sorted(set(sample.labels.ravel().tolist()) - {void})
            assert sample.class_labels.dtype == np.int64 and sample.pixels.is_contiguous()


def test_only_the_kept_region_is_resampled_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    resize, warp, warp_pixels = augment.resize_bilinear, Image.Image.transform, augment.warp_bilinear

    def resized(pixels: torch.Tensor, *size: int) -> torch.Tensor:
        calls.append((pixels.shape[:2], size))
        return resize(pixels, *size)

    def warped(self: Image.Image, *args: Any, **options: Any) -> Image.Image:
        calls.append((self.mode, args[0]))
        return warp(self, *args, **options)

    def warped_pixels(image: Image.Image, matrix: Any, size: int, *padding: Any) -> torch.Tensor:
        calls.append(("pixels", (size, size)))
        return warp_pixels(image, matrix, size, *padding)

    monkeypatch.setattr(augment, "resize_bilinear", resized)
    monkeypatch.setattr(augment, "warp_bilinear", warped_pixels)
    monkeypatch.setattr(Image.Image, "transform", warped)
    transform(64, scale=(2, 2))(*coordinates(), np.random.default_rng(0))
    assert calls == [((32, 32), (64, 64))]
    calls.clear()
    transform(64, scale=(2, 2), rotation=90)(*coordinates(), np.random.default_rng(0))
    assert calls == [("I", (64, 64)), ("pixels", (64, 64))]


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


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    crop=st.integers(1, 24),
    scale=st.floats(0.1, 4),
    rotation=st.sampled_from([0.0, 0.0, 10.0, 180.0]),
    seed=st.integers(0, 5),
    photometric=st.booleans(),
    focus=st.sampled_from([None, 1, 2, 7]),
    wide=st.booleans(),
)
def test_any_size_gives_a_full_crop_of_known_labels_padded_with_void_never_class_0(
    size: tuple[int, int],
    crop: int,
    scale: float,
    rotation: float,
    seed: int,
    photometric: bool,
    focus: int | None,
    wide: bool,
) -> None:
    width, height = size
    void = 65535 if wide else 255
    label_map = np.random.default_rng(seed).integers(1, 4, (height, width)).astype(np.uint16 if wide else np.uint8)
    apply = TrainTransform(
        crop,
        scale=(scale, scale),
        max_class_share=0.6,
        photometric=photometric,
        ignore_index=void,
        rotation=rotation,
        vertical_flip=True,
    )
    pixels, labels = apply(Image.new("RGB", size, (9, 99, 199)), label_map, np.random.default_rng(seed), focus)
    assert pixels.shape == (crop, crop, 3) and labels.shape == (crop, crop) and pixels.dtype == np.uint8
    assert labels.dtype == label_map.dtype and labels.flags.c_contiguous
    assert set(np.unique(labels).tolist()) <= set(np.unique(label_map).tolist()) | {void}
    if not rotation:
        kept = [crop if n * scale > crop else max(1, round(n * scale)) for n in size]
        assert (labels != void).sum() == kept[0] * kept[1]
    if not photometric:
        assert np.abs(pixels.astype(int) - (9, 99, 199)).max() <= 1


def test_large_scale_jitter_pads_small_images_and_crops_large_ones() -> None:
    image, label_map = coordinates()
    apply = transform(100, scale=(0.1, 2.0))
    filled = [float((apply(image, label_map, np.random.default_rng(s))[1] != 65535).mean()) for s in range(200)]
    assert min(filled) < 0.1 and max(filled) == 1.0  # 25 × 20 of 100 × 100 at the smallest
    # full from scale 0.5 on, which is 1.5 of the range's 1.9
    assert 0.7 < np.mean(np.array(filled) == 1.0) < 0.87


# ------------------------------------------------------------------ rotation and flips


@pytest.mark.parametrize("scale", [0.3, 0.7, 1.0, 1.9])
@pytest.mark.parametrize("degrees", [-170.0, -30.0, 5.0, 88.0])
def test_a_turned_crop_agrees_with_an_affine_warp_of_scipy(scale: float, degrees: float) -> None:
    image, label_map = coordinates()
    apply = transform(96)
    rng = np.random.default_rng(0)
    x, y = apply._draw_box(WIDTH, scale, rng, None), apply._draw_box(HEIGHT, scale, rng, None)
    angle = np.radians(degrees)
    # rows before columns; where output pixel `o` comes from: middle + turn · step · (o - middle of the output)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    steps = np.diag([(y.stop - y.start) / y.length, (x.stop - x.start) / x.length])
    middle = np.array([y.start + y.stop, x.start + x.stop]) / 2 - 0.5
    output_middle = np.array([y.offset + y.length / 2, x.offset + x.length / 2]) - 0.5
    offset = middle - turn @ steps @ output_middle
    shape = (96, 96)
    # far outside is told by a margin of two pixels, so that the rim's rounding is not
    numbered = np.pad(label_map.astype(np.int64), 2, constant_values=65535)
    expected = affine_transform(
        numbered, turn @ steps, offset + 2, shape, order=0, mode="constant", cval=65535, prefilter=False
    )
    labels = apply._labels(label_map, x, y, float(angle))
    assert (labels == expected).mean() > 0.98  # pixels whose source lies between two pixels may fall either way
    # and those are next to one another
    both = (labels != 65535) & (expected != 65535)
    apart = [
        np.abs(labels[both] % WIDTH - expected[both] % WIDTH),
        np.abs(labels[both] // WIDTH - expected[both] // WIDTH),
    ]
    assert max(int(a.max()) for a in apart) <= 1
    smooth = [
        affine_transform(np.asarray(image)[..., c].astype(float), turn @ steps, offset, shape, order=1, mode="nearest")
        for c in range(3)
    ]
    pixels = apply._turned(image, x, y, float(angle), None).permute(1, 2, 0).numpy()
    inner = labels != 65535
    inner[inner] &= (np.abs(labels[inner] % WIDTH - WIDTH / 2) < WIDTH / 2 - 5) & (
        np.abs(labels[inner] // WIDTH - HEIGHT / 2) < HEIGHT / 2 - 5
    )
    assert np.abs(pixels[inner] - np.stack(smooth, -1)[inner]).max() <= 1.01


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_turned_and_mirrored_pixels_and_labels_stay_aligned(scale: float) -> None:
    image, label_map = coordinates()
    negative = Image.fromarray(255 - np.asarray(image))  # whatever rounding does, it does to both
    apply = transform(96, scale=(scale, scale), rotation=180, flip=True, vertical_flip=True)
    angles = set()
    for seed in range(20):
        pixels, labels = apply(image, label_map, np.random.default_rng(seed))
        inverse = apply(negative, label_map, np.random.default_rng(seed))[0]
        column, row = labels.astype(int) % WIDTH, labels.astype(int) // WIDTH
        inner = (labels != 65535) & (column > 4) & (column < WIDTH - 5) & (row > 4) & (row < HEIGHT - 5)
        assert inner.sum() > 96
        for channel, place in ((0, column), (1, row)):
            found = (pixels[..., channel].astype(float) + 255 - inverse[..., channel]) / 2
            difference = (found - place)[inner]
            assert np.abs(difference).max() <= 1.1 and abs(difference.mean()) < 0.1
        angles.add(round(float(column[40, 60] - column[40, 40]), 1))
    assert len(angles) > 8


def test_a_turned_corner_without_image_is_void_and_of_the_mean_colour() -> None:
    pixels, labels = transform(64, rotation=180)(
        Image.new("RGB", (64, 64), (10, 20, 30)), np.ones((64, 64), np.uint16), np.random.default_rng(3)
    )
    assert 0.02 < (labels == 65535).mean() < 0.25 and set(np.unique(labels)) == {1, 65535}
    assert (pixels == (10, 20, 30)).all()


@pytest.mark.parametrize("value", [0, 1, 100, 254, 255])
def test_a_turned_image_of_one_value_stays_so(value: int) -> None:
    image, label_map = Image.new("RGB", (90, 70), (value, 255 - value, value)), np.zeros((70, 90), np.uint8)
    for seed in range(10):
        pixels, _ = transform(48, scale=(0.3, 2), rotation=180)(image, label_map, np.random.default_rng(seed))
        assert np.unique(pixels[..., ::2]).tolist() == [value]
        assert np.unique(pixels[..., 1]).tolist() == [255 - value]


def test_turning_keeps_the_mean_brightness() -> None:
    """Against float interpolation by scipy. Fractions cut off instead of rounded would be 0.46 levels on average."""
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        array = rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)
        angle = rng.uniform(-np.pi, np.pi)
        a, b = np.cos(angle), np.sin(angle)
        matrix = (a, -b, 45 - 24 * (a - b), b, a, 40 - 24 * (a + b))
        found = augment.warp_bilinear(Image.fromarray(array), matrix, 48).permute(1, 2, 0).numpy()
        rows_first = np.array([[a, b], [-b, a]])
        offset = np.array([matrix[5], matrix[2]]) + rows_first @ [0.5, 0.5] - 0.5
        exact = [affine_transform(array[..., c].astype(float), rows_first, offset, (48, 48), order=1) for c in range(3)]
        errors.append(found - np.stack(exact, -1))
    assert np.abs(errors).max() < 0.51 and abs(np.mean(errors)) < 0.05


def test_vertical_flips_are_drawn_half_of_the_time_and_for_themselves() -> None:
    image, label_map = coordinates(40, 30)
    apply = transform(20, flip=True, vertical_flip=True)
    seen = []
    for seed in range(400):
        _, labels = apply(image, label_map, np.random.default_rng(seed))
        seen.append((bool(labels[0, 0] > labels[0, 19]), bool(labels[5, 0] > labels[15, 0])))
    for kind in [(a, b) for a in (False, True) for b in (False, True)]:
        assert 70 < seen.count(kind) < 130


# ------------------------------------------------------------------ crops about a class


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_focused_crop_holds_its_class_in_the_middle_half(scale: float) -> None:
    image = coordinates()[0]
    label_map = np.zeros((HEIGHT, WIDTH), np.uint8)
    label_map[90:110, 120:140] = 1
    label_map[0, 0] = 2
    apply = transform(48, scale=(scale, scale), ignore_index=255)
    places = set()
    for seed in range(60):
        labels = apply(image, label_map, np.random.default_rng(seed), focus=1)[1]
        assert (labels[10:38, 10:38] == 1).any()
        rows, columns = np.nonzero(labels == 1)
        places.add((int(rows.min()), int(columns.min())))
        corner = apply(image, label_map, np.random.default_rng(seed), focus=2)[1]
        if scale >= 1:
            assert corner[0, 0] == 2  # the image ends there, so the crop does
        other = apply(image, label_map, np.random.default_rng(seed), focus=7)[1]
        assert (other == apply(image, label_map, np.random.default_rng(seed))[1]).all()
    assert len(places) > 10


def test_a_focused_crop_is_about_any_pixel_of_the_class_alike() -> None:
    label_map = np.zeros((100, 400), np.uint8)
    label_map[50, 100:102] = 1
    label_map[50, 300] = 1  # a third of its pixels
    apply = transform(32, ignore_index=255)
    found = [
        int((apply(Image.new("RGB", (400, 100)), label_map, np.random.default_rng(s), 1)[1] == 1).sum())
        for s in range(300)
    ]
    assert set(found) == {1, 2} and 70 < found.count(1) < 130


def share_by_hand(labels: np.ndarray) -> float:
    valid = labels[labels != 255].tolist()
    return max((valid.count(v) / len(valid) for v in set(valid)), default=1.0)


def test_crops_respect_the_class_ceiling_or_are_the_best_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    label_map = np.zeros((60, 120), np.uint8)
    label_map[20:32, 30:60] = 1  # a crop of 20 meets it rarely
    label_map[:, 100:] = 255
    tried: list[float] = []
    measure = augment.count_classes

    def recorded(labels: np.ndarray, void: int) -> np.ndarray:
        tried.append(share_by_hand(labels))
        return measure(labels, void)

    monkeypatch.setattr(augment, "count_classes", recorded)
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

    def recorded(counts: np.ndarray) -> float:
        measured.append(measure(counts))
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


# ------------------------------------------------------------------ colours


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
    monkeypatch.setattr(augment, "color_matrix", lambda *_: (1.5, 0, 0, 10, 0, 0.5, 0, -20, 0.5, 0, 0.5, 0))
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
        ({"crop_size": 8, "rotation": 200}, "rotation is 200"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)


def test_a_label_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 4\).*\(4, 8\)"):
        TrainTransform(4)(Image.new("RGB", (8, 4)), np.zeros((8, 4), np.uint8), np.random.default_rng(0))


@pytest.mark.parametrize(("side", "factor"), [("shorter", 96 / HEIGHT), ("longer", 96 / WIDTH)])
def test_scale_counts_from_the_base_size(side: Any, factor: float) -> None:
    """A step of one output pixel is 1 / (scale × factor) source pixels, whatever the image's stored size."""
    image, label_map = coordinates()
    for scale in (0.7, 1.0, 1.6):
        apply = transform(48, scale=(scale, scale), base_size=96, base_side=side)
        pixels, labels = apply(image, label_map, np.random.default_rng(0))
        rows = labels[:, 20].astype(int) // WIDTH
        assert (rows[46] - rows[2]) / 44 == pytest.approx(1 / (scale * factor), rel=0.03)
        assert pixels.shape == (48, 48, 3)
    # an image that is smaller than the base is brought to it just so: no padding
    small, labels_of_small = coordinates(40, 32)
    _, labels = transform(96, base_size=96)(small, labels_of_small, np.random.default_rng(0))
    assert (labels != 65535).all() and np.unique(labels // 40).tolist() == list(range(32))


def test_without_a_base_size_nothing_changes() -> None:
    image, label_map = coordinates()
    one, other = (
        TrainTransform(64, ignore_index=65535, **options)(image, label_map, np.random.default_rng(5))
        for options in ({}, {"base_size": HEIGHT})
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="base_size is 0"):
        TrainTransform(64, base_size=0)


def test_scales_are_drawn_among_evenly_spaced_ones() -> None:
    """Mask2Former's 16 sizes are 0.5 to 2.0 times 512 in steps of a tenth."""
    apply = transform(32, scale=(0.5, 2.0), scale_steps=16)
    rng = np.random.default_rng(0)
    drawn = [round(apply._draw_scale(rng), 9) for _ in range(800)]
    assert sorted(set(drawn)) == [round(0.1 * x, 9) for x in range(5, 21)]
    assert np.mean(drawn) == pytest.approx(1.25, abs=0.05)


@pytest.mark.parametrize("flip", [False, True])
def test_padding_has_the_colour_and_the_place_that_are_asked_for(flip: bool) -> None:
    image, label_map = coordinates(24, 16)
    apply = transform(40, padding=(1, 2, 3), pad_after=True, flip=flip, vertical_flip=flip)
    seen = set()
    for seed in range(12):
        pixels, labels = apply(image, label_map, np.random.default_rng(seed))
        inside = labels != 65535
        assert inside[:16, :24].all() and inside.sum() == 16 * 24  # upper left, whatever was mirrored
        assert (pixels[~inside] == (1, 2, 3)).all()
        own = labels[:16, :24]
        assert (pixels[:16, :24, 0] == own % 24).all() and (pixels[:16, :24, 1] == own // 24).all()
        seen.add((int(own[0, 0]) % 24, int(own[0, 0]) // 24))
    assert seen == ({(0, 0), (23, 0), (0, 15), (23, 15)} if flip else {(0, 0)})
    turned, labels = transform(40, padding=(1, 2, 3), rotation=45)(image, label_map, np.random.default_rng(0))
    assert (turned[0, 0] == (1, 2, 3)).all()
