"""From a confusion matrix to figures: per class and mean, keyed by original id and name.

Names are those of evaluate's `mean_iou` metric, with more added. For a class with TP pixels right, T pixels of truth
and P pixels predicted: IoU = TP / (T + P - TP), accuracy = recall = TP / T, precision = TP / P, Dice = 2 TP /
(T + P), F-beta = (1 + b²) TP / (b² T + P), which is Dice at b = 1 and nearer to recall the larger b.
Frequency-weighted IoU is the mean of IoU weighted by T.

A ratio without a denominator is NaN and is left out of its mean: IoU, Dice and F-beta where a class has neither a pixel
of truth nor a prediction, accuracy and recall where it has no pixel of truth, precision where it has no prediction. A
class that is predicted but never true has IoU 0, and that 0 counts.

A figure can be asked for by name, to choose a checkpoint by: `mean_iou`, or of one class `iou_vein`, `iou_2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..figures import iou, mean_of_known, percent, ratio, void_text
from ..labels import LabelSpace

BETA = 2.0

#: What there is for each class, as `per_category_<kind>`.
KINDS = ("iou", "accuracy", "dice", "precision", "recall", "f_beta", "boundary_iou")
#: The figures of all classes together that say how good a model is.
OVERALL = (
    *(f"mean_{kind}" for kind in KINDS),
    "overall_accuracy",
    "frequency_weighted_iou",
    "expected_calibration_error",
)
_LOWER_IS_BETTER = ("expected_calibration_error",)
_NUMBER = re.compile(r"[-+]?[0-9]+")


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
    accuracy = ratio(hits, truth)
    ratios = {
        "iou": iou(hits, truth, predicted),
        "accuracy": accuracy,
        "dice": ratio(2 * hits, truth + predicted),
        "precision": ratio(hits, predicted),
        "recall": accuracy,
        "f_beta": ratio((1 + beta**2) * hits, beta**2 * truth + predicted),
    }
    keys = category_keys(label_space)
    return {
        "mean_iou": mean_of_known(ratios["iou"]),
        "mean_accuracy": mean_of_known(accuracy),
        "overall_accuracy": float(ratio(hits.sum(), truth.sum())),
        **{f"mean_{name}": mean_of_known(ratios[name]) for name in ("dice", "precision", "recall", "f_beta")},
        "beta": beta,
        "frequency_weighted_iou": float(ratio(np.nansum(truth * ratios["iou"]), truth.sum())),
        **{f"per_category_{name}": dict(zip(keys, values.tolist(), strict=True)) for name, values in ratios.items()},
        "num_absent_classes": int(((truth + predicted) == 0).sum()),
    }


def summarize_void(void_pixels: int, matrix: torch.Tensor) -> dict[str, Any]:
    """How much of the truth was not measured, because it is void.

    Args:
        void_pixels: of the truth of all images.
        matrix: (C, C + 1) counts of the same images; it holds the other pixels.

    Returns:
        `void_pixels`, and `void_share` of all pixels of the truth, NaN where there is none.
    """
    return {"void_pixels": void_pixels, "void_share": float(ratio(void_pixels, void_pixels + int(matrix.sum())))}


def category_keys(label_space: LabelSpace) -> list[str]:
    """How classes are named in results, in train-id order: `"<original id> <name>"`."""
    return [f"{original_id} {name}" for original_id, name in _names(label_space)]


def higher_is_better(name: str) -> bool:
    """Of a figure as `find_figure` takes it."""
    return name.removeprefix("eval_") not in _LOWER_IS_BETTER


def figure_names(label_space: LabelSpace) -> list[str]:
    """Every name that `find_figure` takes, without `eval_`. Figures of all classes together come first, then those of
    each class, by original id and by name. A name that is a number, or that several classes have, is left out.
    """
    places = [str(i) for i, _ in _names(label_space)]
    for original_id, name in _names(label_space):
        for spelling in dict.fromkeys((name, _joined(name))):
            if not _NUMBER.fullmatch(spelling) and classes_called(spelling, label_space) == [original_id]:
                places.append(spelling)
    return [*OVERALL, *(f"{kind}_{place}" for kind in KINDS for place in places)]


def find_figure(name: str, label_space: LabelSpace) -> tuple[str, str | None] | None:
    """Where results hold a figure.

    Args:
        name: as `figure_names` has them, with `eval_` before it or without. A number is always an original id. A
            class's name may have `_` in place of blanks.

    Returns:
        The key, and below it the class's: `("mean_iou", None)`, `("per_category_iou", "2 vein")`; None if there is no
        such figure, or the name belongs to several classes.

    Example:
        >>> find_figure("eval_iou_vein", LabelSpace({1: "artery", 2: "vein"}))
        ('per_category_iou', '2 vein')
    """
    name = name.removeprefix("eval_")
    if name in OVERALL:
        return name, None
    for kind in KINDS:
        ids = classes_called(name[len(kind) + 1 :], label_space) if name.startswith(f"{kind}_") else []
        if len(ids) == 1:
            return f"per_category_{kind}", f"{ids[0]} {label_space.classes[ids[0]]}"
    return None


def classes_called(place: str, label_space: LabelSpace) -> list[int]:
    """The original ids of the classes that a name or an id means. An exact name goes before one written with `_` for
    blanks."""
    names = _names(label_space)
    if _NUMBER.fullmatch(place):
        return [i for i, _ in names if i == int(place)]
    return [i for i, name in names if name == place] or [i for i, name in names if _joined(name) == place]


def figure_of(summary: Mapping[str, Any], name: str, label_space: LabelSpace) -> float:
    """The figure of this name in results; NaN where a class has none.

    Raises:
        KeyError: if there is no figure of this name, or it was not measured.
    """
    found = find_figure(name, label_space)
    if found is None:
        raise KeyError(name)
    key, of_class = found
    return float(summary[key] if of_class is None else summary[key][of_class])


def _joined(name: str) -> str:
    return "_".join(name.split())


def per_class_table(matrix: torch.Tensor | np.ndarray, label_space: LabelSpace, void_share: float | None = None) -> str:
    """The figures as aligned text, one class a line, for a log.

    Args and errors are those of `summarize`; `void_share` is that of `summarize_void`, if it is known. Figures are
    percentages; a class without a figure shows a dash. The last column is the class's share of all labelled pixels.
    Below the means stands a line with the overall accuracy, which is easily confused with the mean of accuracies, and
    with what the figures leave out.
    """
    figures = summarize(matrix, label_space)
    truth = _counts(matrix, label_space)[1]
    total = max(int(truth.sum()), 1)
    columns = [list(figures[f"per_category_{kind}"].values()) for kind in ("iou", "dice", "accuracy")]
    rows = [["id", "class", "IoU", "Dice", "accuracy", "of truth"]]
    for index, (original_id, name) in enumerate(_names(label_space)):
        shares = [column[index] for column in columns] + [int(truth[index]) / total]
        rows.append([str(original_id), name, *map(percent, shares)])
    rows.append(["", "mean", *(percent(figures[f"mean_{kind}"]) for kind in ("iou", "dice", "accuracy")), ""])
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = []
    for row in rows:
        cells = [row[0].rjust(widths[0]), row[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(map(len, lines))
    lines[1:1] = [rule]
    lines[-1:-1] = [rule]
    notes = f"overall accuracy {percent(figures['overall_accuracy'])} of {int(truth.sum())} labelled pixels"
    if absent := figures["num_absent_classes"]:
        notes += f"; classes neither present nor predicted, in no mean: {absent}"
    if unanswered := int(np.asarray(torch.as_tensor(matrix).cpu())[:, -1].sum()):
        notes += f"; pixels without an answer, counted as missed: {unanswered}"
    void = void_text({"void_share": void_share})
    return "\n".join([*lines, notes, *([void] if void else [])])


def _counts(matrix: torch.Tensor | np.ndarray, label_space: LabelSpace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels right, true and predicted of each class: three (C,) int64 arrays."""
    counts = torch.as_tensor(matrix).cpu().numpy()
    classes = label_space.num_labels
    if counts.shape != (classes, classes + 1):
        raise InputError(
            f"the confusion matrix has shape {counts.shape}; {classes} classes need ({classes}, {classes + 1}): rows "
            "truth, columns predictions, and a last column for pixels without an answer."
        )
    counts = counts.astype(np.int64)
    return counts.diagonal(), counts.sum(axis=1), counts[:, :classes].sum(axis=0)


def _names(label_space: LabelSpace) -> list[tuple[int, str]]:
    return [(i, label_space.id2label[train_id]) for train_id, i in enumerate(label_space.original_ids)]
