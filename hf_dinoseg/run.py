"""Through a run: looking at the data, training by a recipe, and measuring a checkpoint."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from transformers import set_seed

from . import models
from .builders import (
    build_callbacks,
    build_criterion,
    build_eval_dataset,
    build_evaluation_arguments,
    build_model,
    build_processor,
    build_pushes,
    build_rates,
    build_source,
    build_stopper,
    build_stream,
    build_train_dataset,
    build_trainer,
    build_training_arguments,
    build_validation,
    check_memory,
    check_sizes,
    check_start,
    evenly,
    input_folders,
    input_places,
    is_stored_stream,
    prepare_splits,
    remember_source,
)
from .checkpoint import (
    CARD_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    checkpoint_metrics,
    checkpoint_recipe,
    load_checkpoint,
)
from .data import EvalDataset, sample_digests
from .doctor import (
    BAD_SAMPLE_CODES,
    DEFAULT_SAMPLES,
    Report,
    check_backbone_processor,
    check_label_spaces,
    check_model_files,
    check_prepared,
    examine,
    examine_checkpoint,
    quick_checks,
)
from .errors import RecipeError, RunError
from .evaluation.metrics import Metrics
from .evaluation.results import RESULT_FILES, versions, write_results
from .figures import write_json
from .hub.checkpoint_folder import describe, hardware
from .inference import Segmenter
from .labels import LabelSpace
from .models import head_class
from .recipe import Recipe, load_recipe, recipe_of
from .recipe.resume import Change, changes, new_rates, refusals
from .training import DinoSegTrainer, calm
from .training.checkpoints import CheckpointManifest
from .training.distributed import (
    built_whole,
    check_can_measure,
    check_processes,
    on_first_process,
    whole_on_each_process,
)
from .training.fingerprint import DATA_FILE, Samples, differences, fingerprint
from .training.log_images import check_loggers
from .training.manifest import Manifest
from .training.output_folder import check_apart, claim, inspect
from .visualize import CONFUSION_FILE, CURVES_FILE

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped.json"
_PROBED = 8  # images that a checkpoint predicts for the doctor
# What a run writes into its folder beside checkpoints and panels: at any time (logs, what waits for a push), and in the
# end.
_DURING = (RECIPE_FILE, DATA_FILE, CONFUSION_FILE, CURVES_FILE, "runs", "emissions.csv", ".push-*")
_FINAL = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json"),
    *sorted(path.name for path in Path(models.__file__).parent.glob("*.py")),
    *(METRICS_FILE, CARD_FILE, SKIPPED_FILE, *RESULT_FILES),
)


RecipeLike = Recipe | str | os.PathLike[str] | Mapping[str, Any]


@calm()
def train(
    recipe: RecipeLike | None = None,
    *,
    dataset: Any = None,
    images: Any = None,
    masks: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    force: bool = False,
    **fields: Any,
) -> Metrics:
    """Train, evaluate, and leave a checkpoint folder in `training.output_dir`.

    Args:
        recipe: a `Recipe`, the path of one, or a dict; without, the keywords are all of it.
        dataset: the data as an object: a `datasets.Dataset` or `DatasetDict`, a torch `Dataset` of (image, mask), a
            list of such pairs, a frame with columns of paths; see `data.load_memory`. It takes the place of what the
            recipe says of where the data is.
        images, masks: or two folders, with subfolders `train` and `val`, or else a fifth of the images is held out;
            or two lists.
        resume: go on from the newest whole checkpoint in the output folder. Settings that differ from that run's change
            from there on, or are refused; see `recipe.resume`.
        overwrite: replace the run in the output folder. It is deleted only once data and model have been loaded.
        force: train although `doctor.quick_checks` finds an error in the data, or go on although the data is not what
            the run began with; what cannot be read still stops it.
        fields: of the recipe, by their bare names (`max_steps=2000`, `backbone=…`, `classes=[…]`), or whole sections;
            see `recipe.keywords`. Without `output_dir`, transformers' `trainer_output`.

    Returns:
        What `metrics.json` holds; it shows itself as a table.

    Raises:
        RecipeError: on keywords or a recipe that cannot be used, with every fault.
        RunError, DoctorError, LabelError, DataError, BackboneError: with what to do about it; nothing is deleted in
            these cases.
        Preempted: if a signal or `training.max_time` ended it, once a checkpoint is saved.

    Example:
        >>> train(images="photos", masks="masks", classes=["background", "vessel"], max_steps=2000)  # doctest: +SKIP
    """
    recipe, dataset = _meant(recipe, dataset, images, masks, fields, "train")
    with ExitStack() as until_the_end:
        return _train(recipe, dataset, resume, overwrite, force, until_the_end)


def _train(
    recipe: Recipe, dataset: Any, resume: bool, overwrite: bool, force: bool, until_the_end: ExitStack
) -> Metrics:
    """
    Args:
        recipe, dataset, resume, overwrite, force: those of `train`.
        until_the_end: gives free what is held, however the run ends.
    """
    started, clock = time.time(), time.monotonic()
    folder = Path(recipe.training["output_dir"])
    check_recipe(recipe)
    args = build_training_arguments(recipe)
    check_processes(args)
    check_loggers(args.report_to or ())
    checkpoint = on_first_process(args, lambda: inspect(folder, resume=resume, overwrite=overwrite))
    if dataset is not None:
        with args.main_process_first(desc="reading the dataset"):
            given = build_source(recipe, dataset=dataset)
            recipe = remember_source(recipe, dataset, given)
    begun, changed = on_first_process(args, lambda: _compare_settings(recipe, folder, checkpoint))
    if recipe.model.tune == "head" and not head_class(recipe.model.head).fits_frozen_backbone:
        logger.warning(
            "model.tune: head leaves the backbone as it is, and head %s works inside the backbone's blocks: published "
            "results are of backbones that learn. Write model.tune: llrd or full, or take another head.",
            recipe.model.head,
        )
    set_seed(args.seed)
    with args.main_process_first(desc="reading masks"):
        source = build_source(recipe) if dataset is None else given
        check_apart(folder, input_folders(source))
        if args.process_index == 0:
            told = _check_data(source, recipe, force)
        streaming = recipe.data.streaming
        data, skipped = prepare_splits(recipe, DatasetDict(validation=source["validation"]) if streaming else source)
        if args.process_index == 0 and not streaming:
            _tell(Report(tuple(check_prepared(data, recipe))).without(told), force)
    left_out = len(skipped["validation"])
    samples = {name: sample_digests(split) for name, split in data.items()}
    data_now = fingerprint(samples, recipe.labels.to_dict())
    if begun is not None and args.process_index == 0:
        _compare_data(begun, folder, data_now, samples, force)
        _tell_changes(begun, changed, args.world_size)
    with built_whole(args):
        model, processor = build_model(recipe), build_processor(recipe)
    pushes = build_pushes(recipe) if args.process_index == 0 else None
    trainer = build_trainer(
        recipe,
        model,
        processor,
        args,
        build_eval_dataset(recipe, evenly(data["validation"], recipe.evaluation.max_samples), processor, left_out),
        train_dataset=build_stream(recipe, source, args) if streaming else build_train_dataset(recipe, data["train"]),
        criterion=build_criterion(recipe, data.get("train")),
        ema_decay=recipe.model.ema_decay,
        stopper=build_stopper(recipe, clock),
        callbacks=build_callbacks(recipe),
        **build_rates(recipe),
    )
    manifest = None
    if args.process_index == 0:
        manifest = claim(folder, resume=resume, overwrite=overwrite)
        until_the_end.callback(manifest.release)
        manifest.begin(*_DURING)
    if args.world_size > 1:
        torch.distributed.barrier()
    note = _Note(recipe, manifest, data_now, samples, changed, args.world_size)
    trainer.keep(
        manifest, settings=recipe.to_dict(), data=data_now, new_rates=new_rates(changed), begun=note.begun_from
    )
    if pushes:
        pushes.describe = lambda stage: _describe_step(stage, recipe, trainer)
        trainer.add_callback(pushes)
    until_the_end.enter_context(trainer.stopper)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    note.begun_from(trainer.state.global_step)
    stopped_at = trainer.state.global_step if trainer.state.global_step < trainer.state.max_steps else None
    if stopped_at is not None:
        logger.info(
            "Stopped early, after step %d of %d: %s got no better.",
            stopped_at,
            trainer.state.max_steps,
            args.metric_for_best_model,
        )
    best_step = trainer.state.best_global_step if args.load_best_model_at_end else None
    step = best_step or trainer.state.global_step

    # the best weights are back; during training a part of the validation set may have been enough, here it is all
    trainer.state.global_step = step
    everything = build_eval_dataset(recipe, data["validation"], processor, left_out)
    metrics = _evaluate(trainer, everything, folder / "panels" / "final")
    metrics |= {"step": step} if stopped_at is None else {"step": step, "stopped_at": stopped_at}
    metrics["train_images"] = None if is_stored_stream(recipe) else len(data.get("train", source["train"]))
    metrics["seconds"] = round(time.time() - started, 1)
    metrics["hardware"] = hardware(args.device, args.world_size)
    if manifest is not None:
        manifest.begin(*_FINAL)
    trainer.save_model()
    later = trainer.gather_skipped()
    _write_results(folder, trainer, everything, metrics, folder.name, recipe)
    if args.process_index == 0:
        if recipe.data.on_bad_sample == "skip":
            parts = {**skipped, "while_running": later}
            write_json(folder / SKIPPED_FILE, {name: [s._asdict() for s in part] for name, part in parts.items()})
        describe(folder, recipe.labels.to_dict(), recipe.to_dict(), metrics)
    if manifest is not None:
        manifest.finish(*_DURING, *_FINAL)
    if pushes:
        pushed = pushes.finish(folder, f"End of training, weights of step {step}")
        logger.info("pushed %d files: %s", len(pushed.files), pushed.url)
    return Metrics(metrics)


def check_recipe(recipe: Recipe) -> None:
    """What can be said of a run from its recipe alone, before anything is loaded: that the output folder does not hold
    what is read, that `model.init_from` is a start, that crops fit the memory, and that the sizes make a model.

    Raises:
        RunError, ModelError: if not.
    """
    check_apart(Path(recipe.training["output_dir"]), input_places(recipe))
    check_start(recipe)
    check_memory(recipe)
    check_sizes(recipe)


@calm()
def evaluate(
    checkpoint: str | os.PathLike[str],
    recipe: RecipeLike | None = None,
    output: str | None = None,
    *,
    dataset: Any = None,
    images: Any = None,
    masks: Any = None,
    **fields: Any,
) -> Metrics:
    """Measure a checkpoint on the validation split of a recipe, as training did.

    Args:
        checkpoint: folder or Hub id.
        recipe: where the data is, and how images are predicted; None takes the checkpoint's own `recipe.yaml`.
        output: folder for `metrics.json`, `panels/` and what `write_results` writes; None writes nothing.
        dataset, images, masks: other data, as of `train`. Of data without splits, all of it is measured on.
        fields: changes to the recipe, as of `train`.

    Raises:
        RecipeError: on keywords or a recipe that cannot be used, with every fault.
        RunError: if recipe and checkpoint disagree on what the labels mean.
    """
    checkpoint = os.fspath(checkpoint)
    if recipe is None:
        recipe = checkpoint_recipe(checkpoint)
    other_folders = dataset is None and images is not None
    recipe, dataset = _meant(recipe, dataset, images, masks, fields, "evaluate")
    model, processor, stored = load_checkpoint(checkpoint)
    if stored.original_ids != recipe.labels.original_ids:
        raise RunError(
            f"{checkpoint} answers in the ids {list(stored.original_ids)}, the recipe's labels are "
            f"{list(recipe.labels.original_ids)}; metrics would compare different things. Use the recipe that the "
            f"checkpoint was trained with ({RECIPE_FILE} in its folder), with data.root=… for other data."
        )
    with TemporaryDirectory() as scratch:  # the Trainer makes its output folder in any case
        folder = Path(output or scratch)
        args = build_evaluation_arguments(recipe, str(folder))
        check_processes(args)
        check_can_measure(args)
        _compare_labels(checkpoint, recipe, stored, tell=args.process_index == 0)
        with args.main_process_first(desc="reading masks"):
            data, skipped = prepare_splits(recipe, build_validation(recipe, dataset, everything=other_folders))
        dataset = build_eval_dataset(recipe, data["validation"], processor, len(skipped["validation"]))
        trainer = build_trainer(recipe, model, processor, args, dataset)
        trainer.panels = trainer.panels if output else 0
        metrics = _evaluate(trainer, dataset, folder / "panels")
        if args.process_index == 0:
            write_json(folder / METRICS_FILE, metrics)
        if output:
            _write_results(folder, trainer, dataset, metrics, Path(checkpoint).name, recipe)
    return Metrics(metrics)


def check(
    recipe: RecipeLike | None = None,
    *,
    dataset: Any = None,
    images: Any = None,
    masks: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    samples: int = DEFAULT_SAMPLES,
    **fields: Any,
) -> Report:
    """Read the data of a recipe and say what is wrong with it, and what to write instead: `dinoseg doctor`.

    Args:
        recipe, dataset, images, masks, fields: as of `train`.
        checkpoint: folder or Hub id of a model that is to predict a few images, which are judged.
        samples: pairs of each split that are read, spread evenly.

    Returns:
        Findings, errors first; `print(report.text())` shows them.

    Raises:
        RecipeError: on keywords or a recipe that cannot be used, with every fault.
        DataError: if the data cannot be found at all.
    """
    recipe, dataset = _meant(recipe, dataset, images, masks, fields, "check")
    return examine_run(recipe, checkpoint, samples, dataset)[0]


def examine_run(
    recipe: Recipe, checkpoint: str | os.PathLike[str] | None, samples: int, dataset: Any = None
) -> tuple[Report, Dataset]:
    """The doctor's report on a recipe, and the training rows that it looked at."""
    source = build_source(recipe, samples, dataset)
    processor = build_processor(recipe).to_dict()
    report = examine(source, recipe.labels, samples, max_pixels=recipe.data.max_pixels, recipe=recipe)
    if isinstance(recipe.model.backbone, str):
        report = report.with_findings(check_backbone_processor(processor, recipe.model.backbone))
    if checkpoint is not None:
        report = report.with_findings(check_model_files(Path(checkpoint)))
        metrics = checkpoint_metrics(checkpoint)
        segmenter, rows = Segmenter.from_pretrained(checkpoint), source["validation"]
        seen = examine_checkpoint(segmenter, recipe.labels, processor, rows, min(samples, _PROBED), metrics)
        report = report.joined(seen)
    return report, source["train"]


