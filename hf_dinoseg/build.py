"""From a recipe to objects, and through a run: the only place that unpacks a recipe."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import TrainingArguments, set_seed

from .data import (
    EvalDataset,
    RareClassCrops,
    SegmentationDataset,
    Skipped,
    TrainTransform,
    class_counts,
    drop_bad,
    load_source,
    prepare_targets,
)
from .doctor import BAD_SAMPLE_CODES, check_backbone_processor, quick_checks
from .hub.converters import init_head_from
from .hub.describe import METRICS_FILE, describe, hardware, write_json
from .hub.push_callback import PushCallback
from .inference import Background
from .labels import LabelSpace
from .losses import MaskClassificationLoss, PixelLoss, balanced_class_weights
from .models import DinoSegForSemanticSegmentation, DinoSegImageProcessor
from .recipe import Recipe, load_recipe
from .training import DinoSegTrainer, MaskAnnealing, RunError, apply_tuning
from .training.results import versions, write_results
from .training.run_folder import RECIPE_FILE, claim, inspect

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped.json"
# what a resumed run may have otherwise than it began with
_MAY_CHANGE = {("data", key) for key in ("root", "file", "num_proc", "max_pixels", "on_bad_sample")}
_STATISTICS = ("image_mean", "image_std")  # fields of `model` that the image processor has
# fields of `model` that say how it learns, and not what it is
_LEARNING = (
    "tune",
    "tune_blocks",
    "layer_decay",
    "lora_rank",
    "backbone_learning_rate_multiplier",
    "backbone_warmup_steps",
    "ema_decay",
)


# ---------------------------------------------------------------------- objects


def build_source(recipe: Recipe) -> DatasetDict:
    """`train` and `validation` as files: columns `id`, `image`, `mask`; nothing is read yet."""
    return load_source(**recipe.data.source_fields())


def build_data(recipe: Recipe, source: DatasetDict | None = None) -> DatasetDict:
    """The source's splits, with train-id label maps; see `data.prepare_targets`."""
    return _prepare(recipe, source or build_source(recipe))[0]


def _prepare(recipe: Recipe, source: DatasetDict) -> tuple[DatasetDict, dict[str, list[Skipped]]]:
    """The prepared splits, and of each the samples that were taken out."""
    data = recipe.data
    good, skipped = DatasetDict(), {}
    for name, split in source.items():
        prepared = prepare_targets(split, recipe.labels, data.num_proc, data.max_pixels, data.on_bad_sample)
        good[name], skipped[name] = drop_bad(prepared, name)
    return good, skipped


def build_processor(recipe: Recipe) -> DinoSegImageProcessor:
    """The image processor; it resizes only if the recipe asks for it."""
    edge = recipe.evaluation.shortest_edge
    resize = {"do_resize": True, "size": {"shortest_edge": edge}} if edge else {"do_resize": False}
    statistics = {name: getattr(recipe.model, name) for name in _STATISTICS}
    given = {name: list(value) for name, value in statistics.items() if value is not None}
    return DinoSegImageProcessor(label_space=recipe.labels.to_dict(), **given, **resize)


def build_model(recipe: Recipe) -> DinoSegForSemanticSegmentation:
    """Backbone with its pretrained weights (or random ones, from a config) and a new head, or one taken over."""
    fields = recipe.model.model_dump(exclude={"backbone", "num_labels", "init_head_from", *_LEARNING, *_STATISTICS})
    model = DinoSegForSemanticSegmentation.from_backbone(
        recipe.model.backbone,
        label_space=recipe.labels.to_dict(),
        id2label=recipe.labels.id2label,
        label2id=recipe.labels.label2id,
        inference=build_inference(recipe),
        freeze_backbone=recipe.model.tune == "head",
        background_threshold=recipe.evaluation.background_threshold,
        **fields,
    )
    if recipe.model.init_head_from:
        init_head_from(model, recipe.model.init_head_from)
    tune = recipe.model
    apply_tuning(model, tune.tune, last_blocks=tune.tune_blocks, lora_rank=tune.lora_rank)
    return model


def build_inference(recipe: Recipe) -> dict[str, Any]:
    """How pictures are predicted, in evaluation and, stored in the checkpoint's config, by `Segmenter`."""
    evaluation = recipe.evaluation
    return {
        "mode": evaluation.mode,
        "window": evaluation.window,
        "stride": evaluation.stride,
        "batch_size": evaluation.batch_size,
        "blend": evaluation.blend,
        "tta": evaluation.tta.model_dump(),
    }


