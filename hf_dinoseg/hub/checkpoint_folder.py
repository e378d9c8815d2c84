"""What lies beside the weights in a checkpoint folder and tells people what they are: metrics, card, images."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import CARD_FILE, METRICS_FILE
from ..figures import write_json
from ..visualize import CURVES_FILE
from .card import model_card


def describe(
    folder: Path, label_space: Mapping[str, Any], recipe: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    """Write the metrics, and a card that shows the first image of the last evaluation, and the training's curves.

    Args:
        folder: the checkpoint folder.
        label_space: `LabelSpace.to_dict()`.
        recipe: `Recipe.to_dict()`.
        metrics: what was measured; empty if nothing was.
    """
    write_json(folder / METRICS_FILE, metrics)
    (folder / CARD_FILE).write_text(card_of(folder, label_space, recipe, metrics), encoding="utf-8")


def card_of(folder: Path, label_space: Mapping[str, Any], recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The card that `describe` writes, with the images that lie in the folder."""
    images = last_panels(folder)
    panel = images[0].relative_to(folder).as_posix() if images else None
    curves = CURVES_FILE if (folder / CURVES_FILE).is_file() else None
    return model_card(label_space, metrics, recipe, panel=panel, curves=curves)


def last_panels(folder: Path) -> list[Path]:
    """The images of the last evaluation: of the finished model, else of the latest step."""
    panels = folder / "panels"
    for where in (panels / "final", *sorted(panels.glob("step-*"), reverse=True), panels):
        if images := sorted(where.glob("*.png")):
            return images
    return []


def hardware(device: torch.device, processes: int) -> str:
    """What a run ran on, in words: `8 × NVIDIA H100 80GB HBM3`, or threads of a CPU."""
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    threads = f"{torch.get_num_threads()} CPU thread{'s' if torch.get_num_threads() > 1 else ''}"
    single = name(device) if name else f"{threads} ({platform.machine()})"
    return f"{processes} × {single}" if processes > 1 else single
