"""Checks of a recipe against what its data holds: queries for the classes of an image, crops for the size of images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from ..data.magnification import Magnification, parted
from ..models import head_class
from ..recipe import Recipe
from .checks_classes import coverage_findings
from .report import Finding, share_text
from .survey import Survey, train_counts

_MOSTLY = 0.5  # of a crop


class TrainingData(NamedTuple):
    """What of the training split a recipe has to fit.

    Attributes:
        most_classes: that one mask holds; 0 where none was read.
        where: a mask that holds them.
        sizes: (width, height) of images.
    """

    most_classes: int
    where: str
    sizes: Collection[tuple[int, int]]

    @classmethod
    def of_survey(cls, survey: Survey, recipe: Recipe) -> TrainingData:
        """Of the pairs that were read."""
        pairs = [pair for pair in survey.pairs if pair.colored == (recipe.labels.encoding == "rgb")]
        found = [(int((train_counts(pair.values, recipe.labels)[:-1] > 0).sum()), pair.id) for pair in pairs]
        most, where = max(found, default=(0, ""))
        return cls(most, where, [pair.image.size for pair in survey.pairs if pair.image.size is not None])

    @classmethod
    def of_prepared(cls, train: Dataset) -> TrainingData:
        """Of all rows, as `data.prepare_targets` counted them."""
        found = [(len(classes), name) for classes, name in zip(train["class_labels"], train["id"], strict=True)]
        most, where = max(found, default=(0, ""))
        return cls(most, where, list(zip(train["width"], train["height"], strict=True)))


def check_training(recipe: Recipe, data: TrainingData) -> list[Finding]:
    """Settings of a recipe that its data does not fit."""
    return [*_queries(recipe, data), *_world(recipe, data)]


def check_prepared(splits: Mapping[str, Dataset], recipe: Recipe) -> list[Finding]:
    """What is known of a training once every mask has been read, and no sample of them could tell.

    Args:
        splits: `train` and `validation` as `data.prepare_targets` gives them.
    """
    present = {name: np.zeros(recipe.labels.num_labels, dtype=bool) for name in splits}
    for name, split in splits.items():
        for classes in split["class_labels"]:
            present[name][classes] = True
    return [
        *coverage_findings(present, recipe.labels),
        *check_training(recipe, TrainingData.of_prepared(splits["train"])),
    ]


def _queries(recipe: Recipe, data: TrainingData) -> list[Finding]:
    settings = recipe.model.model_dump()  # of all heads; which there are is known only at run time
    if "num_queries" not in head_class(recipe.model.head).settings:
        return []
    queries, classes, most = settings["num_queries"], recipe.labels.num_labels, data.most_classes
    cure = f"Write `model.num_queries: {max(classes, most)}` or more; 100 is usual."
    if queries < most:
        return [
            Finding(
                "error",
                "too-few-queries",
                f"`model.num_queries` is {queries}, and the mask of {data.where} holds {most} classes. A query answers "
                "with one class, so some of them could never be found in that image.",
                cure,
            )
        ]
    if queries >= classes:
        return []
    return [
        Finding(
            "warning" if queries < 2 * most else "info",  # published models have 100 for 150 classes, and need few
            "fewer-queries-than-classes",
            f"`model.num_queries` is {queries}, for {classes} classes. One training mask holds at most {most}; "
            f"an image with more than {queries} cannot be answered rightly.",
            cure,
        )
    ]


def magnification(recipe: Recipe) -> Magnification:
    """How large the recipe shows the world."""
    data = recipe.data
    return Magnification(
        data.crop_size, data.scale, data.base_size, data.base_side, shortest_edge=recipe.evaluation.shortest_edge
    )


def _world(recipe: Recipe, data: TrainingData) -> list[Finding]:
    """How large objects are shown, and how much of a crop is padding."""
    if not data.sizes:
        return []
    rule = magnification(recipe)
    measured = rule.measure(data.sizes)
    width, height = np.median(np.array(list(data.sizes)), axis=0)
    images = f"the images are {width:.0f} × {height:.0f} (median)"
    findings = []
    if measured["padding"] > _MOSTLY:
        low, high = rule.scale
        counted = "" if rule.base_size is None else f" times a {rule.base_side} side of {rule.base_size}"
        findings.append(
            Finding(
                "warning",
                "crops-mostly-padding",
                f"`data.crop_size` is {rule.crop_size}, {images}, resized by {low:g} to {high:g}{counted}: "
                f"{share_text(measured['padding'])} of an average crop is padding, which costs as much as images do "
                "and teaches nothing.",
                f"Write `data.base_size: {rule.crop_size}`, which brings images to that shorter side before "
                "`data.scale`; or a smaller `data.crop_size`.",
            )
        )
    if parted(measured):
        findings.append(
            Finding(
                "warning",
                "magnification-differs",
                f"training shows the world {measured['training']:.2f} times as large as it is stored (mean), and "
                f"evaluation {measured['evaluation']:.2f} times; {images}. A model knows things by their size, so "
                "it is measured on what it was not taught.",
                "Write `data.base_size`, which both count from, and take `evaluation.shortest_edge` out; or a "
                "`data.scale` whose middle is near what evaluation shows.",
            )
        )
    return findings
