"""What only an accelerator tells, and no other benchmark measures: compiled models, precisions, one short training.

    python benchmarks/bench_accelerator.py machine|compile|equality|training [--device cuda] [--tiny]

* machine: one line that says what it ran on
* compile: `torch.compile` against the model as it is, inference, fp32 and bf16 autocast; medians of alternating rounds,
  and how far the answers differ
* equality: a model's scores on the device against those on the processor, both fp32, and label maps under bf16
  autocast against fp32; random weights, drawn images
* training: the quickstart recipe in bf16, from its first step to the evaluation, and images a second

`benchmarks/on_gpu.sh` runs them among the others. `--tiny`: sizes that a processor manages.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from model_sizes import BACKBONES, LABELS  # noqa: E402

from hf_dinoseg import load_recipe  # noqa: E402
from hf_dinoseg.inference import predict_best, predict_scores  # noqa: E402
from hf_dinoseg.models import HEADS, DinoSegConfig, DinoSegForSemanticSegmentation  # noqa: E402

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "synthetic_retina" / "mask2former_tiny.yaml"
TINY = {"model_type": "dinov3_vit", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}


def machine(device: torch.device) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} processor"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, {platform.python_version()}.")


def new_model(head: str, tiny: bool) -> DinoSegForSemanticSegmentation:
    torch.manual_seed(0)
    backbone = {**TINY, "num_hidden_layers": 4} if tiny else dict(BACKBONES["ViT-S"][0])
    small: dict[str, Any] = {**HEADS[head].small, "num_queries": 8} if tiny else {}
    config = DinoSegConfig(backbone_config=backbone, head=head, num_labels=4 if tiny else LABELS, **small)
    return DinoSegForSemanticSegmentation(config).eval()


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def difference(found: Any, expected: Any) -> float:
    """Largest relative difference of two outputs' tensors."""
    worst = 0.0
    for name in ("class_queries_logits", "masks_queries_logits"):
        one, other = getattr(found, name, None), getattr(expected, name, None)
        if other is None:
            continue
        worst = max(worst, float((one.float().cpu() - other.float().cpu()).abs().max() / other.abs().max().cpu()))
    if getattr(expected, "class_queries_logits", None) is None:
        one, other = found.logits.float().cpu(), expected.logits.float().cpu()
        worst = float((one - other).abs().max() / other.abs().max())
    return worst


@torch.inference_mode()
def compiled(device: torch.device, tiny: bool) -> None:
    size, batch, rounds = (32, 1, 1) if tiny else (512, 8, 10)
    backend = "eager" if tiny else "inductor"  # to try the script, what inductor generates is not needed
    print("| model | precision | as it is, s | compiled, s | times faster | first call, s | difference |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for head in ("linear",) if tiny else HEADS:
        model = new_model(head, tiny).to(device)
        pixels = torch.randn(batch, 3, size, size, device=device)
        for bf16 in (False,) if tiny else (False, True):
            torch.compiler.reset()
            quick: Any = torch.compile(model, backend=backend)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                first = seconds(partial(quick, pixels), device)
                apart = difference(quick(pixels), model(pixels))
                taken: dict[str, list[float]] = {"plain": [], "compiled": []}
                for _ in range(rounds):
                    taken["plain"].append(seconds(partial(model, pixels), device))
                    taken["compiled"].append(seconds(partial(quick, pixels), device))
            plain, fast = (statistics.median(taken[name]) for name in ("plain", "compiled"))
            print(
                f"| {head} | {'bf16' if bf16 else 'fp32'} | {plain:.4f} | {fast:.4f} | {plain / fast:.2f} "
                f"| {first:.1f} | {apart:.1e} |",
                flush=True,
            )


@torch.inference_mode()
def equality(device: torch.device, tiny: bool) -> None:
    size, images = (32, 1) if tiny else (512, 4)
    torch.backends.cuda.matmul.allow_tf32 = False
    print("| head | fp32: largest difference of a score from the processor's | bf16: equal labels, % |")
    print("| --- | ---: | ---: |")
    for head in HEADS:
        model = new_model(head, tiny)
        pixels = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
        expected = predict_scores(model, pixels)
        model, pixels = model.to(device), pixels.to(device)
        found = predict_scores(model, pixels).cpu()
        labels, _ = predict_best(model, pixels)
        half, _ = predict_best(model, pixels, autocast="bfloat16")
        same = 100 * (labels == half).float().mean().item()
        print(f"| {head} | {(found - expected).abs().max().item():.1e} | {same:.2f} |", flush=True)


def training(device: torch.device, tiny: bool) -> None:
    from hf_dinoseg.run import train

    with TemporaryDirectory() as scratch:
        half = "false" if tiny else "true"
        changes = [f"training.output_dir={scratch}/run", "training.disable_tqdm=true", f"training.bf16={half}"]
        changes += ["training.use_cpu=true"] if device.type == "cpu" else []
        if tiny:
            changes += ["data.num_train=4", "data.num_validation=2", "data.size=64", "data.crop_size=64"]
            changes += ["training.max_steps=2", "training.eval_steps=2", "training.save_steps=2", "loss.num_points=64"]
            changes += ["training.per_device_train_batch_size=2", "training.logging_steps=1", "evaluation.panels=0"]
        recipe = load_recipe(RECIPE, changes)
        started = time.perf_counter()
        with redirect_stdout(sys.stderr):  # what transformers prints is no result
            metrics = train(recipe, force=True)
        taken = time.perf_counter() - started
        newest = max(Path(scratch, "run").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
        log = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    rates = [entry["images_per_second"] for entry in log if "images_per_second" in entry]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    print("| steps | seconds in all | images a second | first loss | last loss | mean IoU, % |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    rate = f"{statistics.median(rates):.1f}" if rates else "–"
    print(
        f"| {recipe.training['max_steps']} | {taken:.0f} | {rate} | {losses[0]:.2f} | {losses[-1]:.2f} "
        f"| {100 * metrics['mean_iou']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"machine": None, "compile": compiled, "equality": equality, "training": training}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    run = parts[args.part]
    machine(device) if run is None else run(device, args.tiny)


if __name__ == "__main__":
    main()
