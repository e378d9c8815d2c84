"""Checks of how often classes occur: the NaN to come, the class never learned, the pixels that do not count."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..labels import LabelSpace
from .report import Finding, share_text, some
from .survey import Survey, train_counts

Surveys = Mapping[str, Survey]

_MUCH_VOID = 0.5
_RARE = 1e-4  # of labelled pixels
_ALMOST_ALL = 0.995


def split_counts(survey: Survey, space: LabelSpace) -> np.ndarray:
    """(num_labels + 1,) pixels of each train id in a split, void last."""
    counts = np.zeros(space.num_labels + 1, dtype=np.int64)
    for pair in survey.pairs:
        if pair.colored == (space.encoding == "rgb"):
            counts += train_counts(pair.values, space)
    return counts


def check_coverage(surveys: Surveys, space: LabelSpace) -> list[Finding]:
    """Declared classes without a pixel, by split. Only said where every mask was read."""
    if not all(survey.complete for survey in surveys.values()) or "train" not in surveys:
        return []
    return coverage_findings({name: split_counts(survey, space)[:-1] > 0 for name, survey in surveys.items()}, space)


def coverage_findings(present: Mapping[str, np.ndarray], space: LabelSpace) -> list[Finding]:
    """Declared classes that a whole split lacks.

    Args:
        present: of each split, `train` among them, (C,) bool: whether any of its masks holds the class.
    """
    if not any(found.any() for found in present.values()):
        return []  # other checks say why
    train = present["train"]
    validation = present.get("validation", train)
    findings = []
    if nowhere := _names(~train & ~validation, space):
        findings.append(
            Finding(
                "warning",
                "class-absent",
                f"declared, but in no mask: {nowhere}.",
                "Check the ids. If they do not occur, take them out of `labels.classes`: they cannot be learned.",
            )
        )
    if only_validation := _names(~train & validation, space):
        findings.append(
            Finding(
                "warning",
                "class-only-in-validation",
                f"in validation masks, but in no training mask: {only_validation}. Their IoU will be 0 and lowers the "
                "mean.",
                "Divide the splits anew, so that training holds every class; or put the ids into `labels.ignore`.",
            )
        )
    if only_train := _names(train & ~validation, space):
        findings.append(
            Finding(
                "warning",
                "class-absent-in-validation",
                f"in training masks, but in no validation mask: {only_train}. Their IoU is undefined (NaN, left out "
                "of the mean), or 0 as soon as one pixel is predicted as such.",
                "Move images that show them into validation, or read their figures as missing.",
            )
        )
    return findings


def check_void(surveys: Surveys, space: LabelSpace) -> list[Finding]:
    """Splits and masks in which little or nothing is labelled."""
    findings = []
    for name, survey in surveys.items():
        counts = split_counts(survey, space)
        total, void = int(counts.sum()), int(counts[-1])
        if not total:
            continue
        if void == total:
            findings.append(
                Finding(
                    "error" if survey.complete else "warning",
                    "all-void",
                    f"{name}: every pixel of {survey.scope()} is void; there is nothing to learn or to measure.",
                    "Check `labels.ignore` and `labels.reduce_zero_label`; for 0/255 masks write `labels.encoding: "
                    "binary`.",
                )
            )
            continue
        if void / total > _MUCH_VOID:
            findings.append(
                Finding(
                    "warning",
                    "much-void",
                    f"{name}: {share_text(void / total)} of the pixels are void and take no part in anything.",
                    "If these pixels show background, declare it as a class: `labels.classes: {0: background, …}`.",
                )
            )
        empty = [pair.mask.name for pair in survey.pairs if _all_void(pair.values, pair.colored, space)]
        if empty:
            findings.append(
                Finding(
                    "warning",
                    "void-masks",
                    f"{name}: {len(empty)} masks are void altogether: {some(empty)}. Their images teach nothing.",
                    "Remove these pairs, or label them.",
                )
            )
    return findings


def check_imbalance(surveys: Surveys, space: LabelSpace) -> list[Finding]:
    """Classes that nearly no pixel, or nearly every pixel, of the training masks belongs to."""
    if "train" not in surveys:
        return []
    counts = split_counts(surveys["train"], space)[:-1]
    total = int(counts.sum())
    if not total or space.num_labels < 2:
        return []
    shares = counts / total
    findings = []
    largest = int(shares.argmax())
    if shares[largest] > _ALMOST_ALL:
        findings.append(
            Finding(
                "warning",
                "one-class-dominates",
                f"train: {share_text(shares[largest])} of labelled pixels are {_name(largest, space)}. A model that "
                "always says so is nearly always right.",
                "Judge by mean_iou, not by accuracy, and set `data.max_class_share` below 1 so that crops show other "
                "classes.",
            )
        )
    if rare := [i for i in np.argsort(shares).tolist() if 0 < shares[i] < _RARE]:
        told = [f"{_name(i, space)} ({share_text(shares[i])})" for i in rare]
        findings.append(
            Finding(
                "warning",
                "extreme-imbalance",
                f"train: {len(rare)} classes have fewer than {share_text(_RARE)} of the labelled pixels: "
                f"{some(told, 8)}.",
                "Add images of them, or merge them into a broader class: `labels.merge: {<id>: <into id>}`.",
            )
        )
    return findings


def _all_void(values: Mapping[int, int], colored: bool, space: LabelSpace) -> bool:
    if not values or colored != (space.encoding == "rgb"):
        return False
    counts = train_counts(values, space)
    return int(counts[-1]) == sum(values.values())


def _name(train_id: int, space: LabelSpace) -> str:
    original = space.original_ids[train_id]
    return f"{original} {space.classes[original]}"


def _names(chosen: np.ndarray, space: LabelSpace) -> str:
    return some([_name(i, space) for i in np.flatnonzero(chosen).tolist()], 12)
