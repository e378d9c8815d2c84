"""Parameters and training memory of every backbone with every head, counted without allocating anything.

    python benchmarks/model_sizes.py                 # the tables of docs/model_sizes.md, as markdown
    python benchmarks/model_sizes.py --operations    # the operations of an image in inference, alone
    python benchmarks/model_sizes.py --check         # one real training step on the CPU beside its count

A training step (forward, backward, AdamW) runs on fake tensors, which have shapes and no data, and the bytes of every
storage that is alive are added up. The loss is left out (its matching depends on the data); the mean of all
predictions, auxiliary ones too, stands for it. Operations are those of matrix products, attention's among them, and of
convolutions; two for a multiplication and its addition. EoMT and PMT are as after training: nothing is masked.
"""

from __future__ import annotations

import argparse
import logging
import resource
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from hf_dinoseg.losses import MaskClassificationLoss, PixelLoss
from hf_dinoseg.models import DinoSegConfig, DinoSegForSemanticSegmentation

GIB = 2**30
SIZE, BATCH, LABELS = 512, 1, 150
HEADS = ("linear", "pmt", "eomt", "mask2former")
PLAIN_ONLY = ("pmt", "eomt")  # no ConvNeXt


def vit(hidden: int, layers: int, heads: int, mlp: int, gated: bool = False, bias: bool = True) -> dict[str, Any]:
    kind = {"model_type": "dinov3_vit", "hidden_size": hidden, "num_hidden_layers": layers, "num_register_tokens": 4}
    activation = {"use_gated_mlp": gated, "hidden_act": "silu" if gated else "gelu"}
    biases = {"query_bias": bias, "value_bias": bias}
    return {**kind, "num_attention_heads": heads, "intermediate_size": mlp, **activation, **biases}


def convnext(depth: int, width: int) -> dict[str, Any]:
    widths = [width * 2**stage for stage in range(4)]
    return {"model_type": "dinov3_convnext", "depths": [3, 3, depth, 3], "hidden_sizes": widths}


#: As transformers' conversion scripts have them, and the millions of parameters that DINOv3's model card publishes
#: (of a ConvNeXt with the classifier that it once had, about one million).
BACKBONES: dict[str, tuple[dict[str, Any], int]] = {
    "ViT-S": (vit(384, 12, 6, 1536), 21),
    "ViT-S+": (vit(384, 12, 6, 1536, gated=True), 29),
    "ViT-B": (vit(768, 12, 12, 3072), 86),
    "ViT-L": (vit(1024, 24, 16, 4096), 300),
    "ViT-H+": (vit(1280, 32, 20, 5120, gated=True), 840),
    "ViT-7B": (vit(4096, 40, 32, 8192, gated=True, bias=False), 6716),
    "ConvNeXt-T": (convnext(9, 96), 29),
    "ConvNeXt-S": (convnext(27, 96), 50),
    "ConvNeXt-B": (convnext(27, 128), 89),
    "ConvNeXt-L": (convnext(27, 192), 198),
}


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that are alive, and keeps the highest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: dict[int, weakref.finalize] = {}

    def add(self, tensors: Any) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if id(storage) not in self.known:
                size = storage.nbytes()
                self.known[id(storage)] = weakref.finalize(storage, self._gone, id(storage), size)
                self.live += size
                self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self.known.pop(key, None)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.add(out)
        return out


@dataclass(frozen=True)
class Count:
    """Numbers of parameters, and bytes."""

    total: int
    trainable: int
    backbone: int
    activations: int
    peak: int


def new_model(
    backbone: dict[str, Any], head: str, frozen: bool, backbone_dtype: str | None = None
) -> DinoSegForSemanticSegmentation:
    fields = {"num_labels": LABELS, "freeze_backbone": frozen, "backbone_dtype": backbone_dtype}
    config = DinoSegConfig(backbone_config=dict(backbone), head=head, **fields)
    return DinoSegForSemanticSegmentation(config).train()


def predictions(outputs: Any) -> Iterator[Tensor]:
    if outputs.class_queries_logits is None:  # mask heads have `logits` too, made when they are asked for
        yield outputs.logits
        return
    layers = [outputs, *(outputs.auxiliary_predictions or ())]
    for layer in layers:
        yield from (layer["class_queries_logits"], layer["masks_queries_logits"])


