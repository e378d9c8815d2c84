"""From a recipe to objects: the only place that unpacks a recipe."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from .data import (
    EvalDataset,
    RareClassCrops,
    SegmentationDataset,
    Skipped,
    StreamingSegmentationDataset,
    TrainTransform,
    as_stream,
    class_counts,
    drop_bad,
    first_rows,
    load_source,
    open_stream,
    prepare_targets,
)
from .errors import RunError
from .hub.converters import init_head_from
from .hub.push_callback import PushCallback
from .inference import Background
from .losses import LOSSES, Loss, balanced_class_weights
from .models import DinoSegForSemanticSegmentation, DinoSegImageProcessor, head_class
from .recipe import ONE_CYCLE, Recipe, training_arguments
from .training import HeadSchedule, apply_tuning

logger = logging.getLogger(__name__)

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


def build_source(recipe: Recipe, head: int = 64) -> DatasetDict:
    """`train` and `validation` as files: columns `id`, `image`, `mask`; nothing is read yet.

    Args:
        head: of a stored data set that is streamed, `train` is so many of its first rows: enough to be looked at.
    """
    if is_stored_stream(recipe):
        train, validation = _open_stream(recipe)
        logger.info("data.streaming: of the training data, the first %d samples are looked at beforehand", head)
        return DatasetDict(train=first_rows(train, head), validation=validation)
    return load_source(**recipe.data.source_fields())


def is_stored_stream(recipe: Recipe) -> bool:
    return recipe.data.streaming and recipe.data.source in ("hub", "parquet", "arrow", "imagefolder")


def _open_stream(recipe: Recipe) -> tuple[IterableDataset, Dataset]:
    fields = recipe.data.source_fields()
    return open_stream(place=fields.pop("repo_id" if recipe.data.source == "hub" else "root"), **fields)


def build_data(recipe: Recipe, source: DatasetDict | None = None) -> DatasetDict:
    """The source's splits, with train-id label maps; see `data.prepare_targets`."""
    return prepare_splits(recipe, source or build_source(recipe))[0]


def prepare_splits(recipe: Recipe, source: DatasetDict) -> tuple[DatasetDict, dict[str, list[Skipped]]]:
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
    if recipe.model.backbone_dtype == "float32":
        fields["backbone_dtype"] = None  # the model's, so that a checkpoint can be loaded in any
    model = DinoSegForSemanticSegmentation.from_backbone(
        recipe.model.backbone,
        label_space=recipe.labels.to_dict(),
        id2label=recipe.labels.id2label,
        label2id=recipe.labels.label2id,
        inference=build_inference(recipe),
        freeze_backbone=recipe.model.tune == "head",
        background_threshold=recipe.evaluation.background_threshold,
        palette=recipe.evaluation.palette,
        **fields,
    )
    if recipe.training.get("gradient_checkpointing") and not any(
        hasattr(module, "gradient_checkpointing") for module in model.modules()
    ):
        raise RunError(
            f"training.gradient_checkpointing: neither transformers' {type(model.backbone.model).__name__} nor head "
            f"{recipe.model.head} can; take it out, and use training.gradient_accumulation_steps."
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
        "autocast": evaluation.autocast,
    }


def build_background(recipe: Recipe, stored: float | None = None) -> Background:
    """What is answered where no class is likely; `stored` is the checkpoint's threshold."""
    return Background.resolve(recipe.evaluation.background, recipe.evaluation.background_threshold, stored)