def build_background(recipe: Recipe, stored: float | None = None) -> Background:
    """What is answered where no class is likely; `stored` is the checkpoint's threshold."""
    return Background.resolve(recipe.evaluation.background, recipe.evaluation.background_threshold, stored)


def build_criterion(recipe: Recipe, train: Dataset | None = None) -> MaskClassificationLoss | PixelLoss:
    """The loss that fits the head.

    Args:
        train: the prepared training split, where classes are counted for `class_weights: auto`.
    """
    labels, loss = recipe.labels, recipe.loss
    pixels = recipe.model.head == "linear"
    weights = None
    if loss.class_weights == "auto":
        if train is None or "pixel_counts" not in train.column_names:
            raise RunError(
                "loss.class_weights: auto counts classes in prepared training data, which there is none of here; write "
                "a weight for each class that needs one: {3: 2.5}."
            )
        counts = class_counts(train, labels.num_labels, "pixels" if pixels else "masks")
        weights = balanced_class_weights(counts)
    elif loss.class_weights is not None:
        weights = torch.ones(labels.num_labels)
        for original, weight in loss.class_weights.items():
            weights[list(labels.original_ids).index(original)] = weight
    if pixels:
        return PixelLoss(
            labels.num_labels, labels.ignore_index, loss.pixel_ce_weight, loss.pixel_dice_weight, class_weights=weights
        )
    settings = loss.model_dump(exclude={"class_weights", "pixel_ce_weight", "pixel_dice_weight"})
    return MaskClassificationLoss(labels.num_labels, **settings, class_weights=weights)


def build_train_dataset(recipe: Recipe, split: Dataset) -> SegmentationDataset:
    data = recipe.data
    transform = TrainTransform(
        crop_size=data.crop_size,
        scale=data.scale,
        max_class_share=data.max_class_share,
        flip=data.flip,
        photometric=data.photometric,
        ignore_index=recipe.labels.ignore_index,
        vertical_flip=data.vertical_flip,
        rotation=data.rotation,
    )
    share = data.rare_class_crops
    rare = RareClassCrops(share, split["class_labels"][:], split["pixel_counts"][:]) if share else None
    return SegmentationDataset(split, transform, recipe.training["seed"], data.max_pixels, data.on_bad_sample, rare)


def build_eval_dataset(
    recipe: Recipe, split: Dataset, processor: DinoSegImageProcessor, num_skipped: int = 0
) -> EvalDataset:
    data = recipe.data
    return EvalDataset(split, processor, recipe.labels, data.max_pixels, data.on_bad_sample, num_skipped)


def build_pushes(recipe: Recipe) -> PushCallback | None:
    """What pushes to the Hub, if the recipe asks for it; the repository is opened, so that no run ends at a token."""
    if not recipe.training.get("push_to_hub") or recipe.hub.repo_id is None:
        return None
    return PushCallback(
        recipe.hub.repo_id,
        private=recipe.hub.private,
        revision=recipe.training.get("hub_revision"),
        strategy=recipe.training.get("hub_strategy", "every_save"),
        always=recipe.training.get("hub_always_push", False),
    )


def evenly(split: Dataset, count: int | None) -> Dataset:
    """At most `count` rows, spread over the whole set: neighbours in a video or a volume look alike."""
    if count is None or count >= len(split):
        return split
    return split.select(np.linspace(0, len(split) - 1, count).round().astype(int))


# ---------------------------------------------------------------------- a run


