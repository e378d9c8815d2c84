"""What an evaluation says about what to do next: each sentence rests on figures of it, which it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..figures import iou, is_figure, ratio
from ..labels import LabelSpace

_WORST = 3  # classes that are explained
_WEAK = 0.6  # IoU below which a class is
_RARE = 0.02  # of the labelled pixels
_MUCH = 0.15  # of a class's pixels: a confusion worth a word
_RISING = 0.01  # of mean IoU, over the last third of the steps
_FALLEN = 0.02  # of mean IoU, from the best evaluation to the last
_WIDE = 0.10  # of mean IoU: an interval of this width tells little
_THIN = 0.9  # boundary IoU over IoU: nearly all of the class lies at an outline


class NextStep(NamedTuple):
    """Attributes:
    what: a few words.
    why: a sentence or two with figures, and what to write or do.
    """

    what: str
    why: str


def next_steps(
    metrics: Mapping[str, Any], matrix: np.ndarray, space: LabelSpace, log_history: Sequence[Mapping[str, Any]] = ()
) -> list[NextStep]:
    """Advice by evidence, the most telling first; often three to five sentences, none where nothing stands out.

    Args:
        metrics: what `metrics.json` holds.
        matrix: (C, C + 1) counts, see `evaluation.confusion_matrix`.
        space: names of the classes.
        log_history: of the training, for its curve; empty for an evaluation of its own.
    """
    return [*_curve(log_history), *_classes(metrics, np.asarray(matrix), space), *_images(metrics)]


def _curve(log_history: Sequence[Mapping[str, Any]]) -> list[NextStep]:
    scores = {
        int(e["step"]): float(e["eval_mean_iou"])
        for e in log_history
        if is_figure(e.get("eval_mean_iou")) and "step" in e
    }
    if len(scores) < 2:
        return []
    steps = sorted(scores)
    last = steps[-1]
    best = max(steps, key=lambda step: scores[step])
    before = max((step for step in steps if step <= last * 2 / 3), default=steps[0])
    if best == last and scores[last] - scores[before] >= _RISING:
        return [
            NextStep(
                "Train longer",
                f"Mean IoU still rose: {_percent(scores[before])} after {before} steps, {_percent(scores[last])} after "
                f"{last}, the last. Write a larger training.max_steps.",
            )
        ]
    if scores[best] - scores[last] >= _FALLEN:
        return [
            NextStep(
                "More images rather than more steps",
                f"Mean IoU was best after {best} steps, {_percent(scores[best])}, and fell to {_percent(scores[last])} "
                f"after {last}: the model learns its training images by heart. More images help most, then stronger "
                "augmentation (data.scale, data.rotation) or model.tune: head. The best weights are the ones kept.",
            )
        ]
    return []


def _classes(metrics: Mapping[str, Any], matrix: np.ndarray, space: LabelSpace) -> list[NextStep]:
    truth, right = matrix.sum(axis=1), np.diagonal(matrix)
    predicted = matrix[:, : len(matrix)].sum(axis=0)
    figures = iou(right, truth, predicted)
    order = [int(i) for i in np.argsort(np.nan_to_num(figures, nan=np.inf)) if truth[i] and figures[i] < _WEAK]
    if not order:
        return []
    share = ratio(truth, truth.sum())
    recall, precision = ratio(right, truth), ratio(right, predicted)
    told = [_why(metrics, matrix, space, i, share, figures) for i in order[:_WORST]]
    left_out = [i for i in order if share[i] < _RARE and not recall[i] >= precision[i] / 2]
    if left_out:
        names = ", ".join(space.id2label[i] for i in left_out[:4])
        first = left_out[0]
        found = "nothing of it" if not right[first] else f"{_percent(recall[first])} of it"
        told.append(
            NextStep(
                "Show rare classes more often",
                f"{names}: rare, and left out rather than mistaken; of {space.id2label[first]}, which covers "
                f"{_percent(share[first])} of the truth, {found} is found. Try loss.per_class_weights: auto, or "
                "data.rare_class_crops: 0.5, if the recipe does not have them yet.",
            )
        )
    return told


def _why(
    metrics: Mapping[str, Any],
    matrix: np.ndarray,
    space: LabelSpace,
    i: int,
    share: np.ndarray,
    figures: np.ndarray,
) -> NextStep:
    name, truth = space.id2label[i], matrix[i].sum()
    reasons = []
    if share[i] < _RARE:
        reasons.append(f"it is rare, {_percent(share[i])} of the labelled pixels")
    row = matrix[i].astype(np.float64)
    row[i] = 0
    taken = int(row.argmax())
    if row[taken] >= _MUCH * truth:
        into = "left without a class" if taken == len(matrix) else f"taken for {space.id2label[taken]}"
        reasons.append(f"{_percent(row[taken] / truth)} of it is {into}")
    column = matrix[:, i].astype(np.float64)
    column[i] = 0
    other, called = int(column.argmax()), matrix[:, i].sum()
    if called and column[other] >= _MUCH * called:
        reasons.append(f"{_percent(column[other] / called)} of what is called so is {space.id2label[other]}")
    key = f"{space.original_ids[i]} {name}"
    outline = (metrics.get("per_category_boundary_iou") or {}).get(key)
    if is_figure(outline) and figures[i] > 0 and outline >= _THIN * figures[i]:
        reasons.append("it is thin or small: nearly all of it lies at an outline, so larger images may help")
    because = "; ".join(reasons) or "nothing stands out; look at its images below"
    return NextStep(f"{name}: IoU {_percent(figures[i])}", because[0].upper() + because[1:] + ".")


def _images(metrics: Mapping[str, Any]) -> list[NextStep]:
    interval: Any = metrics.get("mean_iou_interval") or (None, None)
    count = metrics.get("num_images")
    if not all(map(is_figure, interval)) or not count or interval[1] - interval[0] < _WIDE:
        return []
    return [
        NextStep(
            "Measure on more images",
            f"On {count} images, mean IoU lies between {_percent(interval[0])} and {_percent(interval[1])} (95 %): "
            "differences within that say nothing. Hold out more images, or compare on the same ones.",
        )
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 or not share else f"{100 * share:.2g} %"
