"""What an evaluation leaves beside its figures: tables, the confusion matrix, and the report."""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data import EvalDataset, collate_eval, zero_is_void
from ..images import read_image
from ..inference import predict_best
from ..labels import LabelSpace
from ..visualize import CURVES_FILE, ReportPicture, render_report, save_confusion, save_curves
from .evaluation import whole_on_each_process, without_autocast
from .showing import CONFUSION_FILE

if TYPE_CHECKING:
    from .trainer import DinoSegTrainer

REPORT_FILE = "report.html"
PER_CLASS_FILE, PER_IMAGE_FILE = "per_class.csv", "per_image.csv"
#: What `write_results` writes, beside what is drawn anew at each evaluation.
RESULT_FILES = (PER_CLASS_FILE, PER_IMAGE_FILE, REPORT_FILE)
_PICTURES = 12  # in the report: half of them the worst, half the best
_PER_CLASS = ("iou", "accuracy", "dice", "precision", "recall", "f_beta", "boundary_iou")


def versions() -> dict[str, str]:
    """What produced a result: versions of Python, this package and the libraries that have a say in it."""
    libraries = ("hf-dinoseg", "torch", "transformers", "datasets", "accelerate")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def write_results(
    folder: Path, trainer: DinoSegTrainer, dataset: EvalDataset, metrics: Mapping[str, Any], title: str, recipe: str
) -> None:
    """Write `per_class.csv`, `per_image.csv`, `confusion.png` and `report.html` of the last evaluation, and after a
    training its `curves.png`.

    Called by all processes; the first writes.

    The pictures of the report are predicted once more: which of them are the worst is known only in the end, and no
    prediction is kept.

    Args:
        folder: where to; made if it is missing.
        trainer: that has evaluated `dataset`.
        metrics: what `metrics.json` holds.
        title, recipe: for the report.
    """
    with whole_on_each_process(trainer.own_weights.model, trainer.deepspeed):
        if trainer.is_world_process_zero():
            _write(folder, trainer, dataset, metrics, title, recipe)


def _write(
    folder: Path, trainer: DinoSegTrainer, dataset: EvalDataset, metrics: Mapping[str, Any], title: str, recipe: str
) -> None:
    matrix = trainer.streamed.matrix
    assert matrix is not None  # an evaluation was done
    space = trainer.label_space
    folder.mkdir(parents=True, exist_ok=True)
    counts = matrix.numpy()
    _write_per_class(folder / PER_CLASS_FILE, metrics, counts.sum(axis=1), space)
    images = trainer.streamed.images
    with (folder / PER_IMAGE_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "mean_iou", "overall_accuracy"])
        for row in images:
            writer.writerow(
                [dataset.ids[int(row["index"])], *(_figure(row[key]) for key in ("mean_iou", "overall_accuracy"))]
            )
    save_confusion(counts, space, folder / CONFUSION_FILE)
    save_curves(trainer.state.log_history, folder / CURVES_FILE)
    labelled = [row for row in images if not math.isnan(row["mean_iou"])]
    if len(labelled) > _PICTURES:
        labelled = labelled[: _PICTURES - _PICTURES // 2] + labelled[-(_PICTURES // 2) :]
    pictures = [_picture(trainer, dataset, int(row["index"]), row["mean_iou"]) for row in labelled]
    named = zero_is_void(space) or trainer.background.policy != "none"
    page = render_report(title, metrics, counts, space, pictures, recipe, trainer.background.caption if named else "")
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")


def _picture(trainer: DinoSegTrainer, dataset: EvalDataset, index: int, mean_iou: float) -> ReportPicture:
    item = dataset[index]
    truth, void = item["labels"], trainer.label_space.ignore_index
    model: Any = trainer.model
    model.eval()
    with torch.no_grad(), without_autocast(model):
        [pixel_values] = trainer._prepare_inputs(collate_eval([item]))["pixel_values"]
        best, scores = predict_best(model, pixel_values[None], (truth.shape[-2], truth.shape[-1]), **trainer.inference)
    prediction = trainer.background.apply(best[0], scores[0], void).cpu()
    prediction = trainer.background.drawn(prediction, truth, void)
    return ReportPicture(
        dataset.ids[index],
        read_image(dataset.dataset[index]["image"]),
        trainer.label_space.decode(truth.numpy()),
        trainer.label_space.decode(prediction.numpy()),
        mean_iou,
    )


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
