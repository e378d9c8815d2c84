"""Choosing the score below which a pixel gets no class, where label 0 has none; see docs/background.md."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from torch import nn
from tqdm.auto import tqdm

from . import objects
from .build import evaluate
from .data import EvalDataset, zero_is_void
from .errors import RunError
from .hub.describe import METRICS_FILE, write_json
from .inference import as_input, predict_best
from .metrics import ThresholdCurve
from .models import DinoSegForSemanticSegmentation, DinoSegImageProcessor
from .recipe import Recipe, load_recipe
from .training.run_folder import RECIPE_FILE
from .visualize.curve import draw_threshold_curve

logger = logging.getLogger(__name__)

RESULT_FILE, CURVE_FILE = "calibration.json", "calibration.png"


def calibrate(checkpoint: str, recipe: Recipe) -> dict[str, Any]:
    """Find the background threshold on a recipe's validation split, and store it in the checkpoint.

    The threshold is the one at which "no class" overlaps best (IoU) with the pixels whose mask says 0, among those that
    leave half of the classes' pixels with a class. It goes into
    `config.json` and `preprocessor_config.json`, so that every way to predict uses it. The checkpoint is then
    evaluated, and the folder gets `calibration.json` (threshold, figures with and without it) and `calibration.png`
    (the curve). `metrics.json` is brought up to date if the recipe's labels and data are those of the checkpoint's own.

    Args:
        checkpoint: a folder; it is written to.
        recipe: where the data is, and how pictures are predicted.

    Returns:
        What `calibration.json` holds.

    Raises:
        RunError: if the checkpoint is no folder, or 0 is a class or cannot occur.
        ValueError: if no mask of the split holds 0, or none a class.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise RunError(f"{checkpoint} is no folder; the threshold is stored in the checkpoint, so download it first.")
    if not zero_is_void(recipe.labels):
        raise RunError(
            f"{checkpoint}: in labels, id 0 is "
            f"{'the class ' + repr(recipe.labels.classes[0]) if 0 in recipe.labels.classes else 'not used'}; a "
            "threshold stands in for background only where 0 is void (reduce_zero_label, or 0 in ignore)."
        )
    model = DinoSegForSemanticSegmentation.from_pretrained(folder).eval()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    processor = DinoSegImageProcessor.from_pretrained(folder)
    split = objects.build_data(recipe, DatasetDict(validation=objects.build_source(recipe)["validation"]))["validation"]
    dataset = objects.build_eval_dataset(recipe, split, processor)
    model = model if device is None else nn.Module.to(model, device)
    curve = _measure(model, dataset, objects.build_inference(recipe), recipe.labels.ignore_index)
    threshold, iou = curve.best()
    if iou <= curve.silence_iou:
        logger.warning(
            "threshold %.3f: IoU of id 0 is %.4f, and would be %.4f if no pixel had a class: the scores of this model "
            "hardly tell id 0 from its classes. Make 0 a class and train anew: labels.classes: {0: background, …}, "
            "labels.reduce_zero_label: false.",
            *(threshold, iou, curve.silence_iou),
        )
    draw_threshold_curve(folder / CURVE_FILE, curve.thresholds, curve.id0_iou, threshold)
    for name in ("config.json", "preprocessor_config.json"):
        _store(folder / name, threshold)
    asked = recipe.evaluation.model_copy(update={"background": "threshold", "background_threshold": threshold})
    metrics = evaluate(checkpoint, dataclasses.replace(recipe, evaluation=asked))
    if _is_own(folder, recipe):
        old = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        write_json(folder / METRICS_FILE, {**old, **metrics})
    result = {**metrics["background"], "id0_iou_of_silence": curve.silence_iou, "num_images": metrics["num_images"]}
    write_json(folder / RESULT_FILE, result)
    return result


@torch.inference_mode()
def _measure(model: nn.Module, dataset: EvalDataset, inference: dict[str, Any], ignore_index: int) -> ThresholdCurve:
    curve = ThresholdCurve()
    for index in tqdm(range(len(dataset)), unit="picture", desc="Calibrating", disable=None):
        item = dataset[index]
        if item["index"] < 0:  # could not be read; the dataset has said so
            continue
        pixel_values = as_input(item["pixel_values"], model)
        size = (item["labels"].shape[0], item["labels"].shape[1])
        scores = predict_best(model, pixel_values, size, **inference)[1][0].cpu()
        curve.update(scores, item["labels"], item["zero"], ignore_index)
    return curve


def _store(path: Path, threshold: float) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["background_threshold"] = threshold
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_own(folder: Path, recipe: Recipe) -> bool:
    if not (folder / RECIPE_FILE).is_file() or not (folder / METRICS_FILE).is_file():
        return False
    own = load_recipe(folder / RECIPE_FILE)
    return own.labels == recipe.labels and own.data == recipe.data