def train(recipe: Recipe, *, resume: bool = False, overwrite: bool = False, force: bool = False) -> dict[str, Any]:
    """Train, evaluate, and leave a checkpoint folder in `training.output_dir`.

    Args:
        resume: go on from the newest whole checkpoint in the output folder.
        overwrite: replace the run in the output folder. It is deleted only once data and model have been loaded.
        force: train although `doctor.quick_checks` finds an error in the data; what cannot be read still stops it.

    Returns:
        What `metrics.json` holds.

    Raises:
        RunError, DoctorError, LabelError, DataError, BackboneError: with what to do about it; nothing is deleted in
            these cases.
    """
    started = time.time()
    args = TrainingArguments(**_training_arguments(recipe))
    folder = Path(recipe.training["output_dir"])
    inspect(folder, resume=resume, overwrite=overwrite)
    if resume:
        _check_same_run(recipe, folder)
    set_seed(args.seed)
    with args.main_process_first(desc="reading masks"):
        source = build_source(recipe)
        if args.process_index == 0:
            _check_data(source, recipe, force)
        data, skipped = _prepare(recipe, source)
    left_out = len(skipped["validation"])
    model, processor = build_model(recipe), build_processor(recipe)
    pushes = build_pushes(recipe) if args.process_index == 0 else None
    if args.process_index == 0:
        claim(folder, resume=resume, overwrite=overwrite)
        (folder / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
    if args.world_size > 1:
        torch.distributed.barrier()
    checkpoint = inspect(folder, resume=True, overwrite=False) if resume else None

    trainer = DinoSegTrainer(
        model,
        args,
        criterion=build_criterion(recipe, data["train"]),
        label_space=recipe.labels,
        inference=build_inference(recipe),
        background=build_background(recipe),
        processing_class=processor,
        train_dataset=build_train_dataset(recipe, data["train"]),
        eval_dataset=build_eval_dataset(
            recipe, evenly(data["validation"], recipe.evaluation.max_samples), processor, left_out
        ),
        beta=recipe.evaluation.beta,
        boundary_iou=recipe.evaluation.boundary_iou,
        panels=recipe.evaluation.panels,
        backbone_learning_rate_multiplier=recipe.model.backbone_learning_rate_multiplier,
        layer_decay=recipe.model.layer_decay if recipe.model.tune == "llrd" else 1.0,
        backbone_warmup_steps=recipe.model.backbone_warmup_steps,
        ema_decay=recipe.model.ema_decay,
        callbacks=[MaskAnnealing()] if recipe.model.head == "eomt" else None,
    )
    if pushes:
        pushes.describe = lambda stage: _describe_step(stage, recipe, trainer)
        trainer.add_callback(pushes)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    best_step = trainer.state.best_global_step if args.load_best_model_at_end else None
    step = best_step or trainer.state.global_step

    # the best weights are back; during training a part of the validation set may have been enough, here it is all
    trainer.state.global_step = step
    everything = build_eval_dataset(recipe, data["validation"], processor, left_out)
    metrics = _evaluate(trainer, everything, folder / "panels" / "final")
    metrics["step"] = step
    metrics["train_images"] = len(data["train"])
    metrics["seconds"] = round(time.time() - started, 1)
    metrics["hardware"] = hardware(args.device, args.world_size)
    trainer.save_model()
    later = trainer.gather_skipped()
    if args.process_index == 0:
        if recipe.data.on_bad_sample == "skip":
            parts = {**skipped, "while_running": later}
            write_json(folder / SKIPPED_FILE, {name: [s._asdict() for s in part] for name, part in parts.items()})
        write_results(folder, trainer, everything, metrics, folder.name, recipe.to_yaml())
        describe(folder, recipe.labels.to_dict(), recipe.to_dict(), metrics)
    if pushes:
        pushed = pushes.finish(folder, f"End of training, weights of step {step}")
        logger.info("pushed %d files: %s", len(pushed.files), pushed.url)
    return metrics


def evaluate(checkpoint: str, recipe: Recipe | None = None, output: str | None = None) -> dict[str, Any]:
    """Measure a checkpoint on the validation split of a recipe, as training did.

    Args:
        checkpoint: folder or Hub id.
        recipe: where the data is, and how pictures are predicted; None takes the checkpoint's own `recipe.yaml`.
        output: folder for `metrics.json`, `panels/` and what `write_results` writes; None writes nothing.

    Raises:
        RunError: if recipe and checkpoint disagree on what the labels mean.
    """
    if recipe is None:
        from transformers.utils import cached_file

        recipe = load_recipe(str(cached_file(checkpoint, RECIPE_FILE)))
    model = DinoSegForSemanticSegmentation.from_pretrained(checkpoint)
    processor = DinoSegImageProcessor.from_pretrained(checkpoint)
    stored = LabelSpace.from_dict(model.config.label_space)
    if stored.original_ids != recipe.labels.original_ids:
        raise RunError(
            f"{checkpoint} answers in the ids {list(stored.original_ids)}, the recipe's labels are "
            f"{list(recipe.labels.original_ids)}; metrics would compare different things. Use the recipe that the "
            f"checkpoint was trained with ({RECIPE_FILE} in its folder), with data.root=… for other data."
        )
    with TemporaryDirectory() as scratch:  # the Trainer makes its output folder in any case
        folder = Path(output or scratch)
        args = TrainingArguments(**_training_arguments(recipe) | {"output_dir": str(folder)})
        with args.main_process_first(desc="reading masks"):
            data, skipped = _prepare(recipe, DatasetDict(validation=build_source(recipe)["validation"]))
        dataset = build_eval_dataset(recipe, data["validation"], processor, len(skipped["validation"]))
        trainer = DinoSegTrainer(
            model,
            args,
            criterion=None,
            label_space=recipe.labels,
            inference=build_inference(recipe),
            background=build_background(recipe, model.config.background_threshold),
            processing_class=processor,
            eval_dataset=dataset,
            beta=recipe.evaluation.beta,
            boundary_iou=recipe.evaluation.boundary_iou,
            panels=recipe.evaluation.panels if output else 0,
        )
        metrics = _evaluate(trainer, dataset, folder / "panels")
        if args.process_index == 0:
            write_json(folder / METRICS_FILE, metrics)
            if output:
                write_results(folder, trainer, dataset, metrics, Path(checkpoint).name, recipe.to_yaml())
    return metrics


# ---------------------------------------------------------------------- parts of a run


def _training_arguments(recipe: Recipe) -> dict[str, Any]:
    # pinned memory only helps copies to an accelerator, and torch warns at each loader where there is none
    pinned = recipe.training.get("dataloader_pin_memory", True) and torch.accelerator.is_available()
    # `build_pushes` pushes: the Trainer would send a pickled file, and a config whose code is not there yet
    return {**recipe.training, "push_to_hub": False, "dataloader_pin_memory": pinned}


def _check_data(source: DatasetDict, recipe: Recipe, force: bool) -> None:
    report = quick_checks(source, recipe.labels, max_pixels=recipe.data.max_pixels)
    if recipe.data.on_bad_sample == "skip":
        report = report.with_warnings(BAD_SAMPLE_CODES)
    if isinstance(backbone := recipe.model.backbone, str):
        report = report.with_findings(check_backbone_processor(build_processor(recipe).to_dict(), backbone))
    for finding in report.findings:
        if finding.level == "warning" or force and finding.level == "error":
            logger.warning("%s: %s %s", finding.code, finding.seen, finding.cure)
    if not force:
        report.raise_on_error("`dinoseg doctor` tells more; `dinoseg train --force` goes on regardless.")


def _check_same_run(recipe: Recipe, folder: Path) -> None:
    """A run goes on with the labels, data and model that it began with."""
    path = folder / RECIPE_FILE
    if not path.exists():
        raise RunError(f"{folder} has checkpoints but no {RECIPE_FILE}, so it cannot be told if this is the same run.")
    begun, now = load_recipe(path).to_dict(), recipe.to_dict()
    for section in ("labels", "data", "model"):
        for key in begun[section].keys() | now[section].keys():
            old, new = begun[section].get(key), now[section].get(key)
            if old != new and (section, key) not in _MAY_CHANGE:
                raise RunError(
                    f"The run in {folder} began with {section}.{key} {old!r}, the recipe now says {new!r}. Resume with "
                    f"{path}, or start another run in another training.output_dir."
                )


def _evaluate(trainer: DinoSegTrainer, dataset: EvalDataset, panels: Path) -> dict[str, Any]:
    measured = trainer.evaluate(dataset, panel_folder=panels)
    result = dict(trainer.streamed.summary)
    result["seconds_per_image"] = round(measured["eval_runtime"] / max(result["num_images"], 1), 4)
    result["inference"] = trainer.inference
    policy = {"policy": trainer.background.policy, "threshold": trainer.background.threshold}
    result["background"] = {**policy, **result.get("background", {})}
    result["versions"] = versions()
    return result


def _describe_step(stage: Path, recipe: Recipe, trainer: DinoSegTrainer) -> None:
    """Recipe, card and, if this step was measured, metrics of a checkpoint that is pushed during training."""
    step = trainer.state.global_step
    measured = any("eval_mean_iou" in entry and entry["step"] == step for entry in trainer.state.log_history)
    (stage / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
    metrics = {**trainer.streamed.summary, "step": step} if measured else {}
    describe(stage, recipe.labels.to_dict(), recipe.to_dict(), metrics)
