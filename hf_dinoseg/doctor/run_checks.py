"""The doctor's rounds: a thorough one for `dinoseg doctor`, and a quick one before every training run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..figures import is_figure
from ..images import MAX_PIXELS
from ..inference import Segmenter
from ..labels import LabelSpace
from ..recipe import Recipe
from .checks_classes import check_coverage, check_imbalance, check_void
from .checks_files import check_duplicates, check_huge, check_lossy_masks, check_readable, check_sizes
from .checks_ids import check_values
from .checks_images import check_dropped, check_ranges
from .checks_label_zero import check_zero
from .checks_predictions import check_predictions, worth_repairs
from .checks_settings import check_label_spaces, check_normalization
from .checks_training import TrainingData, check_training, magnification
from .duplicates import Twins, find_twins
from .predictions import predict_labels, probe
from .repairs import Stored, find_repairs
from .report import Report
from .survey import Survey, raw_ids, survey, unpack

#: pairs of a split that `dinoseg doctor` reads unless told otherwise
DEFAULT_SAMPLES = 1000

#: findings about single samples, which `data.on_bad_sample: skip` leaves out
BAD_SAMPLE_CODES = frozenset(
    {
        "missing-file",
        "empty-file",
        "broken-file",
        "refused-file",
        "size-mismatch",
        "orientation-mismatch",
        "unknown-ids",
        "unknown-colours",
    }
)

_QUICK_SAMPLES = 32
_QUICK_SECONDS = {"survey": 0.7, "duplicates": 0.3}


def examine(
    splits: Mapping[str, Any],
    label_space: LabelSpace,
    samples: int | None = DEFAULT_SAMPLES,
    num_threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    recipe: Recipe | None = None,
) -> Report:
    """Read the data and say what is wrong with them. Broken files are findings, never exceptions.

    Args:
        splits: `train` and `validation`, or one of them: rows with `id`, `image`, `mask` as the sources give them.
        samples: pairs of each split that are read, spread evenly; None for all. Every file is looked at in any case.
        num_threads: that read; None for one a core.
        max_pixels: `data.max_pixels` of the recipe; files of more are findings.
        recipe: whose crops and queries have to fit the data.
    """
    surveys = {
        name: survey(
            rows, label_space.encoding, samples, num_threads, progress=f"reading {name}", max_pixels=max_pixels
        )
        for name, rows in splits.items()
        if len(rows)
    }
    return _judge(surveys, label_space, find_twins(splits, surveys), recipe)


def quick_checks(
    splits: Mapping[str, Any],
    label_space: LabelSpace,
    num_threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    recipe: Recipe | None = None,
) -> Report:
    """The same on a few pairs of each split and on heads of images only, in under two seconds whatever the data.

    What it does not meet, `data.prepare_targets` does: it reads every mask, and stops at the first that does not fit.
    What is counted then is looked at by `check_prepared`.
    """
    surveys = {
        name: survey(
            rows,
            label_space.encoding,
            _QUICK_SAMPLES,
            num_threads,
            False,
            _QUICK_SECONDS["survey"],
            max_pixels=max_pixels,
        )
        for name, rows in splits.items()
        if len(rows)
    }
    return _judge(surveys, label_space, find_twins(splits, seconds=_QUICK_SECONDS["duplicates"]), recipe)


def examine_checkpoint(
    segmenter: Segmenter,
    label_space: LabelSpace,
    processor: Mapping[str, Any],
    rows: Any,
    samples: int = 8,
    metrics: Mapping[str, Any] | None = None,
) -> Report:
    """What a checkpoint has against a recipe, and against its own predictions of a few images.

    Args:
        segmenter: the loaded checkpoint.
        label_space: the recipe's.
        processor: `to_dict()` of the image processor that training by the recipe uses.
        rows: pairs to predict, as the sources give them; usually the validation split.
        samples: images at most.
        metrics: what the checkpoint's `metrics.json` holds: how good it was where it was trained.

    Returns:
        Findings, and in the overview `checkpoint`: `images`, `mean_iou` on them, `stored_mean_iou`, `stored_images`.
    """
    theirs = segmenter.processor.to_dict()
    findings = [
        *check_label_spaces(label_space, segmenter.label_space),
        *check_normalization(processor, theirs, "the checkpoint"),
    ]
    # By the recipe's reading of the masks, where that is possible: a shift of ids can only be seen so.
    same_size = label_space.num_labels == segmenter.label_space.num_labels
    space = label_space if same_size else segmenter.label_space
    seen = probe(segmenter.model, segmenter.processor, space, rows, segmenter.inference, samples)
    stored, repairs = Stored.of(metrics), []
    if worth_repairs(seen, stored):
        repairs = find_repairs(partial(predict_labels, segmenter), space, rows, seen.answers)
    findings += check_predictions(seen, space, segmenter.background_threshold, stored, repairs)
    measured = {
        "images": seen.images,
        "mean_iou": seen.mean_iou if is_figure(seen.mean_iou) else None,
        "stored_mean_iou": stored.mean_iou if stored else None,
        "stored_images": stored.images if stored else None,
    }
    return Report(tuple(findings), {"checkpoint": measured})


def _judge(surveys: dict[str, Survey], space: LabelSpace, twins: list[Twins], recipe: Recipe | None) -> Report:
    findings = [
        *check_readable(surveys),
        *check_sizes(surveys),
        *check_lossy_masks(surveys, set(raw_ids(space))),
        *check_values(surveys, space),
        *check_void(surveys, space),
        *check_zero(surveys, space),
        *check_coverage(surveys, space),
        *check_imbalance(surveys, space),
        *check_ranges(surveys),
        *check_dropped(surveys),
        *check_huge(surveys),
        *check_duplicates(twins),
    ]
    shown: dict[str, Any] = {}
    if recipe is not None and "train" in surveys:
        data = TrainingData.of_survey(surveys["train"], recipe)
        findings += check_training(recipe, data)
        shown = {"magnification": magnification(recipe).measure(data.sizes)} if data.sizes else {}
    return Report(tuple(findings), {**_overview(surveys, space), **shown})


def _overview(surveys: dict[str, Survey], space: LabelSpace) -> dict[str, Any]:
    """Every id, declared or found, with its share of each split's pixels."""
    found = {name: survey.counts(space.encoding == "rgb") for name, survey in surveys.items()}
    known = raw_ids(space)
    shares: dict[str, dict[str, Any]] = {}

    def row(label: str, name: str) -> dict[str, Any]:
        return shares.setdefault(label, {"id": label, "name": name, "shares": {}})["shares"]

    for original in sorted(set(space.classes) | set(space.ignore) | ({0} if space.reduce_zero_label else set())):
        row(str(original), space.classes.get(original, "(void)"))
    for split, counts in found.items():
        total = counts.total()
        for value in sorted(counts):
            if value in known:
                label, name = str(known[value]), space.classes.get(known[value], "(void)")
            else:
                label, name = str(unpack(value) if space.encoding == "rgb" else value), "(unknown)"
            if name != "(unknown)" or len(shares) < len(space.classes) + 40:
                row(label, name)[split] = counts[value] / total
    return {
        "num_labels": space.num_labels,
        "splits": {name: {"rows": survey.rows, "read": len(survey.pairs)} for name, survey in surveys.items()},
        "ids": list(shares.values()),
    }
