"""What an evaluation leaves beside its figures: tables, the confusion matrix, and the report."""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..data import EvalDataset
from ..images import read_image
from ..inference import Background
from ..labels import LabelSpace
from ..visualize import CONFUSION_FILE, CURVES_FILE, ReportImage, render_report, save_confusion, save_curves
from .next_steps import next_steps
from .streamed import StreamedMetrics

REPORT_FILE = "report.html"
PER_CLASS_FILE, PER_IMAGE_FILE = "per_class.csv", "per_image.csv"
#: What `write_results` writes, beside what is drawn anew at each evaluation.
RESULT_FILES = (PER_CLASS_FILE, PER_IMAGE_FILE, REPORT_FILE)
_IMAGES = 12  # in the report: half of them the worst, half the best
_PER_CLASS = ("iou", "accuracy", "dice", "precision", "recall", "f_beta", "boundary_iou")


def versions() -> dict[str, str]:
    """What produced a result: versions of Python, this package and the libraries that have a say in it."""
    libraries = ("hf-dinoseg", "torch", "transformers", "datasets", "accelerate")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def write_results(
    folder: Path,
    dataset: EvalDataset,
    streamed: StreamedMetrics,
    metrics: Mapping[str, Any],
    predict: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    background: Background,
    log_history: Sequence[Mapping[str, Any]],
    title: str,
    recipe: str,
) -> None:
    """Write `per_class.csv`, `per_image.csv`, `confusion.png` and `report.html` of the last evaluation, and after a
    training its `curves.png`.

    The images of the report are predicted once more: which of them are the worst is known only in the end, and no
    prediction is kept.

    Args:
        folder: where to; made if it is missing.
        dataset: that was evaluated.
        streamed: the evaluation's counts.
        metrics: what `metrics.json` holds.
        predict: gives (H, W) train ids of the prediction and of the truth for an image of the dataset, as an image
            shows them.
        background: what was answered where no class is likely.
        log_history: of the training, for its curves.
        title, recipe: for the report.
    """
    matrix, space = streamed.matrix, streamed.label_space
    assert matrix is not None  # an evaluation was done
    folder.mkdir(parents=True, exist_ok=True)
    counts = matrix.numpy()
    _write_per_class(folder / PER_CLASS_FILE, metrics, counts.sum(axis=1), space)
    with (folder / PER_IMAGE_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "mean_iou", "overall_accuracy"])
        for row in streamed.images:
            figures = (_figure(row[key]) for key in ("mean_iou", "overall_accuracy"))
            writer.writerow([dataset.ids[int(row["index"])], *figures])
    save_confusion(counts, space, folder / CONFUSION_FILE)
    save_curves(log_history, folder / CURVES_FILE)
    labelled = [row for row in streamed.images if not math.isnan(row["mean_iou"])]
    if len(labelled) > _IMAGES:
        labelled = labelled[: _IMAGES - _IMAGES // 2] + labelled[-(_IMAGES // 2) :]
    images = []
    for row in labelled:
        index = int(row["index"])
        prediction, truth = (space.decode(part.numpy()) for part in predict(index))
        image = read_image(dataset.dataset[index]["image"])
        images.append(ReportImage(dataset.ids[index], image, truth, prediction, row["mean_iou"]))
    steps = next_steps(metrics, counts, space, log_history)
    page = render_report(title, metrics, counts, space, images, recipe, background.caption(space), steps)
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")


def _write_per_class(path: Path, metrics: Mapping[str, Any], truth: Any, space: LabelSpace) -> None:
    kinds = [kind for kind in _PER_CLASS if f"per_category_{kind}" in metrics]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "name", *kinds, "iou_low", "iou_high", "truth_pixels"])
        for train_id, original_id in enumerate(space.original_ids):
            name = space.id2label[train_id]
            key = f"{original_id} {name}"
            figures = [metrics[f"per_category_{kind}"][key] for kind in kinds] + metrics["per_category_iou_interval"][
                key
            ]
            writer.writerow([original_id, name, *map(_figure, figures), int(truth[train_id])])


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
