"""Evaluation by sliding windows: ours against the plain loop that the field runs, over the same model.

    python benchmarks/bench_inference.py [--models linear tiny pmt eomt mask2former] [--images 32] [--rounds 1]
                                         [--threads 2] [--batch-size 1] [--device cpu] [--clock wall]

32 images of 683 × 512, windows of 512 every 341, 150 classes, random weights, to label maps in the images' size.

* the field's loop: one window at a time; every class's scores of the window at full resolution, added on the host into
  every class's scores of the image; then the best class
* ours: `predict_best`, which joins the scores of windows a few rows at a time

Ours and the loop take turns image by image; seconds are sums over the images, of the fastest round for each
image, and the ratio is theirs over ours. `--clock process` counts processor seconds, which a busy machine disturbs
less. Peak memory is the growth of a fresh process's resident size over its size with model and images in place,
activations of the model included. Models: linear, pmt, eomt and mask2former on a ViT-S, all but the first with 100
queries; tiny is the quickstart's Mask2Former with 100 queries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hf_dinoseg.inference import predict_best, window_positions  # noqa: E402
from hf_dinoseg.models import DinoSegForSemanticSegmentation  # noqa: E402

HEIGHT, WIDTH, WINDOW, STRIDE, CLASSES = 512, 683, 512, 341, 150
VIT_S: dict[str, Any] = {"model_type": "dinov3_vit", "num_register_tokens": 4}
TINY = {
    "model_type": "dinov3_vit", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_register_tokens": 4,
}  # fmt: skip
TINY_HEAD = {
    "hidden_dim": 64, "num_attention_heads": 4, "pixel_decoder_layers": 2, "pixel_decoder_ffn_dim": 128,
    "decoder_layers": 3, "decoder_ffn_dim": 128,
}  # fmt: skip
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": (VIT_S, {"head": "linear"}),
    "tiny": (TINY, TINY_HEAD),
    "pmt": (VIT_S, {"head": "pmt", "attn_mask_probs": [0.0] * 6}),
    "eomt": (VIT_S, {"head": "eomt", "attn_mask_probs": [0.0] * 4}),
    "mask2former": (VIT_S, {}),
}
SIDES = ("ours", "field")


def make_model(name: str, device: torch.device) -> Any:
    torch.manual_seed(0)
    backbone, fields = MODELS[name]
    model = DinoSegForSemanticSegmentation.from_backbone(backbone, num_labels=CLASSES, **fields)
    return model.eval().to(device)


def make_image(index: int) -> torch.Tensor:
    """(3, H, W) smooth noise, normalised."""
    generator = torch.Generator().manual_seed(index)
    small = torch.randn(1, 3, HEIGHT // 16, WIDTH // 16, generator=generator)
    return F.interpolate(small, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)[0]


@torch.inference_mode()
def field(model: Any, image: torch.Tensor) -> torch.Tensor:
    """(H, W) int64, by the plain loop."""
    total, count = torch.zeros(CLASSES, HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH)
    for top in window_positions(HEIGHT, WINDOW, STRIDE):
        for left in window_positions(WIDTH, WINDOW, STRIDE):
            crop = image[None, :, top : top + WINDOW, left : left + WINDOW]
            size = (crop.shape[-2], crop.shape[-1])
            outputs = model(pixel_values=crop)
            if outputs.class_queries_logits is None:
                logits = F.interpolate(outputs.logits, size=size, mode="bilinear", align_corners=False)
                scores = logits.softmax(dim=1)[0]
            else:
                masks = F.interpolate(outputs.masks_queries_logits, size=size, mode="bilinear", align_corners=False)
                classes = outputs.class_queries_logits.softmax(dim=-1)[0, :, :-1]
                scores = torch.einsum("qc,qhw->chw", classes, masks.sigmoid()[0])
            total[:, top : top + size[0], left : left + size[1]] += scores.cpu()
            count[top : top + size[0], left : left + size[1]] += 1
    return (total / count).argmax(dim=0)


def ours(model: Any, image: torch.Tensor, batch_size: int) -> torch.Tensor:
    return predict_best(model, image, mode="slide", window=WINDOW, stride=STRIDE, batch_size=batch_size)[0][0].cpu()


def predict(side: str, model: Any, image: torch.Tensor, batch_size: int) -> torch.Tensor:
    return ours(model, image, batch_size) if side == "ours" else field(model, image)


def resident() -> int:
    """Resident bytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def highest() -> int:
    """Resident bytes of this process at their highest. Not ru_maxrss, which a process takes over from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure_memory(side: str, name: str, threads: int, batch_size: int) -> int:
    """Bytes that a fresh process grows by; called through the command line."""
    torch.set_num_threads(threads)
    model, image = make_model(name, torch.device("cpu")), make_image(0)
    before = resident()
    for _ in range(2):
        predict(side, model, image, batch_size)
    return highest() - before


def memory_of(side: str, name: str, arguments: argparse.Namespace, device: torch.device) -> float:
    """MiB: of the host in a fresh process, or on an accelerator of its memory."""
    if device.type != "cpu":
        model, image = make_model(name, device), make_image(0).to(device)
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        predict(side, model, image, arguments.batch_size)
        return (torch.accelerator.max_memory_allocated() - before) / 2**20
    command = [sys.executable, __file__, "--memory", side, name, str(arguments.threads), str(arguments.batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) / 2**20


def compare(name: str, arguments: argparse.Namespace, device: torch.device) -> str:
    model = make_model(name, device)
    clock = time.process_time if arguments.clock == "process" else time.perf_counter
    fastest = {side: [float("inf")] * arguments.images for side in SIDES}
    differing = 0
    for side in SIDES:
        predict(side, model, make_image(0).to(device), arguments.batch_size)  # to warm up
    for turn in range(arguments.rounds):
        for index in range(arguments.images):
            image = make_image(index).to(device)
            maps = {}
            for side in SIDES if (index + turn) % 2 else SIDES[::-1]:
                started = clock()
                maps[side] = predict(side, model, image, arguments.batch_size)  # ends on the host: nothing is pending
                fastest[side][index] = min(fastest[side][index], clock() - started)
            differing += int((maps["ours"] != maps["field"]).sum())
    seconds = {side: sum(times) for side, times in fastest.items()}
    memory = {side: memory_of(side, name, arguments, device) for side in SIDES}
    pixels = arguments.rounds * arguments.images * HEIGHT * WIDTH
    return (
        f"| {name} | {seconds['field']:.2f} | {seconds['ours']:.2f} | {seconds['field'] / seconds['ours']:.2f} | "
        f"{memory['field']:.0f} | {memory['ours']:.0f} | {memory['ours'] / memory['field']:.2f} | "
        f"{differing} of {pixels} |"
    )


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        side, name, threads, batch_size = sys.argv[2:]
        sys.stdout.write(json.dumps(measure_memory(side, name, int(threads), int(batch_size))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="windows at once; 1 on a processor and 8 elsewhere if not given")
    parser.add_argument("--device", help="the accelerator if there is one, if not given")
    parser.add_argument("--clock", choices=("wall", "process"), default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device(arguments.device) if arguments.device else found or torch.device("cpu")
    arguments.batch_size = arguments.batch_size or (1 if device.type == "cpu" else 8)
    sys.stdout.write(
        f"torch {torch.__version__}, {device.type}, threads {arguments.threads}, {arguments.clock} seconds, "
        f"{arguments.batch_size} windows at once\n\n"
    )
    sys.stdout.write(
        "| model | field s | ours s | times faster | field MiB | ours MiB | share | pixels that differ |\n"
    )
    sys.stdout.write("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
    for name in arguments.models:
        sys.stdout.write(compare(name, arguments, device) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
