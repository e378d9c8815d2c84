"""Checks of settings that have to agree: image processors with one another, a checkpoint's labels with the recipe's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ..labels import LabelSpace
from ..training.checkpoints import model_faults
from .report import Finding

PROCESSOR_NAME = "preprocessor_config.json"

# DINOv3's weights for satellite images: https://github.com/facebookresearch/dinov3#image-transforms
_SATELLITE = "sat493m"
_SATELLITE_STATISTICS = {"image_mean": [0.430, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}

_NORMALIZATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
_DEFAULTS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


def check_normalization(ours: Mapping[str, Any], other: Mapping[str, Any], where: str) -> list[Finding]:
    """Two image processors that feed a model different numbers for the same image.

    Args:
        ours: `to_dict()` of the processor that training uses.
        other: the same, or the content of a `preprocessor_config.json`.
        where: what the other is, for the message.
    """
    if not {"image_mean", "image_std"} & set(other):
        return []
    told = []
    for key in _NORMALIZATION:
        mine, theirs = ours.get(key, _DEFAULTS.get(key)), other.get(key, _DEFAULTS.get(key))
        if not _same(mine, theirs):
            told.append(f"{key} is {_short(mine)} here and {_short(theirs)} there")
    if not told:
        return []
    return [
        Finding(
            "warning",
            "normalization-differs",
            f"{where} prepares images otherwise than training here would: {'; '.join(told)}.",
            "Use the statistics that the weights were trained with, in training and in deployment alike: "
            "`model.image_mean` and `model.image_std`.",
        )
    ]


def check_backbone_processor(ours: Mapping[str, Any], backbone: str) -> list[Finding]:
    """A backbone that was trained on images normalised otherwise, as satellite backbones are.

    Its preprocessor_config.json tells, in a local folder or in the Hub's cache; nothing is downloaded for it. Where
    there is none, the name of a published satellite backbone does.

    Args:
        ours: as `check_normalization`.
        backbone: a local folder or a Hub id.
    """
    other: Any = None
    try:
        file = Path(backbone) / PROCESSOR_NAME
        if not Path(backbone).is_dir():
            file = Path(str(try_to_load_from_cache(backbone, PROCESSOR_NAME)))
        other = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if _SATELLITE in backbone.casefold():
            other = _SATELLITE_STATISTICS
    return check_normalization(ours, other, f"the backbone {backbone}") if isinstance(other, dict) else []


def check_model_files(folder: Path) -> list[Finding]:
    """Files of a checkpoint that are not as its run wrote them, by its manifest."""
    code = "checkpoint-files-changed"
    weights = [Finding("error", code, *fault) for fault in model_faults(folder, ["model*.safetensors"])]
    configs = [Finding("warning", code, *fault) for fault in model_faults(folder, ["config.json", PROCESSOR_NAME])]
    return weights or configs


def check_label_spaces(recipe: LabelSpace, checkpoint: LabelSpace) -> list[Finding]:
    """A checkpoint that means something else by its labels than the recipe does."""
    if recipe.original_ids != checkpoint.original_ids:
        only_recipe = sorted(set(recipe.original_ids) - set(checkpoint.original_ids))
        only_checkpoint = sorted(set(checkpoint.original_ids) - set(recipe.original_ids))
        return [
            Finding(
                "error",
                "checkpoint-labels-differ",
                f"the checkpoint answers with {checkpoint.num_labels} classes, the recipe has {recipe.num_labels}; ids "
                f"only in the recipe: {only_recipe[:12]}, only in the checkpoint: {only_checkpoint[:12]}.",
                "Use the recipe that the checkpoint was trained with (recipe.yaml in its folder), or train anew.",
            )
        ]
    findings = []
    renamed = [
        _two_names(i, recipe, checkpoint)
        for i in recipe.original_ids
        if _name(recipe.classes[i]) != _name(checkpoint.classes[i])
    ]
    if moved := [
        i for i in recipe.original_ids if _elsewhere(i, recipe, checkpoint) or _elsewhere(i, checkpoint, recipe)
    ]:
        told = [_two_names(i, recipe, checkpoint) for i in moved]
        findings.append(
            Finding(
                "error",
                "checkpoint-names-moved",
                f"names of classes stand for other ids: {'; '.join(told[:6])}. Figures would stand under wrong names.",
                "Find out what the ids mean in the masks, and put `labels.classes` right. If the masks are those that "
                "the checkpoint was trained with, copy `labels.classes` from its recipe.yaml: names change no figure.",
            )
        )
    elif renamed:
        findings.append(
            Finding(
                "warning",
                "checkpoint-names-differ",
                f"classes of the same id have other names: {'; '.join(renamed[:6])}.",
                "If only the spelling differs, nothing is to be done; if the order does, put `labels.classes` right.",
            )
        )
    other = [
        f"{name} is {getattr(recipe, name)} in the recipe and {getattr(checkpoint, name)} in the checkpoint"
        for name in ("ignore", "reduce_zero_label", "merge", "encoding")
        if getattr(recipe, name) != getattr(checkpoint, name)
    ]
    if other:
        findings.append(
            Finding(
                "warning",
                "checkpoint-void-differs",
                f"masks are read otherwise than when the checkpoint was trained: {'; '.join(other)}.",
                "Scores compare only if void is the same pixels. Copy `labels` from the checkpoint's recipe.yaml.",
            )
        )
    return findings


def _elsewhere(original_id: int, one: LabelSpace, other: LabelSpace) -> bool:
    """Whether the name that one gives to an id is another id's with the other."""
    name = _name(one.classes[original_id])
    ids = [i for i, there in other.classes.items() if _name(there) == name]
    return bool(ids) and original_id not in ids


def _two_names(original_id: int, recipe: LabelSpace, checkpoint: LabelSpace) -> str:
    ours, theirs = recipe.classes[original_id], checkpoint.classes[original_id]
    return f"{original_id} is {ours!r} in the recipe and {theirs!r} in the checkpoint"


def _name(text: str) -> str:
    return text.strip().casefold()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) < 1e-3 * max(1e-3, abs(a))
    return a == b


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(f"{v:.3f}" for v in value) + "]"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
