"""A whole training step: this package's against one put together from transformers' modules, on the same images.

    python benchmarks/bench_step.py [--rounds 3] [--threads 2] [--device cpu] [--dtype fp32 bf16] [--size 512]
                                    [--sides transformers ours pmt] [--memory]

ViT-S with random weights, frozen; Mask2Former head (hidden 256, 8 heads, feed-forward 1024 and 2048, 6 + 9 layers, 100
queries); 2 images, 10 targets each, 20 classes, no void (transformers' loss knows none); deep supervision on all ten
predictions, 12544 points; AdamW. bf16 is autocast. The other step has the same backbone and our adapter, then
`Mask2FormerPixelDecoder`, `Mask2FormerTransformerModule` and `Mask2FormerLoss`. A third one is ours with the PMT head
(6 blocks, 100 queries, masked attention on as when training begins), the same loss on its seven predictions.
Steps alternate; figures are medians of the time between start and end, and of processor time, which other work on the
machine disturbs less. Parts are timed inside the same steps; on an accelerator each part waits for the one before.
`--memory` measures the peak of one step instead, in a new process a side, as bench_model.py does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_model import CLASSES, VIT_S, Peer, mebibytes_of  # noqa: E402

from hf_dinoseg.losses import MaskClassificationLoss  # noqa: E402
from hf_dinoseg.models import DinoSegForSemanticSegmentation  # noqa: E402

BATCH, TARGETS = 2, 10
WEIGHTS = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
PARTS = ("backbone", "adapter", "pixel decoder", "decoder", "loss", "backward", "optimizer")
SIDES = ("transformers", "ours", "pmt")
Times = dict[str, tuple[float, float]]  # seconds and processor seconds


class Stopwatch:
    """Adds up the time of named parts; on an accelerator, once its work is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: Times = {}
        self.started: dict[str, tuple[float, float]] = {}

    def now(self) -> tuple[float, float]:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter(), time.process_time()

    def start(self, part: str) -> None:
        self.started[part] = self.now()

    def stop(self, part: str) -> None:
        pairs = zip(self.times.get(part, (0.0, 0.0)), self.now(), self.started.pop(part), strict=True)
        wall, busy = (total + end - begin for total, end, begin in pairs)
        self.times[part] = (wall, busy)

    def watch(self, part: str, module: nn.Module) -> None:
        """The forward pass of a module."""
        module.register_forward_pre_hook(lambda *_: self.start(part))
        module.register_forward_hook(lambda *_: self.stop(part))


