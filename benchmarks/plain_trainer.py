"""How far a step of transformers' plain Trainer is from one of DinoSegTrainer when gradients are accumulated.

The plain Trainer averages the losses of the accumulated batches, each divided by the masks (or pixels) of its own
batch; DinoSegTrainer divides by those of all of them. Over the same crops of CamVid, with the same weights and the same
random points, this prints the length of the difference of the two gradients as a share of the exact one, and the angle
between them.

    python benchmarks/plain_trainer.py --data data/camvid
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from hf_dinoseg import load_recipe
from hf_dinoseg.builders import build_data, build_model, build_train_dataset
from hf_dinoseg.data import collate, expand_batch

RECIPES = Path(__file__).parents[1] / "recipes" / "camvid"


def gradient(model: Any, batches: list[dict[str, Any]], exact: bool) -> torch.Tensor:
    model.zero_grad()
    counts = sum(model.criterion.counts(batch, model.config.num_queries) for batch in batches)
    for number, batch in enumerate(batches):
        torch.manual_seed(number)  # the points
        outputs = model(batch["pixel_values"], output_auxiliary=True)
        terms = model.criterion(outputs, **model.criterion.targets(batch), normalizers=counts if exact else None)
        (terms["loss"] if exact else terms["loss"] / len(batches)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def measure(head: str, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    file = RECIPES / ("base_tiny.yaml" if head == "linear" else f"{head}_tiny.yaml")
    overrides = [
        f"data.root={args.data}",
        f"data.crop_size={args.crop}",
        "loss.num_points=1024",
        "training.output_dir=out",
    ]
    recipe = load_recipe(file, [*overrides, f"model.head={head}"])
    model = build_model(recipe).eval()  # batch norms by their running figures: they are no part of the question
    dataset = build_train_dataset(recipe, build_data(recipe)["train"])
    lengths, angles = [], []
    for step in range(args.steps):
        first = step * args.accumulate * args.batch
        items = [dataset[i % len(dataset)] for i in range(first, first + args.accumulate * args.batch)]
        batches = [
            expand_batch(collate(items[i : i + args.batch]), (0.5,) * 3, (0.25,) * 3)
            for i in range(0, len(items), args.batch)
        ]
        exact, plain = gradient(model, batches, True), gradient(model, batches, False)
        lengths.append(float((plain - exact).norm() / exact.norm()))
        cosine = float(torch.nn.functional.cosine_similarity(plain, exact, dim=0))
        angles.append(math.degrees(math.acos(min(1.0, cosine))))
    return lengths, angles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/camvid")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--crop", type=int, default=128)
    args = parser.parse_args()
    for head in ("linear", "mask2former"):
        lengths, angles = measure(head, args)
        print(f"{head}: {args.accumulate} batches of {args.batch} crop(s) of {args.crop} pixels, {args.steps} steps")
        for what, values in (("difference / exact gradient", lengths), ("angle in degrees", angles)):
            print(f"  {what}: median {statistics.median(values):.3f}, at most {max(values):.3f}", flush=True)


if __name__ == "__main__":
    main()
