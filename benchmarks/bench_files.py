"""What the package's own reading of JPEG rows and writing of PNG strips are worth, against Pillow doing all at once.

    python benchmarks/bench_files.py [--rounds 5]

Reading: the rows that a crop of 512² needs, at 16 places spread over the image, against decoding the whole file;
processor seconds, medians of alternating rounds. Writing: a label map of 8192², a band of 256 rows at a time, against
the whole map at once; seconds, and the growth of a fresh process in which the bands are made.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from hf_dinoseg.images.reading import read_image, read_upper
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.visualize.palette import palette_image
from hf_dinoseg.visualize.png_strips import PngStrips

CROP, PLACES = 512, 16
SIDE, BAND = 8192, 256
SPACE = LabelSpace({i: f"class {i}" for i in range(150)})


def jpeg(width: int, height: int) -> bytes:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    stream = io.BytesIO()
    Image.fromarray((pixels + rng.integers(-8, 9, pixels.shape)).clip(0, 255).astype(np.uint8)).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def reading(rounds: int) -> None:
    print("| size | whole, ms | rows of a crop, ms | times faster |\n| --- | ---: | ---: | ---: |")
    for width, height in ((683, 512), (2048, 1024), (4096, 3072)):
        cell = {"bytes": jpeg(width, height), "path": None}
        ends = np.linspace(CROP, height, PLACES).round().astype(int).tolist()

        def whole(cell: dict[str, object] = cell) -> None:
            read_image(cell)

        def rows(
            cell: dict[str, object] = cell, ends: list[int] = ends, size: tuple[int, int] = (width, height)
        ) -> None:
            for end in ends:
                read_upper(cell, end, size)

        taken = [(seconds(whole), seconds(rows) / PLACES) for _ in range(rounds)]
        ours, theirs = statistics.median(b for _, b in taken), statistics.median(a for a, _ in taken)
        print(f"| {width} × {height} | {1000 * theirs:.1f} | {1000 * ours:.1f} | {theirs / ours:.2f} |")


def band(number: int) -> np.ndarray:
    rows, columns = np.mgrid[number * BAND : (number + 1) * BAND, :SIDE]
    return ((rows // 64 + columns // 64) % 150).astype(np.uint8)


def write_strips(path: Path) -> None:
    with PngStrips(path, (SIDE, SIDE), SPACE) as png:
        for number in range(SIDE // BAND):
            png.write(band(number))


def write_whole(path: Path) -> None:
    palette_image(np.concatenate([band(number) for number in range(SIDE // BAND)]), SPACE).save(path)


def measure(way: str) -> dict[str, float]:
    """In this process: seconds, and the growth of its highest resident size in MiB."""
    with TemporaryDirectory() as folder:
        write = {"strips": write_strips, "whole": write_whole}[way]
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        write(Path(folder) / "map.png")
        taken = time.perf_counter() - start
        return {"s": taken, "MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def writing(rounds: int) -> None:
    print(f"\n| label map of {SIDE}² | s | MiB |\n| --- | ---: | ---: |")
    told: dict[str, list[dict[str, float]]] = {"strips": [], "whole": []}
    for _ in range(rounds):
        for way, found in told.items():
            done = subprocess.run([sys.executable, __file__, "--measure", way], capture_output=True, check=True)
            found.append(json.loads(done.stdout))
    for way, found in told.items():
        print(f"| {way} | " + " | ".join(f"{statistics.median(f[k] for f in found):.1f}" for k in ("s", "MiB")) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=("strips", "whole"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    reading(options.rounds)
    writing(min(options.rounds, 3))


if __name__ == "__main__":
    main()
