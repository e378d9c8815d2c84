"""Mask-classification loss: this package's against transformers' Mask2FormerLoss, on the same predictions and targets.

    python benchmarks/bench_loss.py [--rounds 5] [--device cpu] [--void]

Prints a markdown table: median seconds of forward + backward, and peak memory above the inputs. Rounds alternate
between the two. On a CPU, memory is the growth of a fresh process's peak resident size over its size with the inputs in
place; on an accelerator, of its allocator's peak. Gradients of the predictions are let go as soon as they are made, as
a model's backward pass does; "gradients kept" holds all of them until the end. Freed memory is returned to the system
at once (MALLOC_MMAP_THRESHOLD_), so that the figures show what was live.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hf_dinoseg.losses import MaskClassificationLoss  # noqa: E402

WEIGHTS = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
CLASSES = 20
IMPLEMENTATIONS = ("ours", "transformers")


def make_inputs(device: torch.device, layers: int, size: int, targets: int) -> tuple[list[Tensor], list[Tensor], tuple]:
    """B = 2 images of size x size pixels, `layers` predictions of 100 queries, smooth blobs as targets."""
    generator = torch.Generator().manual_seed(0)
    masks = [torch.randn(2, 100, size // 4, size // 4, generator=generator).to(device) for _ in range(layers)]
    classes = [torch.randn(2, 100, CLASSES + 1, generator=generator).to(device) for _ in range(layers)]
    coarse = torch.rand(2, targets, size // 32, size // 32, generator=generator)
    owner = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").argmax(1)
    mask_labels = [torch.stack([image == target for target in range(targets)]).to(device) for image in owner]
    class_labels = [torch.arange(targets).to(device) % CLASSES for _ in range(2)]
    return masks, classes, (mask_labels, class_labels)


def make_step(
    name: str, device: torch.device, layers: int, size: int, targets: int, void: bool, keep: bool = False
) -> Callable[[], None]:
    """One forward + backward pass of one implementation; the inputs are made now."""
    masks, classes, (mask_labels, class_labels) = make_inputs(device, layers, size, targets)
    for tensor in (*masks, *classes):
        tensor.requires_grad_()
        if not keep:
            tensor.register_post_accumulate_grad_hook(drop_gradient)
    auxiliary = [
        {"masks_queries_logits": m, "class_queries_logits": c} for m, c in zip(masks[1:], classes[1:], strict=True)
    ]
    if name == "ours":
        ours = MaskClassificationLoss(CLASSES).to(device)
        outputs = SimpleNamespace(
            masks_queries_logits=masks[0], class_queries_logits=classes[0], auxiliary_predictions=auxiliary
        )
        void_mask = torch.zeros(2, size, size, dtype=torch.bool, device=device) if void else None
        if void_mask is not None:
            void_mask[:, : size // 4] = True

        def loss() -> Tensor:
            return ours(outputs, mask_labels, class_labels, void_mask)["loss"]

    else:
        theirs = Mask2FormerLoss(
            Mask2FormerConfig(id2label={index: str(index) for index in range(CLASSES)}), WEIGHTS
        ).to(device)
        float_labels = [mask.float() for mask in mask_labels]

        def loss() -> Tensor:
            terms = theirs(masks[0], classes[0], float_labels, class_labels, auxiliary)
            return sum(weight * v for k, v in terms.items() for kind, weight in WEIGHTS.items() if k.startswith(kind))

    def step() -> None:
        for tensor in (*masks, *classes):
            tensor.grad = None
        loss().backward()
        if device.type != "cpu":
            torch.accelerator.synchronize()

    return step


def peak_bytes(name: str, keep: bool, args: argparse.Namespace) -> int:
    """Peak memory of one step above its inputs, in this process, which must be fresh where it runs on a CPU."""
    device = torch.device(args.device)
    make_step(name, device, 2, 64, 2, args.void, keep)()
    step = make_step(name, device, args.layers, args.size, args.targets, args.void, keep)
    if device.type == "cpu":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        before = pages * resource.getpagesize()
        step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    before = torch.accelerator.memory_allocated()
    step()
    return torch.accelerator.max_memory_allocated() - before


def measure_peak(name: str, keep: bool) -> int:
    """`peak_bytes` in a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name, *(["--keep"] if keep else [])]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return int(subprocess.check_output(command, env=environment))


def drop_gradient(tensor: Tensor) -> None:
    tensor.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--void", action="store_true", help="give ours a void mask (a quarter of the image)")
    parser.add_argument("--peak-of", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        print(json.dumps(peak_bytes(args.peak_of, args.keep, args)))
        return
    peaks = {name: (measure_peak(name, False), measure_peak(name, True)) for name in IMPLEMENTATIONS}
    device = torch.device(args.device)
    steps = {name: make_step(name, device, args.layers, args.size, args.targets, args.void) for name in IMPLEMENTATIONS}
    wall: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    busy: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for round_index in range(args.rounds + 1):
        for name, step in steps.items():
            start, start_busy = time.perf_counter(), time.process_time()
            step()
            if round_index:  # the first round warms up
                wall[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - start_busy)
    medians = {name: statistics.median(values) for name, values in wall.items()}
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {args.rounds} rounds\n")
    print("| loss | forward + backward, s | speed | processor s | peak MB | share | peak MB, gradients kept | share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in IMPLEMENTATIONS:
        low, high = min(wall[name]), max(wall[name])
        memory = [
            f"{peak / 2**20:.0f} | {peak / reference:.2f}"
            for peak, reference in zip(peaks[name], peaks["transformers"], strict=True)
        ]
        print(
            f"| {name} | {medians[name]:.3f} ({low:.3f} to {high:.3f}) | {medians['transformers'] / medians[name]:.2f} "
            f"| {statistics.median(busy[name]):.3f} | {' | '.join(memory)} |"
        )


if __name__ == "__main__":
    main()