def autocast(bf16: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def count(backbone: dict[str, Any], head: str, frozen: bool, bf16: bool, backbone_dtype: str | None = None) -> Count:
    """One training step in steady state: the optimizer's moments are there from the step before."""
    # the one operation whose shape depends on data, but for `minlength`, which is given and is enough
    counts = patch("torch.bincount", lambda values, minlength: values.new_zeros(minlength))
    with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights(), counts:
        model = new_model(backbone, head, frozen, backbone_dtype)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        for parameter in trained:  # a step before this one, for its moments
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        pixels = torch.zeros(BATCH, 3, SIZE, SIZE)
        memory = LiveBytes()
        memory.add(
            [*model.parameters(), *model.buffers(), [list(state.values()) for state in optimizer.state.values()]]
        )
        memory.add(pixels)
        with memory:
            before = memory.live
            with autocast(bf16):
                outputs = model(pixels, output_auxiliary=True)
            loss = sum(tensor.float().mean() for tensor in predictions(outputs))
            activations = memory.live - before
            loss.backward()
            del outputs, loss
            optimizer.step()
        inner = sum(parameter.numel() for parameter in model.backbone.parameters())
        total = sum(parameter.numel() for parameter in model.parameters())
        return Count(total, sum(p.numel() for p in trained), inner, activations, memory.peak)


def tables(kinds: tuple[bool, ...]) -> None:
    columns = "activations fp32 | training fp32 | activations bf16 | training bf16 |"
    head_line = f"| backbone | head | parameters | that learn | {columns}"
    for frozen in kinds:
        print(f"\n## Backbone {'frozen' if frozen else 'trained'}\n\n{head_line}\n| --- | --- |" + " ---: |" * 6)
        for name, (config, published) in BACKBONES.items():
            for head in HEADS:
                if head in PLAIN_ONLY and "depths" in config:
                    continue
                full, half = (count(config, head, frozen, bf16) for bf16 in (False, True))
                assert abs(full.backbone / 1e6 - published) <= max(1.5, 0.03 * published), (name, full.backbone)
                figures = [f"{full.total / 1e6:.1f} M", f"{full.trainable / 1e6:.1f} M"]
                figures += [f"{b / GIB:.2f}" for c in (full, half) for b in (c.activations, c.peak)]
                print(f"| {name} | {head} | " + " | ".join(figures) + " |", flush=True)


def half_table() -> None:
    """Frozen backbones whose weights are bfloat16 (`model.backbone_dtype`), where that counts."""
    print("\n| backbone in bfloat16 | head | training | training, autocast |\n| --- | --- | ---: | ---: |")
    for name in ("ViT-L", "ViT-H+", "ViT-7B"):
        for head in HEADS:
            peaks = [count(BACKBONES[name][0], head, True, bf16, "bfloat16").peak for bf16 in (False, True)]
            print(f"| {name} | {head} | " + " | ".join(f"{peak / GIB:.2f}" for peak in peaks) + " |", flush=True)


def operations(backbone: dict[str, Any], head: str | None) -> int:
    """Of one image in inference; of the backbone alone where there is no head."""
    counts = patch("torch.bincount", lambda values, minlength: values.new_zeros(minlength))
    # of the ways to compute attention, the one whose products are counted
    with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights(), counts, sdpa_kernel(SDPBackend.MATH):
        model = new_model(backbone, head or "linear", True).eval().requires_grad_(False)
        model.head.set_progress(1.0)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            (model if head else model.backbone)(torch.zeros(1, 3, SIZE, SIZE))
    return counter.get_total_flops()


def operations_table() -> None:
    print("\n| backbone | alone, Gflop | " + " | ".join(HEADS) + " |\n| --- | ---: |" + " ---: |" * len(HEADS))
    for name, (config, _) in BACKBONES.items():
        alone = operations(config, None)
        shares = [
            "" if head in PLAIN_ONLY and "depths" in config else f"{operations(config, head) / alone:.2f}"
            for head in HEADS
        ]
        print(f"| {name} | {alone / 1e9:.0f} | " + " | ".join(shares) + " |", flush=True)


def real_step(name: str, head: str, frozen: bool) -> tuple[int, int]:
    """Two training steps with the real loss and real tensors.

    Returns:
        The highest sum of storages alive, and the growth of this process's largest size, in bytes.
    """
    torch.manual_seed(0)
    _steps(new_model(vit(32, 4, 2, 64), head, frozen), 64, LiveBytes())  # code is loaded, and not measured
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = LiveBytes()
    model = new_model(BACKBONES[name][0], head, frozen)
    _steps(model, SIZE, memory)
    return memory.peak, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024


def _steps(model: DinoSegForSemanticSegmentation, size: int, memory: LiveBytes) -> None:
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    pixels = torch.randn(BATCH, 3, size, size)
    labels = torch.randint(LABELS, (BATCH, 4, 4)).repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    classes = [label.unique() for label in labels]
    masks = [label == ids[:, None, None] for label, ids in zip(labels, classes, strict=True)]
    criterion = PixelLoss(LABELS) if model.config.head == "linear" else MaskClassificationLoss(LABELS)
    memory.add([*model.parameters(), *model.buffers(), pixels])
    with memory:
        for _ in range(2):
            outputs = model(pixels, output_auxiliary=True)
            targets = (labels,) if model.config.head == "linear" else (masks, classes)
            loss = criterion(outputs, *targets)["loss"]
            loss.backward()
            del outputs, loss
            optimizer.step()
            optimizer.zero_grad()


def check(names: list[str], kinds: tuple[bool, ...]) -> None:
    print("| backbone | head | | counted | really run, with loss | process | ")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for name in names:
        for head in HEADS:
            for frozen in kinds:
                kind = "frozen" if frozen else "trained"
                words = [sys.executable, __file__, "--step", name, head, kind]
                printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                counted = count(BACKBONES[name][0], head, frozen, bf16=False).peak
                told = [f"{b / GIB:.2f} ({100 * (b / counted - 1):+.0f} %)" for b in map(int, printed.split())]
                print(f"| {name} | {head} | {kind} | {counted / GIB:.2f} | {' | '.join(told)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs="*", metavar="BACKBONE", help="really run these, and compare")
    parser.add_argument("--frozen", action="store_true", help="only with the backbone frozen")
    parser.add_argument("--half", action="store_true", help="only frozen backbones whose weights are bfloat16")
    parser.add_argument("--operations", action="store_true", help="only the operations of an image in inference")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    kinds = (True,) if options.frozen else (True, False)
    if options.step:
        print(*real_step(options.step[0], options.step[1], options.step[2] == "frozen"))
    elif options.check is not None:
        check(options.check or ["ViT-S"], kinds)
    elif options.half:
        half_table()
    elif options.operations:
        operations_table()
    else:
        tables(kinds)
        half_table()
        operations_table()


if __name__ == "__main__":
    main()