# ---------------------------------------------------------------------- parts of a run


def _meant(
    recipe: RecipeLike | None, dataset: Any, images: Any, masks: Any, fields: dict[str, Any], where: str
) -> tuple[Recipe, Any]:
    """The recipe and the dataset that the arguments of a call mean."""
    listed = [name for name, given in (("images", images), ("masks", masks)) if isinstance(given, (list, tuple))]
    if dataset is not None and (images is not None or masks is not None):
        raise RecipeError(["dataset, images: the data is given twice; give one of them."], f"{where}(…)")
    if len(listed) == 1:
        raise RecipeError([f"{listed[0]}: a list; images and masks are two lists, or two folders."], f"{where}(…)")
    if listed:
        dataset, images, masks = {"image": list(images), "mask": list(masks)}, None, None
    for name, given in (("images", images), ("masks", masks)):
        if given is not None and not isinstance(given, (str, os.PathLike)):
            told = f"{name}: a {type(given).__name__}; give a folder or a list, or an object by dataset=…."
            raise RecipeError([told], f"{where}(…)")
    in_memory = dataset is not None
    return recipe_of(recipe, fields, images=images, masks=masks, in_memory=in_memory, where=f"{where}(…)"), dataset


def _check_data(source: DatasetDict, recipe: Recipe, force: bool) -> Report:
    """What a first look finds, which is told."""
    report = quick_checks(source, recipe.labels, max_pixels=recipe.data.max_pixels, recipe=recipe)
    if recipe.data.on_bad_sample == "skip":
        report = report.with_warnings(BAD_SAMPLE_CODES)
    if isinstance(backbone := recipe.model.backbone, str):
        report = report.with_findings(check_backbone_processor(build_processor(recipe).to_dict(), backbone))
    _tell(report, force)
    return report


