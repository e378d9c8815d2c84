"""The evaluation as one page that needs nothing else: figures, classes, confusion, and images one can look into."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from ..figures import is_figure, void_text, without_nan
from ..labels import LabelSpace
from .label_view import image_uri, numbers_uri
from .overlay import check_size
from .palette import class_colors

_LONGEST_SIDE = 640  # of images in the page, in pixels
_TILES = {
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "overall accuracy",
    "mean_boundary_iou": "boundary IoU",
    "mean_precision": "mean precision",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "expected_calibration_error": "calibration error",
}
_COLUMNS = {
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "f_beta": "F-beta",
    "boundary_iou": "boundary IoU",
}


@dataclass(frozen=True, eq=False)
class ReportImage:
    """An image of the report.

    Attributes:
        name: what it is called.
        image: RGB.
        truth, prediction: (H, W) original ids, of the image's size.
        mean_iou: over its own classes, 0 to 1 or NaN.
    """

    name: str
    image: Image.Image
    truth: np.ndarray
    prediction: np.ndarray
    mean_iou: float


def render_report(
    title: str,
    metrics: Mapping[str, Any],
    matrix: np.ndarray,
    label_space: LabelSpace,
    images: Sequence[ReportImage],
    recipe: str = "",
    caption: str = "",
    next_steps: Sequence[tuple[str, str]] = (),
) -> str:
    """Write the page.

    Images are stored as JPEG of at most 640 pixels, label maps as PNG, so that an image takes about 100 kB.
    Whatever comes from data (names, ids, the recipe) is escaped.

    Args:
        title: what was evaluated.
        metrics: what `metrics.json` holds. Figures that are missing or NaN are left out or shown as a dash.
        matrix: (C, C + 1) counts, see `evaluation.confusion_matrix`.
        label_space: names and colours.
        images: in the order in which they are to be seen.
        recipe: its text.
        caption: what predictions do with background, if there is something to say.
        next_steps: what stands out and what to do about it, each in a few words and in a sentence.

    Returns:
        HTML that loads nothing from anywhere.

    Raises:
        ValueError: if the sizes of an image and its maps differ, or on ids that the label space does not know.
    """
    counts = np.asarray(matrix).astype(np.int64)
    colors = class_colors(label_space)
    names = [label_space.id2label[train_id] for train_id in range(label_space.num_labels)]
    rgb = [colors[i] for i in label_space.original_ids]
    if not counts[:, -1].any():
        counts = counts[:, :-1]
    embedded = [_embed(image, label_space) for image in images]
    present = sorted({int(i) for image in embedded for i in image["present"]})
    columns = ["id", "class", "IoU", "95 % interval", *_columns(metrics).values(), "of truth"]
    template = Environment(loader=PackageLoader("hf_dinoseg.visualize", "."), autoescape=True).get_template(
        "report.html.j2"
    )
    return template.render(
        title=title,
        subtitle=f"{metrics['num_images']} validation images, {label_space.num_labels} classes, "
        f"{int(np.asarray(matrix).sum()):,} labelled pixels" + (f"; {caption}" if caption else ""),
        void=void_text(metrics),
        tiles=_tiles(metrics),
        columns=columns,
        rows=_rows(metrics, np.asarray(matrix), label_space, rgb),
        absent=metrics.get("num_absent_classes"),
        unanswered=counts.shape[1] > len(names),
        images_text=_images_text(len(images), int(metrics["num_images"])),
        shown=[{"index": i, "name": names[i], "color": rgb[i], "on": any(rgb[i])} for i in present],
        images=[
            {
                "name": image.name,
                "note": "" if math.isnan(image.mean_iou) else f"mean IoU {100 * image.mean_iou:.1f} %",
                **{key: shown[key] for key in ("width", "height")},
            }
            for image, shown in zip(images, embedded, strict=True)
        ],
        caption=caption,
        next_steps=next_steps,
        recipe=recipe,
        metrics_text=json.dumps(without_nan(metrics), indent=2, ensure_ascii=False),
        versions=", ".join(f"{name} {number}" for name, number in (metrics.get("versions") or {}).items()),
        data={
            "names": names,
            "colors": rgb,
            "matrix": counts.tolist(),
            "images": [{key: shown[key] for key in ("photo", "truth", "prediction")} for shown in embedded],
        },
    )


def _images_text(shown: int, total: int) -> str:
    if shown == total:
        return "All images, worst first."
    return f"The {shown - shown // 2} worst and the {shown // 2} best of {total}, by the mean IoU of each; worst first."


def _tiles(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    tiles = []
    for key, name in _TILES.items():
        if is_figure(metrics.get(key)):
            interval = metrics.get(f"{key}_interval")
            note = f"95 % interval {_range(interval)}" if interval and is_figure(interval[0]) else ""
            tiles.append({"name": name, "value": f"{100 * metrics[key]:.1f} %", "note": note})
    return tiles


def _range(interval: Sequence[float | None]) -> str:
    low, high = (100 * end if end is not None and math.isfinite(end) else None for end in interval)
    return "-" if low is None else f"{low:.1f} to {high:.1f}"


def _columns(metrics: Mapping[str, Any]) -> dict[str, str]:
    found = {key: name for key, name in _COLUMNS.items() if metrics.get(f"per_category_{key}")}
    return {k: f"F{metrics['beta']:g}" if k == "f_beta" and metrics.get("beta") else name for k, name in found.items()}


def _rows(
    metrics: Mapping[str, Any], matrix: np.ndarray, label_space: LabelSpace, colors: Sequence[tuple[int, int, int]]
) -> list[dict[str, Any]]:
    truth = matrix.sum(axis=1)
    intervals: Mapping[str, Any] = metrics.get("per_category_iou_interval") or {}
    rows = []
    for train_id, original_id in enumerate(label_space.original_ids):
        name = label_space.id2label[train_id]
        key = f"{original_id} {name}"
        interval: Any = intervals.get(key) or (None, None)
        cells = [_cell(metrics["per_category_iou"].get(key))]
        known = all(map(is_figure, interval))
        cells.append({"value": 100 * (interval[1] - interval[0]) if known else "", "text": _range(interval)})
        cells += [_cell(metrics[f"per_category_{kind}"].get(key)) for kind in _columns(metrics)]
        cells.append(_cell(float(truth[train_id]) / max(float(truth.sum()), 1.0)))
        rows.append({"id": original_id, "name": name, "color": colors[train_id], "cells": cells})
    return rows


def _cell(value: Any) -> dict[str, Any]:
    return {"value": 100 * value, "text": f"{100 * value:.1f}"} if is_figure(value) else {"value": "", "text": "-"}


def _embed(image: ReportImage, label_space: LabelSpace) -> dict[str, Any]:
    """An image and its label maps as data URIs. The maps hold train ids, and for void the number after the last."""
    check_size(image.image, image.truth, "truth")
    check_size(image.image, image.prediction, "prediction")
    width, height = image.image.size
    scale = min(1.0, _LONGEST_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    result: dict[str, Any] = {"width": size[0], "height": size[1], "present": set()}
    photo = image.image.convert("RGB").resize(size, Image.Resampling.BOX)
    result["photo"] = image_uri(photo, "JPEG", quality=82)
    for name in ("truth", "prediction"):
        train_ids = label_space.places(getattr(image, name))
        result["present"] |= set(np.unique(train_ids).tolist()) - {label_space.num_labels}
        result[name] = numbers_uri(train_ids, size)
    return result
