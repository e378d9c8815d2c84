"""Seconds that the doctor takes: 1000 pairs read whole, and the quick part that runs before every training.

    python benchmarks/bench_doctor.py --pairs 1000 --size 512 384

The images are drawn (JPEG and PNG files in a temporary folder); `decoding` is Pillow reading the same files whole, in
as many threads.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import DatasetDict
from PIL import Image

from hf_dinoseg import LabelSpace
from hf_dinoseg.data import load_folder
from hf_dinoseg.doctor import examine, quick_checks

SPACE = LabelSpace({i: f"class {i}" for i in range(20)}, ignore=(255,))


def draw(root: Path, pairs: int, width: int, height: int) -> DatasetDict:
    """Smooth images with some noise, over masks of blobs; a tenth of them is validation."""
    for number in range(pairs):
        rng = np.random.default_rng(number)
        split = "val" if number % 10 == 0 else "train"
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        image = (image + rng.integers(-8, 9, image.shape)).clip(0, 255).astype(np.uint8)
        blobs = np.asarray(coarse.getchannel(0).resize((width, height), Image.Resampling.BICUBIC)) // 13
        mask = np.where(blobs > 19, 255, blobs).astype(np.uint8)
        for kind, pixels, ending in (("images", image, "jpg"), ("masks", mask, "png")):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / kind / split / f"{number:05d}.{ending}")
    return load_folder(root, "images/{split}", "masks/{split}", "train", "val")


def decode(splits: DatasetDict) -> None:
    paths = [row[kind]["path"] for split in splits.values() for row in split for kind in ("image", "mask")]

    def load(path: str) -> None:
        with Image.open(path) as image:
            image.load()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(load, paths))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 384), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        splits = draw(Path(folder), options.pairs, *options.size)
        assert not examine(splits, SPACE, samples=50).errors
        rows: dict[str, list[float]] = {"decoding": [], "doctor": [], "quick part": []}
        for _ in range(options.rounds):
            rows["decoding"].append(seconds(lambda: decode(splits)))
            rows["doctor"].append(seconds(lambda: examine(splits, SPACE, samples=None)))
            rows["quick part"].append(seconds(lambda: quick_checks(splits, SPACE)))
    print(f"{options.pairs} pairs of {options.size[0]} x {options.size[1]}, {os.cpu_count()} cores; medians")
    for name, taken in rows.items():
        median = float(np.median(taken))
        print(f"{name:12}{median:8.2f} s{1000 * median / options.pairs:8.2f} ms a pair")


if __name__ == "__main__":
    main()