def _tell(report: Report, force: bool) -> None:
    """Log the warnings, and stop at errors unless that is not wanted; then they are warnings."""
    for finding in report.findings:
        if finding.level == "warning" or force and finding.level == "error":
            logger.warning("%s: %s %s", finding.code, finding.seen, finding.cure)
    if not force:
        report.raise_on_error(
            "`dinoseg doctor` (in Python: check) tells more; `dinoseg train --force` (force=True) goes on regardless."
        )


def _compare_labels(checkpoint: str, recipe: Recipe, stored: LabelSpace, tell: bool) -> None:
    """What a recipe and a checkpoint with the same ids mean by them.

    Args:
        tell: log what differs and may be meant.

    Raises:
        RunError: if names that recipe and checkpoint both have stand for other ids there.
    """
    for finding in check_label_spaces(recipe.labels, stored):
        if finding.level == "error":
            raise RunError(f"{checkpoint}: {finding.seen} {finding.cure}")
        if tell:
            logger.warning("%s: %s %s", finding.code, finding.seen, finding.cure)


def _compare_settings(
    recipe: Recipe, folder: Path, checkpoint: Path | None
) -> tuple[CheckpointManifest | None, list[Change]]:
    """What the manifest of the checkpoint says, and what the recipe says otherwise; None without a checkpoint.

    Raises:
        RunError: if the run cannot go on with what the recipe says otherwise; every such setting is named.
    """
    if checkpoint is None:
        return None, []
    try:
        begun = CheckpointManifest.load(checkpoint)
    except FileNotFoundError:  # of version 0.1
        begun = CheckpointManifest(None, int(checkpoint.name.rpartition("-")[2]), 1)
        begun.processes = max(len(list(checkpoint.glob("rng_state*.pth"))), 1)
    if not begun.settings:
        path = folder / RECIPE_FILE
        if not path.exists():
            raise RunError(f"{folder} has checkpoints but no {RECIPE_FILE}, so it cannot be told what the run is.")
        begun.settings = load_recipe(path).to_dict()
    changed = changes(begun.settings, recipe.to_dict())
    refused = refusals(changed, begun.settings["training"]["lr_scheduler_type"])
    steps = recipe.training.get("max_steps") or -1
    if 0 < steps < begun.step:
        refused.append(f"training.max_steps: {steps}, and step {begun.step} is done.")
    if refused:
        raise RunError(
            f"The run in {folder} cannot go on with these settings:\n  "
            + "\n  ".join(refused)
            + "\nWrite what the run has, or start another run in another training.output_dir."
        )
    return begun, changed


