"""From a confusion matrix to figures: per class and mean, keyed by original id and name.

Names are those of evaluate's `mean_iou` metric, with more added. For a class with TP pixels right, T pixels of truth
and P pixels predicted: IoU = TP / (T + P - TP), accuracy = recall = TP / T, precision = TP / P, Dice = 2 TP /
(T + P), F-beta = (1 + b²) TP / (b² T + P), which is Dice at b = 1 and nearer to recall the larger b.
Frequency-weighted IoU is the mean of IoU weighted by T.

A ratio without a denominator is NaN and is left out of its mean: IoU, Dice and F-beta where a class has neither a pixel
of truth nor a prediction, accuracy and recall where it has no pixel of truth, precision where it has no prediction. A
class that is predicted but never true has IoU 0, and that 0 counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..labels import LabelSpace

BETA = 2.0


def summarize(matrix: torch.Tensor | np.ndarray, label_space: LabelSpace, beta: float = BETA) -> dict[str, Any]:
    """Figures of a confusion matrix.

    Args:
        matrix: (C, C + 1) counts as `confusion_matrix` makes them (rows truth, last column "no answer"), or a sum of
            such matrices.
        label_space: gives the classes their original ids and names.
        beta: of F-beta, above 0: how many times as much recall weighs as precision.

    Returns:
        `mean_iou`, `mean_accuracy`, `overall_accuracy`, `mean_dice`, `mean_precision`, `mean_recall`, `mean_f_beta`,
        `frequency_weighted_iou` (floats 0 to 1, NaN when nothing was labelled); `beta`; `per_category_iou`,
        `per_category_accuracy`, `per_category_dice`, `…_precision`, `…_recall`, `…_f_beta`
        (`{"<original id> <name>": float}`); `num_absent_classes`: how many classes were neither there nor predicted,
        and so are in no mean.

    Raises:
        ValueError: if the matrix has another shape than the label space asks for.
    """
    hits, truth, predicted = _counts(matrix, label_space)
    accuracy = _ratio(hits, truth)
    ratios = {
        "iou": _ratio(hits, truth + predicted - hits),
        "accuracy": accuracy,
        "dice": _ratio(2 * hits, truth + predicted),
        "precision": _ratio(hits, predicted),
        "recall": accuracy,
        "f_beta": _ratio((1 + beta**2) * hits, beta**2 * truth + predicted),
    }
    keys = category_keys(label_space)
    return {
        "mean_iou": mean_of_known(ratios["iou"]),
        "mean_accuracy": mean_of_known(accuracy),
        "overall_accuracy": float(_ratio(hits.sum(), truth.sum())),
        **{f"mean_{name}": mean_of_known(ratios[name]) for name in ("dice", "precision", "recall", "f_beta")},
        "beta": beta,
        "frequency_weighted_iou": float(_ratio(np.nansum(truth * ratios["iou"]), truth.sum())),
        **{f"per_category_{name}": dict(zip(keys, values.tolist(), strict=True)) for name, values in ratios.items()},
        "num_absent_classes": int(((truth + predicted) == 0).sum()),
    }


def category_keys(label_space: LabelSpace) -> list[str]:
    """How classes are named in results, in train-id order: `"<original id> <name>"`."""
    return [f"{original_id} {name}" for original_id, name in _names(label_space)]


def per_class_table(matrix: torch.Tensor | np.ndarray, label_space: LabelSpace) -> str:
    """The figures as aligned text, one class a line, for a log.

    Args and errors are those of `summarize`. Figures are percentages; a class without a figure shows a dash. The last
    column is the class's share of all labelled pixels. Below the means stands a line with the overall accuracy, which
    is easily confused with the mean of accuracies, and with what the figures leave out.
    """
    figures = summarize(matrix, label_space)
    truth = _counts(matrix, label_space)[1]
    total = max(int(truth.sum()), 1)
    columns = [list(figures[f"per_category_{kind}"].values()) for kind in ("iou", "dice", "accuracy")]
    rows = [["id", "class", "IoU", "Dice", "accuracy", "of truth"]]
    for index, (original_id, name) in enumerate(_names(label_space)):
        shares = [column[index] for column in columns] + [int(truth[index]) / total]
        rows.append([str(original_id), name, *map(_percent, shares)])
    rows.append(["", "mean", *(_percent(figures[f"mean_{kind}"]) for kind in ("iou", "dice", "accuracy")), ""])
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = []
    for row in rows:
        cells = [row[0].rjust(widths[0]), row[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(map(len, lines))
    lines[1:1] = [rule]
    lines[-1:-1] = [rule]
    notes = f"overall accuracy {_percent(figures['overall_accuracy'])} of {int(truth.sum())} labelled pixels"
    if absent := figures["num_absent_classes"]:
        notes += f"; classes neither present nor predicted, in no mean: {absent}"
    if unanswered := int(np.asarray(torch.as_tensor(matrix).cpu())[:, -1].sum()):
        notes += f"; pixels without an answer, counted as missed: {unanswered}"
    return "\n".join([*lines, notes])


def _counts(matrix: torch.Tensor | np.ndarray, label_space: LabelSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels right, true and predicted of each class: three (C,) int64 arrays."""
    counts = torch.as_tensor(matrix).cpu().numpy()
    classes = label_space.num_labels
    if counts.shape != (classes, classes + 1):
        raise ValueError(
            f"the confusion matrix has shape {counts.shape}; {classes} classes need ({classes}, {classes + 1}): rows "
            "truth, columns predictions, and a last column for pixels without an answer."
        )
    counts = counts.astype(np.int64)
    return counts.diagonal(), counts.sum(axis=1), counts[:, :classes].sum(axis=0)


def _names(label_space: LabelSpace) -> list[tuple[int, str]]:
    return [(i, label_space.id2label[train_id]) for train_id, i in enumerate(label_space.original_ids)]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def mean_of_known(values: np.ndarray) -> float:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else float("nan")


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def without_nan(data: Any) -> Any:
    """Plain data for JSON, which knows no NaN: a figure that does not exist is null."""
    if isinstance(data, Mapping):
        return {str(key): without_nan(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
