"""Exported files against their model: how far answers differ, and how long an image takes.

    python benchmarks/bench_export.py CHECKPOINT [CHECKPOINT …] [--size 256] [--rounds 7] [--threads 1] [--images DIR]

For each checkpoint (one a head, say): the model itself, a `torch.export` program, ONNX, and ONNX with 8-bit weights on
onnxruntime's CPU provider with as many threads. Answers are compared on drawn images, or on those of --images, at
one fixed size; times are medians of one image at a time, rounds alternating between all of them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hf_dinoseg.hub.export import plan_export, quantize_onnx, write_onnx, write_torch  # noqa: E402
from hf_dinoseg.hub.export_check import check_export, open_eager, open_onnx, open_torch  # noqa: E402
from hf_dinoseg.inference import Segmenter  # noqa: E402


def milliseconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def rows(checkpoint: str, size: int, rounds: int, images: list[Image.Image]) -> list[str]:
    segmenter = Segmenter.from_pretrained(checkpoint)
    plan = plan_export(segmenter, (size, size), output_kind="scores")
    image = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_torch(plan, folder / "m.pt2")
        write_onnx(plan, folder / "m.onnx")
        quantize_onnx(folder / "m.onnx", folder / "int8.onnx")
        files = {
            "torch.export, fp32": (folder / "m.pt2", "torch"),
            "ONNX, fp32": (folder / "m.onnx", "onnx"),
            "ONNX, int8": (folder / "int8.onnx", "onnx"),
        }
        eager = open_eager(plan)
        runs: dict[str, Callable[[], object]] = {"eager": lambda: eager(image)}
        for title, (path, kind) in files.items():
            run = (open_torch if kind == "torch" else open_onnx)(path)[0]
            runs[title] = lambda run=run: run(image)  # type: ignore[misc]
        took = milliseconds(runs, rounds)
        lines = []
        for title, (path, kind) in files.items():
            found = check_export(plan, path, kind, images)[1]  # type: ignore[arg-type]
            lines.append(
                f"| {segmenter.model.config.head} | {title} | {path.stat().st_size / 1e6:.1f} "
                f"| {found.max_score_difference:.1e} | {100 * found.equal_labels:.3f} "
                f"| {took[title]:.1f} | {took['eager']:.1f} | {took['eager'] / took[title]:.2f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=Path, help="a folder of images to compare on")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = [Image.open(path).convert("RGB") for path in sorted(args.images.glob("*"))] if args.images else []
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {platform.machine()}, {args.threads} "
        f"thread(s), images of {args.size}²\n"
    )
    print("| head | file | MB | max score difference | equal labels % | ms | eager ms | times faster |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for checkpoint in args.checkpoints:
        for line in rows(checkpoint, args.size, args.rounds, images):
            print(line, flush=True)


if __name__ == "__main__":
    main()
