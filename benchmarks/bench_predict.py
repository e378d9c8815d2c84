"""`dinoseg predict` on a folder: how much of the time the model is at work, and what memory it takes.

    python benchmarks/bench_predict.py [--model tiny] [--images 24] [--threads 1] [--rounds 3]

Generated JPEG images of 683 × 512, windows of 512 every 341, 150 classes, random weights; label maps and overlays are
written. Three ways in turn, each round: `segment_files`, which `dinoseg predict` runs; the plain loop over the same
segmenter (read, predict, write, one after the other); and the model alone, on images read before. Busy is the share
of the wall time in which the caller's thread is in the model's part (`Segmenter.answer`: forward passes and the joining
of windows into a label map), and `forward` the share in forward passes alone. Medians of rounds.

Memory: the highest resident size of a fresh process for N and for 4 N images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_inference import CLASSES, HEIGHT, MODELS, STRIDE, WIDTH, WINDOW, highest, make_model  # noqa: E402

from hf_dinoseg.inference import Job, Segmenter, segment_files  # noqa: E402
from hf_dinoseg.labels import LabelSpace  # noqa: E402
from hf_dinoseg.models import DinoSegImageProcessor  # noqa: E402


class Clock:
    """Adds up the seconds that calls of a method take."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds = 0.0
        method = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started

        setattr(owner, name, timed)


def make_segmenter(name: str) -> Segmenter:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    space = LabelSpace({i: f"class {i}" for i in range(CLASSES)})
    return Segmenter(make_model(name, device), DinoSegImageProcessor(), space, "slide", WINDOW, STRIDE)


def make_images(folder: Path, count: int) -> list[Path]:
    """Smooth noise with grain, about as large in bytes as images."""
    files = []
    for index in range(count):
        random = np.random.default_rng(index)
        small = Image.fromarray(random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = random.integers(-12, 13, smooth.shape)
        path = folder / f"{index:04}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=92)
        files.append(path)
    return files


def together(segmenter: Segmenter, files: list[Path], output: Path) -> None:
    jobs = [Job(str(f), {"ids": output / f"{f.stem}.png", "overlay": output / f"{f.stem}_overlay.jpg"}) for f in files]
    failed = [outcome.error for outcome in segment_files(segmenter, jobs) if outcome.error]
    assert not failed, failed[0]


def one_by_one(segmenter: Segmenter, files: list[Path], output: Path) -> None:
    for file in files:
        result = segmenter(file)
        result.save(output / f"{file.stem}.png")
        result.overlay().save(output / f"{file.stem}_overlay.jpg", quality=95)


def model_alone(segmenter: Segmenter, files: list[Path], output: Path) -> None:
    for file in files:
        segmenter.answer([segmenter.prepare(file)])


WAYS: dict[str, Callable[[Segmenter, list[Path], Path], None]] = {
    "segment_files": together, "plain loop": one_by_one, "model alone": model_alone,
}  # fmt: skip


def measure_memory(name: str, count: int, threads: int) -> int:
    """Bytes of a fresh process at its highest; called through the command line."""
    torch.set_num_threads(threads)
    with TemporaryDirectory() as scratch:
        files = make_images(Path(scratch), count)
        together(make_segmenter(name), files, Path(scratch, "out"))
    return highest()


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        sys.stdout.write(json.dumps(measure_memory(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    segmenter = make_segmenter(arguments.model)
    answering, forward = Clock(segmenter, "answer"), Clock(segmenter.model, "forward")
    figures: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with TemporaryDirectory() as scratch:
        files = make_images(Path(scratch), arguments.images)
        output = Path(scratch, "out")
        together(segmenter, files[:2], output)  # to warm up
        for _ in range(arguments.rounds):
            for way, run in WAYS.items():
                answering.seconds = forward.seconds = 0.0
                started = time.perf_counter()
                run(segmenter, files, output)
                wall = time.perf_counter() - started
                if way == "model alone":
                    wall = answering.seconds
                figures[way].append((wall, answering.seconds / wall, forward.seconds / wall))
    device = next(segmenter.model.parameters()).device.type
    sys.stdout.write(f"torch {torch.__version__}, {device}, threads {arguments.threads}, model {arguments.model}\n\n")
    sys.stdout.write("| way | images per second | busy | forward |\n| --- | --- | --- | --- |\n")
    for way, rounds in figures.items():
        wall, busy, forwards = (statistics.median(column) for column in zip(*rounds, strict=True))
        sys.stdout.write(f"| {way} | {arguments.images / wall:.2f} | {100 * busy:.1f} % | {100 * forwards:.1f} % |\n")
    sys.stdout.write("\n| images | MiB at the highest |\n| --- | --- |\n")
    for count in (arguments.images, 4 * arguments.images):
        command = [sys.executable, __file__, "--memory", arguments.model, str(count), str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sys.stdout.write(f"| {count} | {json.loads(done.stdout) / 2**20:.0f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
