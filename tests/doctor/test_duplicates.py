"""Images that are there twice, whatever was done to the copy, and images that only resemble one another."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from hf_dinoseg.data import draw_fundus
from hf_dinoseg.doctor import examine, quick_checks
from hf_dinoseg.doctor.duplicates import ALIKE, _alike
from hf_dinoseg.doctor.file_facts import THUMBNAIL, inspect_image


def half(image):
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)


COPIES = {
    "another format": lambda image, encode: encode(image),
    "WebP": lambda image, encode: encode(image, "WEBP", quality=60),
    "recompressed": lambda image, encode: encode(image, "JPEG", quality=20),
    "halved": lambda image, encode: encode(half(image)),
    "halved and recompressed": lambda image, encode: encode(half(image), "JPEG", quality=40),
    "of an odd size": lambda image, encode: encode(image.resize((203, 171)), "JPEG"),
    "doubled": lambda image, encode: encode(image.resize((2 * image.width, 2 * image.height)), "JPEG"),
    "mirrored": lambda image, encode: encode(ImageOps.mirror(image), "JPEG", quality=60),
    "upside down": lambda image, encode: encode(ImageOps.flip(image)),
    "turned": lambda image, encode: encode(image.rotate(90, expand=True), "JPEG"),
    "grey": lambda image, encode: encode(image.convert("L")),
    "16 bits": lambda image, encode: encode(np.asarray(image.convert("L"), np.uint16) * 257),
    "all at once": lambda image, encode: encode(half(ImageOps.mirror(image)).rotate(270, expand=True), "WEBP"),
}


def fundus(seed, size=256):
    return Image.fromarray(np.asarray(draw_fundus(seed, seed=0, size=size)[0]))


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_in_validation_is_found_whatever_was_done_to_it(row, encode, space, kind):
    def pair(name, image):
        with Image.open(io.BytesIO(image)) as opened:
            mask = np.zeros(opened.size[::-1], np.uint8)
        mask[: len(mask) // 2] = 1
        return row(mask, name, image)

    originals = [encode(fundus(n), "JPEG", quality=92) for n in range(6)]
    data = {
        "train": [pair(f"t{n}", image) for n, image in enumerate(originals)],
        "validation": [pair("other", encode(fundus(6))), pair("copy", COPIES[kind](fundus(3), encode))],
    }
    report = examine(data, space)
    [found] = [f for f in report.findings if f.code.startswith("duplicate")]
    assert found.code == "duplicate-across-splits" and "1 validation image is in train too" in found.seen
    assert "t3.png = copy.png" in found.seen


def test_drawn_retinas_resemble_one_another_and_are_no_copies():
    looks = np.stack([look({"bytes": png(fundus(n, 128))}) for n in range(60)])
    assert list(_alike(looks)) == []
    assert nearest(looks) > 3 * ALIKE


@pytest.mark.skipif("DINOSEG_TEST_DATA" not in os.environ, reason="needs images: DINOSEG_TEST_DATA, with camvid/")
def test_neighbouring_frames_are_no_copies_and_copies_of_frames_are(encode):
    """The distances that `ALIKE` was chosen between, measured anew on a video seen once a second or two."""
    files = sorted((Path(os.environ["DINOSEG_TEST_DATA"]) / "camvid" / "images").glob("*/*.jpg"))
    assert len(files) == 235
    frames = np.stack([look({"path": str(file)}) for file in files])
    assert nearest(frames) > 2 * ALIKE
    farthest: dict[str, float] = {}
    for place in range(0, len(files), 12):
        with Image.open(files[place]) as image:
            for kind, change in COPIES.items():
                copy = look({"bytes": change(image.convert("RGB"), encode)})
                turns = [np.rot90(side, k) for side in (copy, copy[:, ::-1]) for k in range(4)]
                distance = min(apart(turn, frames[place]) for turn in turns)
                farthest[kind] = max(farthest.get(kind, 0.0), distance)
    print(nearest(frames), farthest)  # for those who change the thumbnail
    assert max(farthest.values()) < 0.9 * ALIKE, farthest


@pytest.mark.parametrize("seed", range(3))
def test_the_quick_search_finds_what_a_search_of_all_pairs_finds(seed):
    rng = np.random.default_rng(seed)
    looks = rng.normal(120, 40, (40, THUMBNAIL, THUMBNAIL)).astype(np.float32)
    for second in range(20, 40):  # half are copies, turned, of those before them, some beyond the bound
        original = looks[rng.integers(0, second)]
        noise = rng.uniform(-1, 1, original.shape) * 40 * rng.choice([0.1, 0.24, 0.27, 0.5])
        looks[second] = np.rot90(original, rng.integers(4))[:, :: rng.choice([1, -1])] + noise
    unit = [(a - a.mean()) / a.std() for a in looks]
    expected = {}
    for second in range(40):
        turns = [np.rot90(side, k) for side in (unit[second], unit[second][:, ::-1]) for k in range(4)]
        for first in range(second):
            if min(np.abs(turn - unit[first]).max() for turn in turns) <= ALIKE:
                expected.setdefault(second, []).append(first)
    assert expected and dict(_alike(looks)) == expected


def test_masks_of_copies_are_compared_across_sizes(row, encode, space):
    def pair(name, size, share):
        mask = np.zeros((size, size), np.uint8)
        mask[: round(share * size)] = 2
        return row(mask, name, encode(fundus(1).resize((size, size)), "JPEG"))

    same = {"train": [pair("a", 256, 0.5), pair("b", 128, 0.505)]}
    assert {f.code for f in examine(same, space).findings if f.level == "warning"} & DUPLICATES == {
        "duplicate-in-split"
    }
    other = {"train": [pair("a", 256, 0.5), pair("b", 128, 0.6)]}
    assert examine(other, space).codes >= DUPLICATES


DUPLICATES = {"duplicate-in-split", "duplicate-masks-differ"}


def test_the_check_before_training_compares_bytes_only(row, quarters, space, encode):
    data = {"train": [row(quarters(), "a", encode(fundus(1))), row(quarters(), "b", encode(fundus(1), "JPEG"))]}
    assert "duplicate-in-split" in examine(data, space).codes
    assert "duplicate-in-split" not in quick_checks(data, space).codes


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def look(cell):
    """A thumbnail at mean 0 and standard deviation 1."""
    grey = np.frombuffer(inspect_image({"path": None, "bytes": None, **cell}).thumbnail, np.uint8)
    grey = grey.reshape(THUMBNAIL, THUMBNAIL).astype(np.float32)
    return (grey - grey.mean()) / grey.std()


def apart(first, second):
    return float(np.abs(first - second).max())


def nearest(looks):
    """The distance of the most similar two, by any turn."""
    turns = [np.rot90(side, k, (1, 2)) for side in (looks, looks[:, :, ::-1]) for k in range(4)]
    return min(
        float(np.abs(turn[n + 1 :] - looks[n]).max(axis=(1, 2)).min()) for turn in turns for n in range(len(looks) - 1)
    )