def make_targets(size: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Smooth blobs: (TARGETS, size, size) bool and (TARGETS,) an image."""
    coarse = torch.rand(BATCH, TARGETS, size // 32, size // 32, generator=torch.Generator().manual_seed(0))
    owner = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").argmax(1)
    masks = [torch.stack([image == target for target in range(TARGETS)]).to(device) for image in owner]
    return masks, [torch.arange(TARGETS, device=device) for _ in range(BATCH)]


def make_step(side: str, size: int, bf16: bool, device: torch.device) -> Callable[[], Times]:
    """One step of one side, with the time of its parts and, as `step`, of all of it."""
    torch.manual_seed(0)
    model = DinoSegForSemanticSegmentation.from_backbone(
        VIT_S, head="pmt" if side == "pmt" else "mask2former", num_labels=CLASSES, freeze_backbone=True
    )
    model.to(device).train()
    head: Any = model.head
    pixels = torch.randn(BATCH, 3, size, size, device=device)
    masks, classes = make_targets(size, device)
    clock = Stopwatch(device)
    if side != "pmt":
        clock.watch("backbone", model.backbone)
        clock.watch("adapter", head.adapter)
    if side != "transformers":
        learning = [p for p in model.parameters() if p.requires_grad]
        criterion = MaskClassificationLoss(CLASSES).to(device)
        if side == "ours":
            clock.watch("pixel decoder", head.pixel_decoder)
            clock.watch("decoder", head.decoder)
        else:
            clock.watch("backbone and head", head)

        def forward() -> Callable[[], Tensor]:
            outputs = model(pixels)
            return lambda: criterion(outputs, masks, classes)["loss"]

    else:
        peer = Peer().to(device).train()
        learning = [*head.adapter.parameters(), *peer.parameters()]
        with torch.no_grad():  # built alone, transformers' modules leave some tensors uninitialised
            for parameter in peer.parameters():
                nn.init.normal_(parameter, std=0.02)
        config = Mask2FormerConfig(id2label={index: str(index) for index in range(CLASSES)})
        their_loss = Mask2FormerLoss(config, WEIGHTS).to(device)
        floats = [mask.float() for mask in masks]
        clock.watch("pixel decoder", peer.decoder)
        clock.watch("decoder", peer.transformer)

        def forward() -> Callable[[], Tensor]:
            pyramid = head.adapter(pixels, model.backbone(pixels).on(device))
            made = peer([level.float() for level in pyramid], all_predictions=True)
            logits, queries = made[: len(made) // 2], made[len(made) // 2 :]
            auxiliary = [
                {"masks_queries_logits": m, "class_queries_logits": c}
                for m, c in zip(queries[:-1], logits[:-1], strict=True)
            ]

            def loss() -> Tensor:
                terms = their_loss(queries[-1], logits[-1], floats, classes, auxiliary)
                return sum(weight * v for k, v in terms.items() for n, weight in WEIGHTS.items() if k.startswith(n))

            return loss

    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.05)

    def step() -> Times:
        clock.times = {}
        clock.start("step")
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            make_loss = forward()
            clock.start("loss")
            loss = make_loss()
            clock.stop("loss")
        del make_loss
        clock.start("backward")
        loss.backward()
        clock.stop("backward")
        clock.start("optimizer")
        optimizer.step()
        optimizer.zero_grad()
        clock.stop("optimizer")
        clock.stop("step")
        return clock.times

    return step


def compare(args: argparse.Namespace, bf16: bool, device: torch.device) -> None:
    steps = {side: make_step(side, args.size, bf16, device) for side in args.sides}
    rounds: dict[str, list[Times]] = {side: [] for side in args.sides}
    for index in range(args.rounds + 1):
        for side in args.sides if index % 2 else args.sides[::-1]:
            times = steps[side]()
            if index:  # the first round warms up
                rounds[side].append(times)
    medians = {
        side: {part: tuple(statistics.median(t[part][kind] for t in times) for kind in (0, 1)) for part in times[0]}
        for side, times in rounds.items()
    }
    dtype = "bf16" if bf16 else "fp32"
    if "transformers" in medians and "ours" in medians:
        theirs, ours = medians["transformers"], medians["ours"]
        print(f"\n| {dtype} | transformers s | share | ours s | share | times faster | in processor time |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for part in (*PARTS, "step"):
            ratios = [f"{theirs[part][kind] / ours[part][kind]:.2f}" for kind in (0, 1)]
            cells = [f"{m[part][0]:.3f} | {100 * m[part][0] / m['step'][0]:.0f} %" for m in (theirs, ours)]
            print(f"| {part} | {' | '.join(cells)} | {' | '.join(ratios)} |", flush=True)
    if "pmt" in medians:
        pmt, others = medians["pmt"], [side for side in args.sides if side != "pmt"]
        heads = "".join(f" PMT against {side}: times faster, in processor time |" for side in others)
        print(f"\n| {dtype}, PMT | s | processor s |{heads}\n| --- | ---: | ---: |{' ---: |' * len(others)}")
        for part in ("backbone and head", "loss", "backward", "optimizer", "step"):
            cells = []
            for other in (medians[side] for side in others):
                ratios = [f"{other[part][kind] / pmt[part][kind]:.2f}" for kind in (0, 1)] if part in other else []
                cells.append(", ".join(ratios))
            print(
                f"| {part} | {pmt[part][0]:.3f} | {pmt[part][1]:.3f} |" + "".join(f" {c} |" for c in cells), flush=True
            )


def memory(args: argparse.Namespace) -> None:
    """Peaks of one step above weights and inputs, and each as a share of the first side's."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    for dtype in args.dtype:
        print(f"\n| {dtype} | MiB | share of {args.sides[0]} |\n| --- | ---: | ---: |")
        first = 0.0
        for side in args.sides:
            command = [sys.executable, __file__, "--memory-of", side, "--dtype", dtype, "--size", str(args.size)]
            command += ["--threads", str(args.threads), "--device", args.device]
            result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            peak = float(json.loads(result.stdout.splitlines()[-1]))
            first = first or peak
            print(f"| {side} | {peak:.0f} | {peak / first:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--memory", action="store_true", help="measure the peak of memory instead")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        device = torch.device(args.device)
        step = make_step(args.memory_of, args.size, args.dtype == ["bf16"], device)
        print(json.dumps(mebibytes_of(step, device)))
        return
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {args.device}, {args.threads} thread(s), "
        f"{BATCH} images of {args.size}²"
    )
    if args.memory:
        memory(args)
        return
    for dtype in args.dtype:
        compare(args, dtype == "bf16", torch.device(args.device))


if __name__ == "__main__":
    main()
