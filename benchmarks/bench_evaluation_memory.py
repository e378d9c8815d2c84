"""Memory of an evaluation: how much a process grows from image to image.

    python benchmarks/bench_evaluation_memory.py [--images 1000] [--first 100] [--size 512] [--head linear]

Images of about size x 4/3 size pixels, of sizes that differ, are evaluated by a `DinoSegTrainer` as in training, with
all metrics; the model is a tiny one with random weights. Prints the resident size of the process after the images
`first`, and on to the last, and what would have been kept if predictions were. On an accelerator (`--device`) the peak
of its allocator is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_dinoseg import load_recipe
from hf_dinoseg.builders import (
    build_data,
    build_eval_dataset,
    build_inference,
    build_model,
    build_processor,
    build_training_arguments,
)
from hf_dinoseg.training import DinoSegTrainer

DISTINCT = 20  # files; the others are links to them
RECIPE = """
labels: {classes: CLASSES}
data: {source: folder, root: ROOT, image: "images/{split}", mask: "masks/{split}", train: train, validation: val}
model:
  backbone: {model_type: dinov3_vit, hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 2,
    intermediate_size: 128}
  head: HEAD
  num_queries: 100
  hidden_dim: 64
  num_attention_heads: 2
  pixel_decoder_layers: 1
  pixel_decoder_ffn_dim: 64
  decoder_layers: 2
  decoder_ffn_dim: 64
training: {output_dir: OUTPUT, disable_tqdm: true}
evaluation: {mode: whole}
"""


class Measured(DinoSegTrainer):
    """Notes the process's resident size, in bytes, after each image."""

    sizes: list[int]

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        result = super().prediction_step(*args, **kwargs)
        self.sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return result


def write_images(root: Path, split: str, count: int, size: int, classes: int) -> int:
    """Write `count` pairs; gives the number of pixels of all of them."""
    rng = np.random.default_rng(0)
    pixels = 0
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True)
    for index in range(count):
        image, mask = (root / kind / split / f"{index:05d}.png" for kind in ("images", "masks"))
        if index < DISTINCT:
            shape = (size - 3 * index, size * 4 // 3 - 5 * index)
            coarse = Image.fromarray(rng.integers(0, classes, (8, 8), dtype=np.uint8))
            coarse.resize(shape[::-1], Image.Resampling.NEAREST).save(mask)
            noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            noise.resize(shape[::-1], Image.Resampling.BICUBIC).save(image)
        else:
            for path in (image, mask):
                os.link(path.with_name(f"{index % DISTINCT:05d}.png"), path)
        pixels += (size - 3 * (index % DISTINCT)) * (size * 4 // 3 - 5 * (index % DISTINCT))
    return pixels


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[int], int]:
    pixels = write_images(folder / "data", "val", args.images, args.size, args.classes)
    write_images(folder / "data", "train", 1, args.size, args.classes)
    text = RECIPE.replace("CLASSES", "{" + ", ".join(f"{i}: class {i}" for i in range(args.classes)) + "}")
    for word, value in (("ROOT", folder / "data"), ("HEAD", args.head), ("OUTPUT", folder / "out")):
        text = text.replace(word, str(value))
    (folder / "recipe.yaml").write_text(text)
    recipe = load_recipe(folder / "recipe.yaml", ["training.use_cpu=true"] if args.device == "cpu" else [])
    processor = build_processor(recipe)
    dataset = build_eval_dataset(recipe, build_data(recipe)["validation"], processor, 0)
    trainer = Measured(
        build_model(recipe),
        build_training_arguments(recipe),
        criterion=None,
        label_space=recipe.labels,
        inference=build_inference(recipe),
        processing_class=processor,
        eval_dataset=dataset,
    )
    trainer.sizes = []
    trainer.evaluate()
    assert trainer.streamed.summary["num_images"] == args.images
    return trainer.sizes, pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--head", choices=["linear", "mask2former", "eomt", "pmt"], default="linear")
    parser.add_argument("--device", default="cpu", help="cpu, or whatever the Trainer finds")
    parser.add_argument("--json", action="store_true", help="print the sizes in bytes, image by image")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes, pixels = measure(args, Path(folder))
    if args.json:
        print(json.dumps(sizes))
        return
    mib = 2**20
    after = sorted({args.first, *(args.images * n // 4 for n in (1, 2, 3, 4))})
    print(f"torch {torch.__version__}, {args.device}, {args.head} head, {args.classes} classes\n")
    print("| after images | resident MiB | growth MiB |\n| ---: | ---: | ---: |")
    for count in (n for n in after if n >= args.first):
        print(f"| {count} | {sizes[count - 1] / mib:.0f} | {(sizes[count - 1] - sizes[args.first - 1]) / mib:.1f} |")
    print(f"\nAll label maps as int64 would be {8 * pixels / mib:.0f} MiB", end="")
    print(f", all scores as float32 {4 * args.classes * pixels / mib:.0f} MiB.")
    if args.device != "cpu":
        print(f"Peak of the accelerator's allocator: {torch.accelerator.max_memory_allocated() / mib:.0f} MiB.")


if __name__ == "__main__":
    main()
