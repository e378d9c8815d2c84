"""Model speed: the Mask2Former head against transformers' two modules, and whole models against their backbone.

    python benchmarks/bench_model.py [--rounds 5] [--threads 1] [--device cpu] [--only head|whole|labels]
                                     [--heads linear pmt] [--batch 1] [--bf16] [--clock wall|process]
                                     [--checkpoint DIR --images FOLDER]

Head: features of a ViT-S for 2 images of 512², width 384, hidden 256, 8 heads, feed-forward 1024 and 2048, 6 + 9
layers, 100 queries, the same random weights and inputs on both sides. Inference asks for the final prediction only, of
both; transformers' module makes the masks of every layer all the same. Backward starts from given gradients of all ten
predictions, so that no loss is measured along. Rounds alternate between the two, and ours under bf16 autocast, which
is compared with transformers' in fp32; figures are medians.
Peak memory is that of one pass in a new process that inherits no peak: the kernel's high-water mark of the resident
size (VmHWM), set back once weights and inputs are in place, less the resident size then. Freed blocks above 64 KiB go
back to the system at once (MALLOC_MMAP_THRESHOLD_), on both sides, so that the mark follows what is held. On an
accelerator it is the allocator's own peak.
Whole models: ViT-S, random weights, one image of 512² or `--batch` of them. `--clock process` counts processor seconds,
which a busy machine disturbs less.
Labels: a trained checkpoint's label maps under bf16 autocast against its own in fp32, whole images at their original
size. It needs images and a checkpoint, so it is made only where both are given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    Mask2FormerConfig,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder, Mask2FormerTransformerModule

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hf_dinoseg.hub.convert_names import convert_mask2former_state_dict  # noqa: E402
from hf_dinoseg.images import read_image  # noqa: E402
from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegImageProcessor, semantic_labels_and_scores
from hf_dinoseg.models.outputs import Frame  # noqa: E402

WIDTH, SIZE, BATCH, CLASSES = 384, 512, 2, 20
VIT_S: dict[str, Any] = {"model_type": "dinov3_vit", "num_register_tokens": 4}
MODES = ("inference", "forward + backward")
SIDES = ("ours", "transformers")


class Peer(nn.Module):
    """transformers' pixel decoder and transformer module, and the classifier that its model puts on top."""

    def __init__(self) -> None:
        super().__init__()
        config = Mask2FormerConfig(
            feature_size=256, mask_feature_size=256, hidden_dim=256, encoder_feedforward_dim=1024,
            dim_feedforward=2048, encoder_layers=6, decoder_layers=10, num_attention_heads=8, num_queries=100,
        )  # fmt: skip
        self.decoder = Mask2FormerPixelDecoder(config, [WIDTH] * 4)
        self.transformer = Mask2FormerTransformerModule(256, config)
        self.classify = nn.Linear(256, CLASSES + 1)

    def forward(self, pyramid: list[Tensor], all_predictions: bool) -> list[Tensor]:
        decoded = self.decoder(pyramid, output_hidden_states=False)
        output = self.transformer(list(decoded.multi_scale_features), decoded.mask_features)
        states, masks = output.intermediate_hidden_states, output.masks_queries_logits
        if not all_predictions:
            states, masks = states[-1:], masks[-1:]
        return [*(self.classify(state.transpose(0, 1)) for state in states), *masks]

    def published_names(self) -> dict[str, Tensor]:
        names = {"decoder": "model.pixel_level_module.decoder", "transformer": "model.transformer_module"}
        renamed = {}
        for name, tensor in self.state_dict().items():
            part, _, rest = name.partition(".")
            renamed[f"{names.get(part, 'class_predictor')}.{rest}"] = tensor
        return renamed


