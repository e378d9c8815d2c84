"""Crops, steps, batch and backbone that fit the data and the computer, with a reason for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.utils import is_torch_bf16_available_on_device

BACKBONE = "facebook/dinov3-vits16-pretrain-lvd1689m"
#: learns from scratch, where no published weights can be had; the sizes of recipes/synthetic_retina
TINY = {
    "model_type": "dinov3_vit",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_register_tokens": 4,
}
_TINY_HEAD = {
    "hidden_dim": 64,
    "num_attention_heads": 4,
    "pixel_decoder_layers": 2,
    "pixel_decoder_ffn_dim": 128,
    "decoder_layers": 3,
    "decoder_ffn_dim": 128,
    "drop_path_rate": 0.0,
}
_CROP, _TINY_CROP, _MULTIPLE = 512, 128, 32
_MANY_SIZES = 1.5  # longest over shortest of the usual shorter sides: from here on images are brought to one size
_RARE = 0.01  # of the labelled pixels
_MOSTLY_ONE = 0.75
_STEPS = ((50, 2000), (500, 5000), (5000, 20000))  # images up to which so many steps do
_MOST_STEPS = 40000


@dataclass
class Settings:
    """Sections of a recipe.

    Attributes:
        sections: `data`, `model`, `loss`, `training`, `evaluation`: what differs from the defaults.
        reasons: `section.field` to a sentence.
    """

    sections: dict[str, dict[str, Any]]
    reasons: dict[str, str] = field(default_factory=dict)


def choose_settings(
    sizes: Sequence[tuple[int, int]],
    shares: Sequence[float],
    most_classes: int,
    num_train: int,
    backbone: str | None,
    why_no_backbone: str = "",
    trained_on: torch.device | None = None,
) -> Settings:
    """
    Args:
        sizes: (width, height) of the images.
        shares: of the labelled pixels, class by class.
        most_classes: that one mask holds.
        num_train: images to train on.
        backbone: whose weights can be had; None starts a tiny model from random weights.
        why_no_backbone: a sentence for the recipe then.
        trained_on: the device; None is the one that torch finds.
    """
    device = trained_on or torch.accelerator.current_accelerator() or torch.device("cpu")
    scratch = backbone is None
    settings = Settings({name: {} for name in ("data", "model", "loss", "training", "evaluation")})
    data, model, training = (settings.sections[name] for name in ("data", "model", "training"))
    _crops(settings, np.array(list(sizes)), scratch)

    model["backbone"] = dict(TINY) if backbone is None else backbone
    model["head"] = "mask2former"
    if scratch:
        settings.reasons["model.backbone"] = f"a tiny one from random weights, which learns too: {why_no_backbone}"
        model |= {"num_queries": max(12, min(2 * len(shares), 100), most_classes), **_TINY_HEAD}
        settings.sections["loss"]["num_points"] = max(256, (data["crop_size"] // 4) ** 2)
        settings.reasons["loss.num_points"] = "as many as a mask of these crops has pixels"
    else:
        model["tune"] = "head"
        settings.reasons["model.tune"] = "the backbone rests: right for few images, and fast; docs/choosing.md has more"
        if most_classes > 50:
            model["num_queries"] = 2 * most_classes
            settings.reasons["model.num_queries"] = f"one mask holds {most_classes} classes"
    if max(shares, default=0.0) > _MOSTLY_ONE:
        data["max_class_share"] = 1.0
        settings.reasons["data.max_class_share"] = "one class covers most of every image: no other crops to look for"
    if len(shares) > 1 and min((share for share in shares if share), default=1.0) < _RARE:
        data["rare_class_crops"] = 0.5
        settings.reasons["data.rare_class_crops"] = (
            f"a class covers less than {100 * _RARE:g} % of the pixels: half of the crops are drawn about rare ones"
        )

    accelerated = device.type != "cpu"
    steps = next((steps for most, steps in _STEPS if num_train <= most), _MOST_STEPS)
    if not accelerated:
        steps = min(steps, 600 if scratch else 400)
    training["max_steps"] = steps
    settings.reasons["training.max_steps"] = (
        f"for {num_train} training images"
        if accelerated
        else "what a processor does in reasonable time; with a GPU, thousands"
    )
    training |= _batch(settings, device, scratch)
    training["learning_rate"] = 1e-3 if scratch else 1e-4
    if accelerated and is_torch_bf16_available_on_device(device.type):
        training["bf16"] = True
        settings.reasons["training.bf16"] = "this GPU computes in bfloat16"
    if scratch:
        training["max_grad_norm"] = 1.0
    return settings


def _crops(settings: Settings, sizes: np.ndarray, scratch: bool) -> None:
    data, evaluation = settings.sections["data"], settings.sections["evaluation"]
    shorter = sizes.min(axis=1)
    median = float(np.median(shorter))
    low, high = np.quantile(shorter, [0.05, 0.95])
    usual = _TINY_CROP if scratch else _CROP
    largest = usual
    if high > _MANY_SIZES * low:
        base = int(min(median, 2 * usual) // _MULTIPLE * _MULTIPLE) or _MULTIPLE
        data["base_size"] = base
        settings.reasons["data.base_size"] = (
            f"images are {low:.0f} to {high:.0f} pixels on their shorter sides: all are brought to one"
        )
        median = base
    elif median > 8 * usual:
        settings.reasons["data.crop_size"] = (
            f"images are {median:.0f} pixels and more: crops and windows see them at their own size"
        )
    data["crop_size"] = crop = int(max(64, min(largest, median // _MULTIPLE * _MULTIPLE)))
    settings.reasons.setdefault("data.crop_size", f"the shorter sides are {median:.0f} pixels (median)")
    if median <= 1.25 * crop:
        data["scale"] = [0.75, 1.5]
        settings.reasons["data.scale"] = "crops nearly hold an image: smaller ones would be mostly padding"
    if sizes.max() <= 1.5 * crop and "base_size" not in data:
        evaluation["mode"] = "whole"
        settings.reasons["evaluation.mode"] = "an image is hardly larger than a crop: it is seen at once"


def _batch(settings: Settings, device: torch.device, scratch: bool) -> dict[str, Any]:
    if device.type == "cpu":
        settings.reasons["training.per_device_train_batch_size"] = "small, for a processor"
        return {"per_device_train_batch_size": 8 if scratch else 2}
    memory = 16.0
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    batch = 16 if memory >= 38 else 8 if memory >= 20 else 4 if memory >= 11 else 2
    settings.reasons["training.per_device_train_batch_size"] = (
        f"for {memory:.0f} GiB of GPU memory; times gradient_accumulation_steps: 16 images a step"
    )
    workers = min(8, max(1, (os.cpu_count() or 1) - 1))
    return {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 16 // batch,
        "dataloader_num_workers": workers,
    }