def build_criterion(recipe: Recipe, train: Dataset | None = None) -> Loss:
    """The loss that fits the head.

    Args:
        train: the prepared training split, where classes are counted for `per_class_weights: auto`.
    """
    labels, section = recipe.labels, recipe.loss
    kind = LOSSES[head_class(recipe.model.head).loss]
    weights = None
    if section.per_class_weights == "auto":
        if train is None or "pixel_counts" not in train.column_names:
            raise RunError(
                "loss.per_class_weights: auto counts classes in prepared training data, which there is none of here; "
                "write a weight for each class that needs one: {3: 2.5}."
            )
        weights = balanced_class_weights(class_counts(train, labels.num_labels, kind.counted))
    elif section.per_class_weights is not None:
        weights = torch.ones(labels.num_labels)
        for original, weight in section.per_class_weights.items():
            weights[labels.train_ids[original]] = weight
    settings: dict[str, Any] = {argument: getattr(section, name) for name, argument in kind.settings.items()}
    return kind(labels.num_labels, ignore_index=labels.ignore_index, class_weights=weights, **settings)


def build_stream(recipe: Recipe, source: DatasetDict, args: TrainingArguments) -> StreamingSegmentationDataset:
    """The training split as a stream.

    Args:
        source: as `build_source` gives it.
        args: say which process this is, and how many workers each has.
    """
    data, readers = recipe.data, args.world_size * max(1, args.dataloader_num_workers)
    return StreamingSegmentationDataset(
        _open_stream(recipe)[0] if is_stored_stream(recipe) else as_stream(source["train"], readers),
        recipe.labels,
        _transform(recipe),
        recipe.training["seed"],
        data.shuffle_buffer,
        args.process_index,
        args.world_size,
        data.max_pixels,
        data.on_bad_sample,
    )


def build_train_dataset(recipe: Recipe, split: Dataset) -> SegmentationDataset:
    data = recipe.data
    share = data.rare_class_crops
    rare = RareClassCrops(share, split["class_labels"][:], split["pixel_counts"][:]) if share else None
    return SegmentationDataset(
        split, _transform(recipe), recipe.training["seed"], data.max_pixels, data.on_bad_sample, rare
    )


def _transform(recipe: Recipe) -> TrainTransform:
    data = recipe.data
    return TrainTransform(
        crop_size=data.crop_size,
        scale=data.scale,
        max_class_share=data.max_class_share,
        flip=data.flip,
        photometric=data.photometric,
        ignore_index=recipe.labels.ignore_index,
        vertical_flip=data.vertical_flip,
        rotation=data.rotation,
    )


def build_eval_dataset(
    recipe: Recipe, split: Dataset, processor: DinoSegImageProcessor, num_skipped: int = 0
) -> EvalDataset:
    data = recipe.data
    return EvalDataset(split, processor, recipe.labels, data.max_pixels, data.on_bad_sample, num_skipped)


def build_training_arguments(recipe: Recipe, **fields: Any) -> TrainingArguments:
    """The recipe's TrainingArguments; `fields` override them."""
    # pinned memory only helps copies to an accelerator, and torch warns at each loader where there is none
    pinned = recipe.training.get("dataloader_pin_memory", True) and torch.accelerator.is_available()
    # `build_pushes` pushes: the Trainer would send a pickled file, and a config whose code is not there yet
    settled = {"push_to_hub": False, "dataloader_pin_memory": pinned}
    return TrainingArguments(**{**training_arguments(recipe.training), **settled, **fields})


def build_rates(recipe: Recipe) -> dict[str, Any]:
    """How fast which part learns when: arguments of `DinoSegTrainer`."""
    model, training = recipe.model, recipe.training
    one_cycle = training["lr_scheduler_type"] == ONE_CYCLE
    return {
        "backbone_learning_rate_multiplier": model.backbone_learning_rate_multiplier,
        "layer_decay": model.layer_decay if model.tune == "llrd" else 1.0,
        "backbone_warmup_steps": model.backbone_warmup_steps,
        "one_cycle": training["lr_scheduler_kwargs"] or {} if one_cycle else None,
    }


def build_callbacks(recipe: Recipe) -> list[TrainerCallback]:
    """What happens at fixed moments of a training, beside what every training does."""
    callbacks: list[TrainerCallback] = [HeadSchedule()]
    if patience := recipe.training["early_stopping_patience"]:
        callbacks.append(EarlyStoppingCallback(patience, recipe.training["early_stopping_threshold"]))
    return callbacks


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
