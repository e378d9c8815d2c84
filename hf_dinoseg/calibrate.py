"""Choosing the score below which a pixel gets no class, where label 0 has none; see docs/background.md."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import DatasetDict
from torch import nn
from tqdm.auto import tqdm

from . import builders
from .checkpoint import CARD_FILE, METRICS_FILE, RECIPE_FILE, load_checkpoint
from .data import EvalDataset, zero_is_void
from .errors import RunError
from .evaluation import Figure, ThresholdCurve, is_worse
from .figures import write_json
from .hub.checkpoint_folder import card_of, last_panels
from .hub.replace_files import exchange, put_back
from .inference import Background, as_input, predict_best
from .recipe import Recipe, load_recipe
from .run import evaluate
from .training.manifest import Manifest
from .visualize import CURVES_FILE
from .visualize.curves import draw_threshold_curve

logger = logging.getLogger(__name__)

KEPT = "calibration"  # in the checkpoint folder: what was written, and what was there before
RESULT_FILE, CURVE_FILE = "calibration.json", "calibration.png"
CONFIGS = ("config.json", "preprocessor_config.json")
TITLES = {
    "id0_iou": "IoU of id 0",
    "mean_iou_id0_as_class": "mean IoU, id 0 as a class",
    "mean_iou": "mean IoU, id 0 not counted",
}
_AROUND = (0.5, 0.75, 0.9, 1.1, 1.25, 1.5)  # of the chosen threshold: what the table shows besides
_SAME = 1e-3  # figures of the same images on two machines differ by less


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What every threshold would do to a checkpoint.

    Attributes:
        curve: the figures of all thresholds.
        num_images: how many images were counted.
        best: the threshold with the highest mean IoU with id 0 as a class; None if none at all is best.
        current: as the checkpoint is; None for the best class everywhere.
        chosen: `best`, or what was asked for.
    """

    curve: ThresholdCurve
    num_images: int
    best: float | None
    current: float | None
    chosen: float | None

    def at(self, threshold: float | None) -> dict[str, float]:
        """The figures of a threshold, by the names in `TITLES`."""
        figures, place = self.curve.figures(), self.curve.place(threshold)
        return {name: float(figures[name][place]) for name in TITLES}

    def table(self) -> list[dict[str, Any]]:
        """Rows of `threshold` and figures: none at all, then the thresholds that matter and some around the chosen."""
        centre = self.chosen or self.best or 0.0
        shown = {round(centre * factor, 3) for factor in _AROUND} | {self.best, self.current, self.chosen}
        thresholds = sorted(t for t in shown if t)
        return [{"threshold": threshold, **self.at(threshold)} for threshold in (None, *thresholds)]

    def to_dict(self) -> dict[str, Any]:
        """What `calibration.json` holds."""
        fields = {name: getattr(self, name) for name in ("chosen", "current", "best", "num_images")}
        return {**fields, "id0_iou_of_silence": self.curve.silence_iou, "table": self.table()}

    def save(self, folder: Path) -> None:
        """Write `calibration.json`, and `calibration.png`, the curves."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT_FILE, self.to_dict())
        figures = self.curve.figures()
        named = {title: figures[name] for name, title in TITLES.items()}
        draw_threshold_curve(folder / CURVE_FILE, self.curve.thresholds, named, self.chosen)


def calibrate(checkpoint: str, recipe: Recipe, asked: Background | None = None) -> Calibration:
    """Measure what every background threshold would do, on a recipe's validation split. Nothing is written.

    Args:
        checkpoint: folder or Hub id.
        recipe: where the data is, and how images are predicted.
        asked: the choice to look at; None for the best, see `ThresholdCurve.best`.

    Raises:
        RunError: if 0 is a class or cannot occur.
        ValueError: if no mask of the split holds 0, or none a class.
    """
    if not zero_is_void(recipe.labels):
        raise RunError(
            f"{checkpoint}: in labels, id 0 is "
            f"{'the class ' + repr(recipe.labels.classes[0]) if 0 in recipe.labels.classes else 'not used'}; a "
            "threshold stands in for background only where 0 is void (reduce_zero_label, or 0 in ignore)."
        )
    model, processor, _ = load_checkpoint(checkpoint)
    current = builders.build_background(recipe, model.config.background_threshold).threshold
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    split = builders.build_data(recipe, DatasetDict(validation=builders.build_source(recipe)["validation"]))[
        "validation"
    ]
    dataset = builders.build_eval_dataset(recipe, split, processor)
    model = model if device is None else nn.Module.to(model, device)
    curve, num_images = _measure(model, dataset, builders.build_inference(recipe), recipe)
    best = curve.best()
    found = Calibration(curve, num_images, best, current, best if asked is None else asked.threshold)
    if found.chosen and (iou := found.at(found.chosen)["id0_iou"]) <= curve.silence_iou:
        logger.warning(
            "threshold %.3f: IoU of id 0 is %.4f, and would be %.4f if no pixel had a class: the scores of this model "
            "hardly tell id 0 from its classes. Make 0 a class and train anew: labels.classes: {0: background, …}, "
            "labels.reduce_zero_label: false.",
            *(found.chosen, iou, curve.silence_iou),
        )
    return found


def write(checkpoint: str, recipe: Recipe, found: Calibration, by: Figure = "mean_iou") -> Path:
    """Store the chosen threshold in a checkpoint, with everything that it makes untrue: configs, metrics, card.

    The checkpoint is evaluated with the threshold first. The new files are made elsewhere and take their places
    together; what was there is kept, for `undo`.

    Args:
        checkpoint: a folder.
        recipe, found: of `calibrate`.
        by: the figure that must not get worse.

    Returns:
        Where the files are that were there before.

    Raises:
        RunError: if that figure gets worse, if there is nothing to write, or if metrics and card could not be told
            anew; every file is then as it was.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise RunError(f"{checkpoint} is no folder; the threshold is stored in the checkpoint, so download it first.")
    if found.chosen is None and found.current is None:
        raise RunError(
            f"{checkpoint}: no threshold gives a better {TITLES['mean_iou_id0_as_class']} than none at all, and it has "
            "none. Nothing was written."
        )
    _refuse_worse(checkpoint, found, found.at(found.chosen)[by], by)
    own = _own_recipe(folder, recipe, found)
    policy = "none" if found.chosen is None else "threshold"
    choice: dict[str, Any] = {"background": policy, "background_threshold": found.chosen}
    panels = own.evaluation.panels if own else 0
    asked = recipe.evaluation.model_copy(update={**choice, "panels": panels})
    # in the checkpoint folder, so that files only change their names when they take their places
    with TemporaryDirectory(dir=folder, prefix=".calibrate-") as scratch:
        measured, new = Path(scratch) / "measured", Path(scratch) / "new"
        metrics = evaluate(checkpoint, dataclasses.replace(recipe, evaluation=asked), str(measured))
        _refuse_worse(checkpoint, found, metrics["mean_iou"] if by == "mean_iou" else metrics["background"][by], by)
        new.mkdir()
        for name in CONFIGS:
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            settings["background_threshold"] = found.chosen
            (new / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if own:
            _take_results(folder, measured, new)
            _describe_anew(folder, new, own, choice, metrics)
        found.save(new / KEPT)
        names = [path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()]
        kept = exchange(folder, new, folder / KEPT)
    if manifest := Manifest.load(folder):
        manifest.finish(KEPT, *names)  # what was kept is the run's, and goes with it
    return kept


def undo(checkpoint: str) -> list[str]:
    """Put back what the last `write` replaced.

    Returns:
        The files' paths in the checkpoint folder.

    Raises:
        ExchangeError: if nothing was written, or if a file was changed since.
    """
    folder = Path(checkpoint)
    names = put_back(folder, folder / KEPT)
    if manifest := Manifest.load(folder):
        manifest.refresh(names)
    return names


@torch.inference_mode()
def _measure(
    model: nn.Module, dataset: EvalDataset, inference: dict[str, Any], recipe: Recipe
) -> tuple[ThresholdCurve, int]:
    curve, num_images = ThresholdCurve(recipe.labels.num_labels), 0
    for index in tqdm(range(len(dataset)), unit="image", desc="Calibrating", disable=None):
        item = dataset[index]
        if item["index"] < 0:  # could not be read; the dataset has said so
            continue
        pixel_values = as_input(item["pixel_values"], model)
        size = (item["labels"].shape[0], item["labels"].shape[1])
        labels, scores = predict_best(model, pixel_values, size, **inference)
        curve.update(labels[0].cpu(), scores[0].cpu(), item["labels"], item["zero"], recipe.labels.ignore_index)
        num_images += 1
    return curve, num_images


def _refuse_worse(checkpoint: str, found: Calibration, figure: float, by: Figure) -> None:
    before = found.at(found.current)[by]
    if not is_worse(figure, before):
        return
    other = ""
    if by == "mean_iou":
        seen: Figure = "mean_iou_id0_as_class"
        now, then = found.at(found.current)[seen], found.at(found.chosen)[seen]
        other = f" metrics.json and the card show this figure. {TITLES[seen]}, would go from {100 * now:.2f} to "
        other += f"{100 * then:.2f}" + ("." if is_worse(then, now) else f": to judge by that, pass --by {seen}.")
    told = "without a threshold" if found.chosen is None else f"with the threshold {found.chosen:.3f}"
    raise RunError(
        f"{checkpoint}: nothing was written. {TITLES[by]}, by which it is judged, would fall from {100 * before:.2f} "
        f"to {100 * figure:.2f} {told}.{other} `dinoseg evaluate` and `dinoseg predict` take --threshold, to try it "
        "without writing."
    )


def _own_recipe(folder: Path, recipe: Recipe, found: Calibration) -> Recipe | None:
    """The recipe from which the card is written; None where there are neither metrics nor a card.

    Raises:
        RunError: if there are, but the figures that would replace theirs are not of the same kind.
    """
    told = [name for name in (METRICS_FILE, CARD_FILE) if (folder / name).is_file()]
    if not (folder / RECIPE_FILE).is_file():
        if told:
            raise RunError(
                f"{folder}: {' and '.join(told)} would be untrue of the checkpoint with another threshold, and without "
                f"{RECIPE_FILE} they cannot be written anew. Put the recipe that it was trained with there. Nothing "
                "was written."
            )
        return None
    own = load_recipe(folder / RECIPE_FILE)
    stored = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8")) if METRICS_FILE in told else {}
    old, now = stored.get("mean_iou"), found.at(found.current)["mean_iou"]
    same = old is None or (abs(old - now) <= _SAME and stored.get("num_images") in (None, found.num_images))
    if own.labels != recipe.labels or not same:
        seen = f"{100 * now:.2f} on {found.num_images} images"
        raise RunError(
            f"{folder}: {METRICS_FILE} and {CARD_FILE} are of {RECIPE_FILE} in the folder; they say mean IoU "
            f"{'-' if old is None else f'{100 * old:.2f}'} on {stored.get('num_images', '?')} images, and here it is "
            f"{seen}. Calibrate with the labels, images and settings of that recipe, or run `dinoseg calibrate` "
            "without --write and use the threshold with --threshold. Nothing was written."
        )
    return own


def _take_results(folder: Path, measured: Path, new: Path) -> None:
    """Tables and images of the evaluation, in place of those that the folder has."""
    images = {path.name: path.relative_to(folder) for path in last_panels(folder)}
    # curves are of training, which this is not
    for path in sorted(p for p in measured.rglob("*") if p.is_file() and p.name != CURVES_FILE):
        name = path.relative_to(measured)
        target = images.get(path.name) if name.parts[0] == "panels" else name
        if target is not None and (folder / target).is_file():
            (new / target).parent.mkdir(parents=True, exist_ok=True)
            path.rename(new / target)


def _describe_anew(folder: Path, new: Path, own: Recipe, choice: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Metrics and card; and the recipe, if it says itself what is answered in place of background."""
    if own.evaluation.background is not None or own.evaluation.background_threshold is not None:
        own = dataclasses.replace(own, evaluation=own.evaluation.model_copy(update=choice))
        (new / RECIPE_FILE).write_text(own.to_yaml(), encoding="utf-8")
    old = folder / METRICS_FILE
    stored = json.loads(old.read_text(encoding="utf-8")) if old.is_file() else {}
    metrics = {**stored, **metrics}
    write_json(new / METRICS_FILE, metrics)
    card = card_of(folder, own.labels.to_dict(), own.to_dict(), metrics)
    (new / CARD_FILE).write_text(card, encoding="utf-8")