def _compare_data(begun: CheckpointManifest, folder: Path, data: dict[str, Any], samples: Samples, force: bool) -> None:
    """
    Raises:
        RunError: if the data is not what the run began with, unless that is wanted; then it is a warning.
    """
    path = folder / DATA_FILE
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not (found := differences(begun.data, data, before, samples)):
        return
    said = f"The data is not what the run in {folder} was trained on until step {begun.step}: {'; '.join(found)}."
    if not force:
        raise RunError(f"{said} Put it back, start another run, or go on with this data: --resume --force.")
    logger.warning("%s Going on with this data.", said)


def _tell_changes(begun: CheckpointManifest, changed: list[Change], processes: int) -> None:
    if changed:
        logger.warning("From step %d on: %s.", begun.step, "; ".join(map(str, changed)))
    if processes != begun.processes:
        logger.warning(
            "The run had %d process%s until step %d and goes on with %d. A step has that many batches, so epochs have "
            "another number of steps and begin elsewhere in the data; random numbers are drawn otherwise. It goes on, "
            "but not to the same weights.",
            begun.processes,
            "" if begun.processes == 1 else "es",
            begun.step,
            processes,
        )


class _Note:
    """Writes down, once training runs and not before, what it runs with: recipe, data, and what changed."""

    def __init__(
        self,
        recipe: Recipe,
        manifest: Manifest | None,
        data: dict[str, Any],
        samples: Samples,
        changed: list[Change],
        processes: int,
    ) -> None:
        self.recipe, self.manifest, self.data, self.samples = recipe, manifest, data, samples
        self.changed, self.processes = changed, processes

    def begun_from(self, step: int) -> None:
        if (manifest := self.manifest) is None:
            return
        self.manifest = None
        (manifest.folder / RECIPE_FILE).write_text(self.recipe.to_yaml(), encoding="utf-8")
        write_json(manifest.folder / DATA_FILE, self.samples)
        entry: dict[str, Any] = {"processes": self.processes}
        if manifest.settings:
            entry["changed"] = {change.field: [change.old, change.new] for change in self.changed}
        else:
            entry["settings"] = self.recipe.to_dict()
        manifest.note_settings(step, entry)
        manifest.data = self.data
        manifest.save()