def make_heads(device: torch.device) -> dict[str, Callable[[list[Tensor], bool], list[Tensor]]]:
    """Both heads with the same weights, as functions of a pyramid and whether all predictions are wanted."""
    torch.manual_seed(0)
    peer = Peer()
    with torch.no_grad():  # built alone, transformers' modules leave some tensors uninitialised
        for name, parameter in peer.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.1)
    peer.to(device)
    model = DinoSegForSemanticSegmentation.from_backbone(VIT_S, num_labels=CLASSES).to(device)
    weights = convert_mask2former_state_dict(peer.published_names())
    report = model.load_state_dict(weights, strict=False)
    assert not report.unexpected_keys
    assert all(".adapter." in key or key.startswith("backbone.") for key in report.missing_keys)
    frame = Frame(SIZE, SIZE, SIZE, SIZE)

    def ours(pyramid: list[Tensor], all_predictions: bool) -> list[Tensor]:
        output = model.head.decode(pyramid, frame, all_predictions)
        predictions = [*(output.auxiliary_predictions or ()), output]
        return [p["class_queries_logits"] for p in predictions] + [p["masks_queries_logits"] for p in predictions]

    return {"ours": ours, "transformers": peer}


def make_pyramid(device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, WIDTH, SIZE // s, SIZE // s, generator=generator).to(device) for s in (4, 8, 16, 32)]


def make_step(side: str, mode: str, device: torch.device, bf16: bool = False) -> Callable[[], list[Tensor]]:
    head, pyramid = make_heads(device)[side], make_pyramid(device)
    train = mode != "inference"
    queries = (BATCH, 100)
    gradients_of = {
        shape: torch.randn(shape, device=device) / shape[-1]
        for shape in (torch.Size((*queries, CLASSES + 1)), torch.Size((*queries, SIZE // 4, SIZE // 4)))
    }
    for level in pyramid:
        level.requires_grad_(train)

    def step() -> list[Tensor]:
        with torch.set_grad_enabled(train), torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            predictions = head(pyramid, train)
        if train:
            torch.autograd.backward(predictions, [gradients_of[p.shape].to(p.dtype) for p in predictions])
        return predictions

    return step


def seconds(step: Callable[[], Any], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return clock() - started


def medians(
    steps: dict[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, device, clock))
    return {name: statistics.median(values) for name, values in times.items()}


def agreement(device: torch.device) -> float:
    """Largest relative difference between the two heads' predictions, so that the same work is compared."""
    worst = 0.0
    results = [make_step(side, "inference", device)() for side in SIDES]
    for mine, theirs in zip(*results, strict=True):
        difference = float((mine - theirs).abs().max() / theirs.abs().max())
        worst = max(worst, difference) if math.isfinite(difference) else math.inf
    return worst


def mebibytes_of(step: Callable[[], Any], device: torch.device) -> float:
    """MiB that this process's memory grows by during a step, at its highest."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        step()
        return (torch.accelerator.max_memory_allocated() - before) / 2**20
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    step()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - before) / 2**20


def memory(side: str, mode: str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", side, mode, "--threads", str(args.threads)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(
        [*command, "--device", args.device], check=True, capture_output=True, text=True, env=environment
    )
    return float(json.loads(result.stdout.splitlines()[-1]))


def head_table(args: argparse.Namespace, device: torch.device) -> None:
    print(f"\nLargest relative difference of the predictions: {agreement(device):.1e}\n")
    print("| Mask2Former head | transformers s | ours s | times faster | transformers MiB | ours MiB | share |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for mode in MODES:
        steps = {side: make_step(side, mode, device) for side in SIDES}
        time_of = medians({**steps, "bf16": make_step("ours", mode, device, bf16=True)}, args.rounds, device)
        peak = {side: memory(side, mode, args) for side in SIDES}
        print(
            f"| {mode}, fp32 | {time_of['transformers']:.3f} | {time_of['ours']:.3f} "
            f"| {time_of['transformers'] / time_of['ours']:.2f} | {peak['transformers']:.0f} | {peak['ours']:.0f} "
            f"| {peak['ours'] / peak['transformers']:.2f} |",
            flush=True,
        )
        theirs, half = time_of["transformers"], time_of["bf16"]
        print(f"| {mode}, ours bf16 autocast | {theirs:.3f} | {half:.3f} | {theirs / half:.2f} | | | |", flush=True)


def label_table(args: argparse.Namespace, device: torch.device) -> None:
    model = DinoSegForSemanticSegmentation.from_pretrained(args.checkpoint).to(device).eval()
    processor = DinoSegImageProcessor.from_pretrained(args.checkpoint)
    shares = []
    for path in sorted(p for p in args.images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        image = read_image(str(path))
        pixel_values = processor(images=image, return_tensors="pt")["pixel_values"].to(device)
        maps = []
        for autocast in (nullcontext(), torch.autocast(device.type, torch.bfloat16)):
            with torch.no_grad(), autocast:
                output = model(pixel_values)
            maps.append(semantic_labels_and_scores(output, (image.height, image.width))[0])
        shares.append(100 * float((maps[0] == maps[1]).float().mean()))
        if len(shares) == args.limit:
            break
    if not shares:
        raise SystemExit(f"{args.images}: no .jpg or .png there; give a folder of images.")
    print("\n| equal labels, bf16 autocast against fp32 | images | mean % | lowest % |")
    print("| --- | --- | --- | --- |")
    print(f"| {model.config.head} | {len(shares)} | {statistics.mean(shares):.3f} | {min(shares):.3f} |")


def whole_table(args: argparse.Namespace, device: torch.device) -> None:
    torch.manual_seed(0)
    image = torch.randn(args.batch, 3, SIZE, SIZE, device=device)
    models: dict[str, Any] = {
        head: DinoSegForSemanticSegmentation.from_backbone(VIT_S, head=head, num_labels=CLASSES)
        for head in ("linear", "pmt", "eomt", "mask2former")
        if args.heads is None or head in args.heads
    }
    backbone = DinoSegForSemanticSegmentation.from_backbone(VIT_S, head="linear", num_labels=CLASSES).backbone
    for model in models.values():
        model.head.set_progress(1.0)  # as after training: queries of eomt and pmt attend everywhere
    if args.heads is None:
        models["mask2former, pyramid"] = DinoSegForSemanticSegmentation.from_backbone(
            VIT_S, adapter="pyramid", num_labels=CLASSES
        )
        config = EomtDinov3Config(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=SIZE,
            num_queries=100, num_labels=CLASSES,
        )  # fmt: skip
        models["transformers' EoMT"] = EomtDinov3ForUniversalSegmentation(config)
        models["transformers' EoMT"].attn_mask_probs.zero_()
    steps: dict[str, Callable[[], Any]] = {}
    cast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)
    for name, model in {"backbone alone": backbone, **models}.items():
        steps[name] = torch.no_grad()(cast(partial(model.to(device).eval(), image)))
    time_of = medians(steps, args.rounds, device, time.process_time if args.clock == "process" else time.perf_counter)
    dtype = "bf16 autocast" if args.bf16 else "fp32"
    print(
        f"\n| whole model, inference, {dtype}, {args.batch} image(s) | s | times the backbone "
        "| parameters beside the backbone, M |"
    )
    print("| --- | --- | --- | --- |")
    for name, value in time_of.items():
        head = getattr(models.get(name), "head", None)
        size = f"{sum(p.numel() for p in head.parameters()) / 1e6:.1f}" if head is not None else ""
        print(f"| {name} | {value:.3f} | {value / time_of['backbone alone']:.2f} | {size} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--heads", nargs="+", help="of the whole models, these alone")
    parser.add_argument("--batch", type=int, default=1, help="images a pass of a whole model")
    parser.add_argument("--bf16", action="store_true", help="whole models under bf16 autocast")
    parser.add_argument("--clock", choices=("wall", "process"), default="wall", help="of whole models")
    parser.add_argument("--only", choices=["head", "whole", "labels"])
    parser.add_argument("--checkpoint", type=Path, help="folder of a trained checkpoint, for the table of labels")
    parser.add_argument("--images", type=Path, help="folder of images, for the table of labels")
    parser.add_argument("--limit", type=int, default=20, help="the most images")
    parser.add_argument("--memory-of", nargs=2, metavar=("SIDE", "MODE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    labels = args.checkpoint is not None and args.images is not None
    if not labels and (args.checkpoint or args.images or args.only == "labels"):
        parser.error("equal labels need both --checkpoint and --images")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.memory_of:
        print(json.dumps(mebibytes_of(make_step(*args.memory_of, device), device)))
        return
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {args.device}, {args.threads} thread(s)"
    )
    if args.only in (None, "head"):
        head_table(args, device)
    if args.only in (None, "whole"):
        whole_table(args, device)
    if labels and args.only in (None, "labels"):
        label_table(args, device)


if __name__ == "__main__":
    main()
