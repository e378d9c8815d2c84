"""transformers' own Trainer trains the model, on one process and on two, and evaluates it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_dinoseg import DinoSegForSemanticSegmentation
from hf_dinoseg.training import HeadSchedule

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch"]
LAUNCHER += ["--config_file", str(ROOT / "recipes" / "accelerate" / "cpu.yaml")]
VIT = {
    "model_type": "dinov3_vit",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "pos_embed_rescale": None,
}
SMALL = {
    "num_labels": 3,
    "num_queries": 5,
    "hidden_dim": 32,
    "num_attention_heads": 2,
    "pixel_decoder_layers": 1,
    "pixel_decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "loss": {"num_points": 64},
}


def make_model(head: str, **fields: Any) -> DinoSegForSemanticSegmentation:
    torch.manual_seed(0)
    return DinoSegForSemanticSegmentation.from_backbone(VIT, head=head, **{**SMALL, **fields})


def make_items(count: int = 4) -> list[dict[str, torch.Tensor]]:
    """The class of a pixel is the brightest of its colours; image i is void but for 4 (i + 1) rows."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    images = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    labels = images.argmax(1)
    for number, label_map in enumerate(labels):
        label_map[4 * (number + 1) :] = 255
    return [{"pixel_values": 4 * image - 2, "labels": label} for image, label in zip(images, labels, strict=True)]


@pytest.mark.parametrize("accumulation", [4, 2], ids=["one process", "two processes"])
def test_a_step_is_the_mean_of_the_batches_on_one_process_and_on_two(accumulation: int, tmp_path: Path) -> None:
    model, items = make_model("linear", loss=None), make_items()
    model.save_pretrained(tmp_path / "start")
    torch.save(items, tmp_path / "items.pt")
    model.eval()
    losses = []
    for item in items:
        logits = model(item["pixel_values"][None]).logits
        resized = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
        losses.append(torch.nn.functional.cross_entropy(resized, item["labels"][None], ignore_index=255))
    torch.stack(losses).mean().backward()
    command = [str(ROOT / "tests" / "training" / "plain_step.py"), str(tmp_path), str(accumulation)]
    launcher = [sys.executable] if accumulation == 4 else [*LAUNCHER, "--num_processes", "2"]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = [torch.load(file) for file in sorted(tmp_path.glob("process*.pt"))]
    assert len(results) == 4 // accumulation
    for name, parameter in model.named_parameters():
        moved = 0 if parameter.grad is None else parameter.grad
        for result in results:
            torch.testing.assert_close(result[name], parameter.detach() - moved, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("head", ["linear", "eomt", "mask2former", "pmt"])
def test_it_learns_and_evaluates(head: str, tmp_path: Path) -> None:
    fields = {"loss": None} if head == "linear" else {}
    model, items = make_model(head, freeze_backbone=False, **fields), make_items()

    def compute_metrics(prediction: Any) -> dict[str, float]:
        found = prediction.predictions
        if head == "linear":
            assert found.shape[:2] == (4, 3)
        else:
            assert [part.shape[:2] for part in found] == [(4, 5), (4, 5)]
        return {"void": float(np.mean(prediction.label_ids == 255))}

    args = TrainingArguments(
        str(tmp_path), max_steps=12, learning_rate=3e-3, logging_steps=1, per_device_train_batch_size=4, use_cpu=True,
        report_to=[], disable_tqdm=True, eval_strategy="steps", eval_steps=6, save_steps=6, load_best_model_at_end=True,
        gradient_checkpointing=True,
    )  # fmt: skip
    trainer = Trainer(
        model,
        args,
        train_dataset=items,
        eval_dataset=items,
        compute_metrics=compute_metrics,
        callbacks=[HeadSchedule()],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 2 and {entry["eval_void"] for entry in evaluations} == {1 - (4 + 8 + 12 + 16) / 128}
    assert trainer.state.best_metric == min(entry["eval_loss"] for entry in evaluations)


def test_masks_in_place_of_labels_are_named_in_the_arguments(tmp_path: Path) -> None:
    items = []
    for item in make_items():
        classes = torch.arange(3)
        masks = item["labels"][None] == classes[:, None, None]
        items.append({"pixel_values": item["pixel_values"], "mask_labels": masks, "class_labels": classes})
    args = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["mask_labels", "class_labels"],
    )
    trainer = Trainer(make_model("mask2former"), args, train_dataset=items, eval_dataset=items)
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