def _evaluate(trainer: DinoSegTrainer, dataset: EvalDataset, panels: Path) -> dict[str, Any]:
    measured = trainer.evaluate(dataset, panel_folder=panels)
    result = dict(trainer.streamed.summary)
    result["seconds_per_image"] = round(measured["eval_runtime"] / max(result["num_images"], 1), 4)
    result["inference"] = trainer.inference
    policy = {"policy": trainer.background.policy, "threshold": trainer.background.threshold}
    result["background"] = {**policy, **result.get("background", {})}
    result["versions"] = versions()
    return result


def _write_results(
    folder: Path, trainer: DinoSegTrainer, dataset: EvalDataset, metrics: dict[str, Any], title: str, recipe: Recipe
) -> None:
    """Tables, confusion matrix and report of the last evaluation, by the first process."""
    with whole_on_each_process(trainer.own_weights.model, trainer.deepspeed):
        if trainer.is_world_process_zero():
            write_results(
                folder,
                dataset,
                trainer.streamed,
                metrics,
                predict=lambda index: trainer.predict_one(dataset, index),
                background=trainer.background,
                log_history=trainer.state.log_history,
                title=title,
                recipe=recipe.to_yaml(),
            )


def _describe_step(stage: Path, recipe: Recipe, trainer: DinoSegTrainer) -> None:
    """Recipe, card and, if this step was measured, metrics of a checkpoint that is pushed during training."""
    step = trainer.state.global_step
    measured = any("eval_mean_iou" in entry and entry["step"] == step for entry in trainer.state.log_history)
    (stage / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
    metrics = {**trainer.streamed.summary, "step": step} if measured else {}
    describe(stage, recipe.labels.to_dict(), recipe.to_dict(), metrics)
