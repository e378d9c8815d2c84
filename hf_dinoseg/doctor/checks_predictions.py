"""What a black, or one-class, or wrong-looking prediction comes from, judged from what `probe` saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..figures import iou, mean_of_known
from ..labels import LabelSpace
from ..visualize import class_colors
from .label_shift import LabelShift, find_label_shift
from .predictions import SWAPPED, Probe
from .repairs import Repair, Stored
from .report import Finding, share_text, some

_CONSTANT = 0.999
_MOSTLY_THAT_CLASS = 0.99
_UNSURE = 0.05  # of the way from chance to certainty
_HARDLY_A_CLASS = 0.25
_MUCH_ZERO = 0.2
_BETTER_BY, _BETTER_TIMES = 0.05, 1.25  # mean IoU of another preparation
_LEAST_FIT = 0.1  # which is to be no guess among guesses
_OF_CHANCE = 0.02  # mean IoU above that of answers that do not hang together with the truth


def worth_repairs(seen: Probe, stored: Stored | None) -> bool:
    """Whether to look for causes in the data: the checkpoint gives answers, but worse ones than it should."""
    if not seen.finite or not seen.images or _unsure(seen):
        return False
    return seen.mean_iou < (2 / 3 if stored is None else stored.least(seen.images))


def check_predictions(
    seen: Probe,
    space: LabelSpace,
    background_threshold: float | None = None,
    stored: Stored | None = None,
    repairs: Sequence[Repair] = (),
) -> list[Finding]:
    """Findings on a checkpoint's predictions.

    Args:
        space: the checkpoint's.
        background_threshold: the checkpoint's, if it has one: it then has a way to answer nothing.
        stored: what its own evaluation measured, if that is known.
        repairs: faults undone, if `worth_repairs`.
    """
    if not seen.finite:
        return [
            Finding(
                "error",
                "nan-prediction",
                "the model's scores are NaN or infinite.",
                "The weights diverged: train anew with a lower `training.learning_rate`, `training.max_grad_norm: 1.0` "
                "and `bf16` in place of `fp16`; or load the weights in float32.",
            )
        ]
    if not seen.images:
        return []
    unsure = _unsure(seen)
    constant = _constant(seen, space)
    findings = [*constant, *_queries(seen), *unsure]
    # Exchanged channels can make classes change places, and moved ids look better by chance on other input: what
    # explains more is the cause. Moved ids leave a model as sure as it was, so they do not explain an unsure one.
    shift = None if unsure else find_label_shift(seen.matrix)
    repair = max((r for r in repairs if r.helps(stored) and not constant), key=lambda r: r.after, default=None)
    prepared = max(seen.variants.values(), default=0.0)
    if shift is not None and not max(prepared, repair.after if repair else 0.0) >= shift.after:
        findings.append(_shifted(shift, space))
    elif repair is not None and repair.after > prepared:
        findings.append(_repaired(seen, repair))
    else:
        findings += _preparation(seen)
    if not any(finding.level == "error" for finding in findings):
        findings += _knows_little(seen) or _below_stored(seen, stored)
    if background_threshold is None:
        findings += _background(seen, space)
    return findings


def _constant(seen: Probe, space: LabelSpace) -> list[Finding]:
    shares = seen.predicted / max(1, seen.predicted.sum())
    top = int(shares.argmax())
    truth = seen.matrix.sum(axis=1)
    true_share = truth[top] / max(1, truth.sum())
    if space.num_labels < 2 or not truth.sum() or shares[top] < _CONSTANT or true_share > _MOSTLY_THAT_CLASS:
        return []
    original = space.original_ids[top]
    black = " It is drawn black, so images look empty." if not any(class_colors(space)[original]) else ""
    return [
        Finding(
            "error",
            "constant-prediction",
            f"{share_text(shares[top])} of the pixels of {seen.images} images are predicted as {original} "
            f"{space.classes[original]}, which is {share_text(true_share)} of the truth.{black}",
            "If other findings name no cause, it has not learned: train longer, or with another "
            "`training.learning_rate`; a constant answer is what a diverged or an untrained model gives.",
        )
    ]


def _queries(seen: Probe) -> list[Finding]:
    if seen.object_peak is None or seen.object_peak >= _HARDLY_A_CLASS:
        return []
    return [
        Finding(
            "error",
            "no-object-everywhere",
            f"every query says 'no object' in every image, the least certain with {1 - seen.object_peak:.2f}: "
            "what is drawn is noise between classes that all lost.",
            "Masks were empty or void in training (see the data findings), or the class term collapsed: lower "
            "`loss.no_object_weight`, raise `loss.class_weight`, or train longer.",
        )
    ]


def _unsure(seen: Probe) -> list[Finding]:
    chance = 1 / seen.num_labels
    if seen.num_labels < 2 or seen.confidence > chance + _UNSURE * (1 - chance):
        return []
    return [
        Finding(
            "error",
            "confidence-collapse",
            f"the winning class has {seen.confidence:.3f} of a pixel's scores on average, by chance it would be "
            f"{chance:.3f}: the model knows nothing of these images.",
            "The head is untrained or was not loaded (look for missing weights in the log), or the images are of "
            "another kind than those it learned from.",
        )
    ]


def _preparation(seen: Probe) -> list[Finding]:
    if not seen.variants:
        return []
    name = max(seen.variants, key=lambda variant: seen.variants[variant])
    best = seen.variants[name]
    if not best >= max(_LEAST_FIT, seen.mean_iou + _BETTER_BY, _BETTER_TIMES * seen.mean_iou):
        return []
    figures = f"mean IoU on {seen.images} images is {100 * seen.mean_iou:.1f}, and {100 * best:.1f} with pixels {name}."
    if name == SWAPPED:
        cure = (
            "The model was trained on BGR images, or these files hold BGR: exchange the channels where they are read."
        )
        return [Finding("error", "swapped-channels", figures, cure)]
    cure = "Put `image_mean`, `image_std`, `do_rescale` in the checkpoint's preprocessor_config.json right."
    return [Finding("error", "wrong-normalization", figures, cure)]


def _repaired(seen: Probe, repair: Repair) -> Finding:
    return Finding(
        "error",
        repair.code,
        f"mean IoU on {seen.images} images is {100 * repair.before:.1f}, and {100 * repair.after:.1f} with "
        f"{repair.what}.",
        repair.cure,
    )


def _knows_little(seen: Probe) -> list[Finding]:
    """Predictions that have no more to do with the truth than the same answers at any other places would."""
    truth, predicted = seen.matrix.sum(axis=1), seen.matrix[:, : seen.num_labels].sum(axis=0)
    if (truth > 0).sum() < 2:
        return []
    by_chance = mean_of_known(iou(truth * (predicted / truth.sum()), truth, predicted))
    nothing = seen.mean_iou <= by_chance + _OF_CHANCE
    if not nothing and seen.mean_iou >= _LEAST_FIT:
        return []
    return [
        Finding(
            "error" if nothing else "warning",
            "knows-nothing",
            f"mean IoU on {seen.images} images is {100 * seen.mean_iou:.1f}; the same answers anywhere else would have "
            f"{100 * by_chance:.1f}. The model knows {'nothing' if nothing else 'little'} of these images.",
            "If its own evaluation was better, these images or masks are of another kind than those it was trained "
            "with. Else train longer, or with another `training.learning_rate`, and look at the training loss.",
        )
    ]


def _below_stored(seen: Probe, stored: Stored | None) -> list[Finding]:
    if stored is None or not seen.mean_iou < stored.least(seen.images):
        return []
    return [
        Finding(
            "warning",
            "below-stored",
            f"mean IoU on {seen.images} images is {100 * seen.mean_iou:.1f}, and {100 * stored.mean_iou:.1f} in the "
            "checkpoint's metrics.json. Masks that are mirrored, moved or of another image, other brightness, channels "
            "or normalisation, and moved ids do not explain it.",
            "Look at the contact sheet (--output) and at `dinoseg evaluate --output`: these images are of another "
            "kind, or their masks follow other rules. Train on such data, or measure on the checkpoint's own.",
        )
    ]


def _shifted(shift: LabelShift, space: LabelSpace) -> Finding:
    ids = space.original_ids
    told = [f"{ids[p]} {space.classes[ids[p]]} → {ids[t]} {space.classes[ids[t]]}" for p, t in shift.moves.items()]
    how = "in another order" if shift.offset is None else f"moved by {shift.offset:+d}"
    return Finding(
        "error",
        "label-shift",
        f"predictions fit the masks with their ids {how}: mean IoU {100 * shift.before:.1f} as they are, "
        f"{100 * shift.after:.1f} then. Predicted → true: {some(told, 8)}.",
        "The checkpoint was trained with other ids, with `reduce_zero_label` set otherwise, or with classes in another "
        "order. Use its own recipe.yaml, or put `labels` right and train anew.",
    )


def _background(seen: Probe, space: LabelSpace) -> list[Finding]:
    zero, total = int(seen.under_zero.sum()), int(seen.predicted.sum())
    if not total or zero / total < _MUCH_ZERO:
        return []
    order: Any = np.argsort(-seen.under_zero)[:3].tolist()
    told = [
        f"{space.original_ids[i]} {space.classes[space.original_ids[i]]} {share_text(seen.under_zero[i] / zero)}"
        for i in order
        if seen.under_zero[i]
    ]
    return [
        Finding(
            "warning",
            "background-without-class",
            f"0 is void in the recipe and {share_text(zero / total)} of these images. The model cannot say "
            f"'background' and answers there with: {', '.join(told)}.",
            "If 0 is background, declare it: `labels.classes: {0: background, …}`, `reduce_zero_label: false`, and "
            "train anew; or find a threshold below which nothing is answered: `dinoseg calibrate`.",
        )
    ]
