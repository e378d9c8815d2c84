"""A training step with each adapter of the Mask2Former head, at the sizes of a recipe.

    python benchmarks/bench_adapters.py [recipes/camvid/mask2former_tiny.yaml] [--rounds 9] [--device cpu] [--threads 1]

Prints a markdown table: parameters, and the median of a step's seconds (forward, loss, backward, AdamW). Rounds
alternate between the adapters. On a CPU it is the process's own time, which other programs disturb little.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from hf_dinoseg.builders import build_criterion, build_model  # noqa: E402
from hf_dinoseg.recipe import Recipe, load_recipe  # noqa: E402

ADAPTERS = ("vit_adapter", "pyramid")


def make_step(recipe: Recipe, device: torch.device) -> tuple[int, Callable[[], None]]:
    """Parameters of the adapter, and one training step on a batch of blobs."""
    torch.manual_seed(0)
    model: Any = build_model(recipe).to(device).train()
    criterion: Any = build_criterion(recipe).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    batch, size = recipe.training["per_device_train_batch_size"], recipe.data.crop_size
    pixels = torch.randn(batch, 3, size, size, device=device)
    coarse = torch.rand(batch, recipe.labels.num_labels, size // 32, size // 32)
    labels = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").argmax(1).to(device)
    classes = [label.unique() for label in labels]
    masks = [label == ids[:, None, None] for label, ids in zip(labels, classes, strict=True)]

    def step() -> None:
        loss = criterion(model(pixels), mask_labels=masks, class_labels=classes)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return sum(p.numel() for p in model.head.adapter.parameters()), step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default=str(ROOT / "recipes" / "camvid" / "mask2former_tiny.yaml"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    made = {name: make_step(load_recipe(options.recipe, [f"model.adapter={name}"]), device) for name in ADAPTERS}
    seconds: dict[str, list[float]] = {name: [] for name in ADAPTERS}
    for round_ in range(-2, options.rounds):  # two to warm up
        for name, (_, step) in made.items():
            begun = clock()
            step()
            if round_ >= 0:
                seconds[name].append(clock() - begun)
    print("| adapter | parameters of it, M | a training step, s |\n| --- | ---: | ---: |")
    for name, (parameters, _) in made.items():
        print(f"| {name} | {parameters / 1e6:.2f} | {statistics.median(seconds[name]):.3f} |")


if __name__ == "__main__":
    main()
