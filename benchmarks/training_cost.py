"""What training a recipe costs: counted operations, and GPU-hours at a utilisation that you put in.

    python benchmarks/training_cost.py                        # the table of docs/cost.md, as markdown
    python benchmarks/training_cost.py --check [--threads 1]  # a real step on the CPU: its rate, and a product's

A training step's products (matrices, convolutions, attention) are counted on tensors that have shapes and no data, by
torch's own counter: a multiplication and an addition are two operations. Sums, norms, sampling and the loss are not
counted; they cost time all the same, which is part of what utilisation means.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from model_sizes import BACKBONES, LABELS, predictions  # noqa: E402

from hf_dinoseg import load_recipe  # noqa: E402
from hf_dinoseg.models import DinoSegConfig, DinoSegForSemanticSegmentation, head_class  # noqa: E402

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "ade20k"
#: (recipe, tune): ViT-7B frozen, ViT-L learning.
RUNS = (
    ("linear_vit7b16", "head"),
    ("mask2former_vit7b16", "head"),
    ("eomt_vitl16", "full"),
    ("mask2former_vitl16", "full"),
    ("linear_vitl16", "full"),
)
NAMES = {"vits16": "ViT-S", "vitb16": "ViT-B", "vitl16": "ViT-L", "vit7b16": "ViT-7B"}
#: Published dense bf16 peaks, operations a second (data sheets of the SXM modules).
PEAKS = {"A100": 312e12, "H100": 989e12}
UTILISATIONS = (0.3, 0.4, 0.5)


def convolution_backward(grad: Any, x: Any, weight: Any, *others: Any, **_: Any) -> int:
    """Operations, from shapes: torch's counter takes a convolution in groups for a full one."""
    transposed, wanted = others[4], others[7]
    products = math.prod(x if transposed else grad) * math.prod(weight[1:])
    return 2 * products * sum(wanted[:2])


CORRECTED = {torch.ops.aten.convolution_backward: convolution_backward}


def new_model(
    backbone: dict[str, Any], head: str, frozen: bool, settings: Mapping[str, Any] | None = None
) -> DinoSegForSemanticSegmentation:
    config = DinoSegConfig(
        backbone_config=dict(backbone), head=head, num_labels=LABELS, freeze_backbone=frozen, **(settings or {})
    )
    return DinoSegForSemanticSegmentation(config).train()


def count(
    backbone: dict[str, Any],
    head: str,
    frozen: bool,
    size: int,
    checkpointing: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Operations of the forward and the backward pass of one image."""
    counts = patch("torch.bincount", lambda values, minlength: values.new_zeros(minlength))  # as in model_sizes
    # what a processor makes of sparse tensors, which have no shapes without data; neither way is counted
    dots = patch(
        "hf_dinoseg.models.deformable_attention.row_dots",
        lambda table, rows, vectors: (table[rows.long()] * vectors[:, None]).sum(-1),
    )
    with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights(), sdpa_kernel(SDPBackend.MATH), counts, dots:
        model = new_model(backbone, head, frozen, settings)
        if checkpointing:
            model.gradient_checkpointing_enable()
        with FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter:
            outputs = model(torch.zeros(1, 3, size, size), output_auxiliary=True)
            forward = counter.get_total_flops()
            sum(tensor.float().mean() for tensor in predictions(outputs)).backward()
        return forward, counter.get_total_flops() - forward


def table() -> None:
    hours = [f"{gpu}, {100 * share:.0f} %" for gpu in PEAKS for share in UTILISATIONS]
    print("| recipe | learns | crop | images | forward | backward | whole run, 10¹⁸ | " + " | ".join(hours) + " |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |" + " ---: |" * len(hours))
    for name, tune in RUNS:
        recipe = load_recipe(RECIPES / f"{name}.yaml", [f"model.tune={tune}"])
        values, size = recipe.training, recipe.data.crop_size
        images = values["max_steps"] * values["per_device_train_batch_size"]
        images *= values.get("gradient_accumulation_steps", 1)
        backbone = BACKBONES[NAMES[name.split("_")[1]]][0]
        checkpointing = values.get("gradient_checkpointing", False)
        head, given = recipe.model.head, recipe.model.model_dump()
        settings = {key: given[key] for key in head_class(head).settings if key in given}
        passes = count(backbone, head, tune == "head", size, checkpointing, settings)
        run = images * sum(passes)
        cells = [f"{run / (peak * share * 3600):.0f}" for peak in PEAKS.values() for share in UTILISATIONS]
        each = [f"{n / 1e12:.2f}" for n in passes]
        start = [f"ade20k/{name}", tune, str(size), f"{images / 1000:.0f} k", *each, f"{run / 1e18:.2f}"]
        print("| " + " | ".join([*start, *cells]) + " |", flush=True)


def seconds(work: Callable[[], Any], rounds: int = 3) -> float:
    """Processor seconds, which other work on the machine disturbs less than time."""
    work()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def check() -> None:
    """Rates of whole steps beside that of one large product, which is as fast as this machine gets."""
    square = torch.randn(2048, 2048)
    product = 2 * 2048**3 / seconds(lambda: square @ square)
    print(f"{torch.get_num_threads()} thread(s); a product of 2048²: {product / 1e9:.0f} GFLOP a core second, fp32\n")
    print("| ViT-S, one image of 512², fp32 | counted GFLOP | core seconds | GFLOP a core second | of the product's |")
    print("| --- | ---: | ---: | ---: | ---: |")
    backbone = BACKBONES["ViT-S"][0]
    cases = [(head, frozen) for head in ("linear", "pmt", "eomt", "mask2former") for frozen in (True, False)]
    taken = []
    for case in cases:  # all of them before counting, which leaves tensors without data in caches
        model, pixels = new_model(backbone, *case), torch.randn(1, 3, 512, 512)

        def step(model: Any = model, pixels: torch.Tensor = pixels) -> None:
            sum(t.float().mean() for t in predictions(model(pixels, output_auxiliary=True))).backward()

        taken.append(seconds(step))
    for (head, frozen), value in zip(cases, taken, strict=True):
        counted = sum(count(backbone, head, frozen, 512))
        rate = counted / value
        print(
            f"| {head}, backbone {'frozen' if frozen else 'trained'} | {counted / 1e9:.0f} | {value:.2f} "
            f"| {rate / 1e9:.0f} | {100 * rate / product:.0f} % |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="run ViT-S steps on the CPU beside their count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    if args.check:
        check()
    else:
        table()


if __name__ == "__main__":
    main()
