"""From a recipe to objects: the only place that unpacks a recipe."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate.utils import parse_flag_from_env
from datasets import Dataset, DatasetDict, IterableDataset, concatenate_datasets
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import is_torch_bf16_available_on_device, is_torch_xla_available

from .checkpoint import checkpoint_json, model_errors
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
    fingerprint,
    first_rows,
    kind_of,
    load_memory,
    load_memory_validation,
    load_source,
    open_stream,
    prepare_targets,
)
from .errors import RunError
from .hub import init_from
from .hub.convert import init_head_from
from .hub.init_from import start_from
from .hub.push_callback import PushCallback
from .inference import Background
from .inference.test_time_augmentation import stored_size
from .losses import LOSSES, Loss, balanced_class_weights
from .models import DinoSegConfig, DinoSegForSemanticSegmentation, DinoSegImageProcessor, head_class
from .recipe import ONE_CYCLE, WARMUP_ONE_CYCLE, Recipe, evaluation_arguments, seconds, training_arguments
from .training import DinoSegTrainer, apply_tuning
from .training.callbacks import EarlyStopping
from .training.signals import Stopper
from .visualize import with_palette

logger = logging.getLogger(__name__)

_MUCH_MEMORY = 1 << 30  # below it, no computer is asked how much it has
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


def build_source(recipe: Recipe, head: int = 64, dataset: Any = None) -> DatasetDict:
    """`train` and `validation` as files: columns `id`, `image`, `mask`; nothing is read yet.

    Args:
        head: of a stored dataset that is streamed, `train` is so many of its first rows: enough to be looked at.
        dataset: of the source `memory`, the object; see `data.load_memory`.
    """
    if dataset is not None:
        return load_memory(dataset, **_memory_fields(recipe))
    if is_stored_stream(recipe):
        train, validation = _open_stream(recipe)
        logger.info("data.streaming: of the training data, the first %d samples are looked at beforehand", head)
        return DatasetDict(train=first_rows(train, head), validation=validation)
    return load_source(labels=recipe.labels, **recipe.data.source_fields())


def build_validation(recipe: Recipe, dataset: Any = None, everything: bool = False) -> DatasetDict:
    """The split that a checkpoint is measured on, alone.

    Args:
        dataset: as of `build_source`; without splits, all of it.
        everything: if the recipe holds a share of the images out, take all of them.
    """
    if dataset is not None:
        fields = _memory_fields(recipe)
        fields.pop("train")
        if not isinstance(fields["validation"], str):
            fields["validation"] = None
        return load_memory_validation(dataset, **fields)
    source = build_source(recipe)
    if everything and isinstance(getattr(recipe.data, "validation", None), float):
        return DatasetDict(validation=concatenate_datasets([source["train"], source["validation"]]))
    return DatasetDict(validation=source["validation"])


def _memory_fields(recipe: Recipe) -> dict[str, Any]:
    fields = recipe.data.source_fields()
    return {name: fields[name] for name in fields if name not in ("source", "kind", "fingerprint")}


def remember_source(recipe: Recipe, dataset: Any, source: DatasetDict) -> Recipe:
    """The recipe of a run on a dataset in memory. No file holds such a dataset, so the recipe notes its kind and
    fingerprint.

    Args:
        dataset: the object.
        source: what `build_source` made of it.
    """
    marks = [fingerprint(source[split], missing_may_be=True) for split in sorted(source)]
    told = {"kind": kind_of(dataset), "fingerprint": "-".join(marks)}
    return replace(recipe, data=recipe.data.model_copy(update=told))


def input_places(recipe: Recipe) -> dict[str, Path]:
    """Files and folders that the recipe reads data from, by the field that names each; a name on the Hub is none."""
    entries = getattr(recipe.data, "sources", None)
    if entries is None:
        return _places("data", recipe.data)
    found = [_places(f"data.sources[{number}]", entry) for number, entry in enumerate(entries)]
    return {field: place for places in found for field, place in places.items()}


def _places(prefix: str, source: Any) -> dict[str, Path]:
    root = getattr(source, "root", None)
    base = Path(root or ".").expanduser()
    places = {f"{prefix}.root": base} if root else {}
    if source.source == "hub" and (local := Path(source.repo_id).expanduser()).is_dir():
        places[f"{prefix}.repo_id"] = local
    splits = [
        name for name in (getattr(source, "train", None), getattr(source, "validation", None)) if isinstance(name, str)
    ]
    if source.source == "table":
        for name in splits or [""]:
            places[f"{prefix}.file ({name})"] = Path(source.file.replace("{split}", name)).expanduser()
    if source.source == "folder":
        for field in ("image", "mask"):
            for name in splits or [""]:
                named = base / getattr(source, field).replace("{split}", name)
                parts = named.parts
                fixed = [place for place, part in enumerate(parts) if "{stem}" in part or "*" in part]
                places[f"{prefix}.{field} ({name})"] = Path(*parts[: fixed[0]]) if fixed else named
        if "{split}" not in source.image:
            places |= {f"{prefix}.split file ({name})": base / name for name in splits}
    return places


def input_folders(source: DatasetDict) -> dict[str, Path]:
    """Folders with the images and masks of a loaded source, by what errors call them."""
    folders: dict[str, Path] = {}
    for name, split in source.items():
        for column in ("image", "mask"):
            cells = split.data.column(column)  # the whole table, not a row at a time; bytes stay where they are
            empty = pc.is_null(pc.struct_field(cells, "bytes"))
            paths = pc.struct_field(cells, "path").filter(empty)
            for folder in {os.path.dirname(path) for path in paths.to_pylist() if path and "://" not in path}:
                folders[f"the {column}s of {name} in {folder}"] = Path(folder)
    return folders


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
    """Backbone with its pretrained weights (or random ones, from a config) and a new head; or both of a checkpoint."""
    start, kind = recipe.model.init_from, check_start(recipe)
    if start and kind == DinoSegConfig.model_type:
        model = _new_model(recipe, backbone=checkpoint_json(start, "config.json")["backbone_config"])
        start_from(model, start)
    else:
        model = _new_model(recipe)
    if recipe.training.get("gradient_checkpointing") and not any(
        hasattr(module, "gradient_checkpointing") for module in model.modules()
    ):
        raise RunError(
            f"training.gradient_checkpointing: neither transformers' {type(model.backbone.model).__name__} nor head "
            f"{recipe.model.head} can; take it out, and use training.gradient_accumulation_steps."
        )
    if start and kind != DinoSegConfig.model_type:
        init_head_from(model, start)
    tune = recipe.model
    apply_tuning(model, tune.tune, last_blocks=tune.tune_blocks, lora_rank=tune.lora_rank)
    return model


def check_start(recipe: Recipe) -> str | None:
    """Whether training can begin from `model.init_from`; of what kind that is, None if there is none.

    Raises:
        ModelError: if it cannot.
    """
    model = recipe.model
    return init_from.check_start(model.init_from, model.head, model.backbone) if model.init_from else None


def check_sizes(recipe: Recipe) -> None:
    """Make the model of a recipe with a backbone from scratch without any memory for its weights, and show its backbone
    a crop: sizes that do not fit one another are known before data is read.

    Raises:
        RunError: with what torch says of them.
    """
    if isinstance(recipe.model.backbone, str):
        return  # sizes of published weights fit, and the head's are checked with the recipe
    size = recipe.data.crop_size
    try:
        with torch.device("meta"):
            model: Any = _new_model(recipe)
            type(model.backbone)(model.config)(torch.zeros(1, 3, size, size))  # a head may have taken its own apart
    except Exception as error:  # whatever transformers and torch raise of sizes: there is no class for it
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise RunError(
            f"model: of the sizes in this section, those of model.backbone among them, no model can be made: {reason} "
            "Compare them with a recipe in recipes/; the sizes of a published model fit."
        ) from error


def check_memory(recipe: Recipe) -> None:
    """That the crops of one batch fit the memory, whatever the model takes beside them.

    Raises:
        RunError: if they cannot.
    """
    size, batch = recipe.data.crop_size, recipe.training.get("per_device_train_batch_size") or 8
    pixels = batch * size * size
    on_device = torch.cuda.is_available() and not recipe.training.get("use_cpu")
    # Bytes of a pixel: 4 of colours and label in the batch that workers send, 12 of the normalised image.
    needed: dict[str, tuple[int, Callable[[], float]]] = {"this computer": (4 if on_device else 16, _host_memory)}
    if on_device:
        needed["the GPU"] = (12, lambda: torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    for where, (each, memory) in needed.items():
        if pixels * each >= _MUCH_MEMORY and pixels * each > (there := memory()):
            raise RunError(
                f"data.crop_size: {batch} crops of {size} × {size} pixels, one batch, take {pixels * each / 2**30:.0f} "
                f"GiB, and {where} has {there / 2**30:.0f} GiB. Write a crop_size of about the shorter side of the "
                "images, 512 if in doubt."
            )


def _host_memory() -> float:
    if not hasattr(os, "sysconf"):
        return float("inf")  # it is not known
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@model_errors()
def _new_model(recipe: Recipe, backbone: Mapping[str, Any] | None = None) -> DinoSegForSemanticSegmentation:
    fields = recipe.model.model_dump(exclude={"backbone", "num_labels", "init_from", *_LEARNING, *_STATISTICS})
    if recipe.model.backbone_dtype == "float32":
        fields["backbone_dtype"] = None  # the model's, so that a checkpoint can be loaded in any
    return DinoSegForSemanticSegmentation.from_backbone(
        recipe.model.backbone if backbone is None else backbone,
        label_space=recipe.labels.to_dict(),
        id2label=recipe.labels.id2label,
        label2id=recipe.labels.label2id,
        inference=build_inference(recipe),
        freeze_backbone=recipe.model.tune == "head",
        background_threshold=recipe.evaluation.background_threshold,
        palette=recipe.evaluation.palette,
        **fields,
    )


def build_inference(recipe: Recipe) -> dict[str, Any]:
    """How images are predicted, in evaluation and, stored in the checkpoint's config, by `Segmenter`."""
    evaluation = recipe.evaluation
    return {
        "mode": evaluation.mode,
        "window": evaluation.window,
        "stride": evaluation.stride,
        "batch_size": evaluation.batch_size,
        "blend": evaluation.blend,
        "even_windows": evaluation.even_windows,
        "join": evaluation.join,
        "tta": _tta(recipe),
        "autocast": evaluation.autocast,
    }


def _tta(recipe: Recipe) -> dict[str, Any]:
    tta = recipe.evaluation.tta
    chosen: dict[str, Any] = {"scales": tta.scales, "flip": tta.flip}
    if not tta.from_file:
        return chosen
    return chosen | {"shortest_edge": recipe.evaluation.shortest_edge, "multiple": tta.multiple}


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
        base_size=data.base_size,
        base_side=data.base_side,
        scale_steps=data.scale_steps,
        hue=data.hue,
        padding=data.padding,
        pad_after=data.padding_place == "corner",
    )


def build_eval_dataset(
    recipe: Recipe, split: Dataset, processor: DinoSegImageProcessor, num_skipped: int = 0
) -> EvalDataset:
    data = recipe.data
    options = stored_size(build_inference(recipe)["tta"])
    return EvalDataset(split, processor, recipe.labels, data.max_pixels, data.on_bad_sample, num_skipped, options)


def build_training_arguments(recipe: Recipe, **fields: Any) -> TrainingArguments:
    """The recipe's TrainingArguments; `fields` override them.

    Raises:
        RunError: if this computer does not have what they ask for.
    """
    values = {**training_arguments(recipe.training), **fields}
    found = torch.accelerator.is_available() or is_torch_xla_available()
    on_processor = values.get("use_cpu") or parse_flag_from_env("ACCELERATE_USE_CPU") or not found
    if values.get("bf16") and on_processor:
        if not is_torch_bf16_available_on_device("cpu"):
            raise RunError(
                "training.bf16: there is no accelerator to train on, and the processor cannot compute in bfloat16. "
                "Write training.bf16=false."
            )
        values["use_cpu"] = True  # TrainingArguments takes bf16 without an accelerator only if it is told so
    if values.get("fp16") and on_processor:
        raise RunError(
            "training.fp16: needs an accelerator, and there is none to train on. Write training.fp16=false; processors "
            "compute in bfloat16 if anything: training.bf16=true."
        )
    # `build_pushes` pushes: the Trainer would send a pickled file, and a config whose code is not there yet
    return _arguments({**values, "push_to_hub": False})


def build_evaluation_arguments(recipe: Recipe, output_dir: str) -> TrainingArguments:
    """TrainingArguments for measuring a checkpoint: what the recipe says of learning stays out of it.

    Raises:
        RunError: if this computer does not have what is left of them.
    """
    return _arguments({**evaluation_arguments(recipe.training), "output_dir": output_dir})


def _arguments(values: dict[str, Any]) -> TrainingArguments:
    # pinned memory only helps copies to an accelerator, and torch warns at each loader where there is none
    values["dataloader_pin_memory"] = values.get("dataloader_pin_memory", True) and torch.accelerator.is_available()
    before = dict(os.environ)
    try:
        return TrainingArguments(**values)
    except Exception as error:  # of whatever kind: it asks libraries and hardware that this package does not know
        # what a failure leaves half done would be in force for all that comes after in this process
        unset_hf_deepspeed_config()
        os.environ.clear()
        os.environ.update(before)
        reason = " ".join(str(error).split()) or type(error).__name__
        named = [f"training.{key}" for key in values if re.search(rf"\b{key}\b", reason)]
        raise RunError(
            f"{', '.join(named) or 'training'}: transformers' TrainingArguments does not take it here: "
            f"{reason.rstrip('.')}. Take it out of the recipe, or write what this computer has."
        ) from error


def build_rates(recipe: Recipe) -> dict[str, Any]:
    """How fast which part learns when: arguments of `DinoSegTrainer`."""
    model, training = recipe.model, recipe.training
    one_cycle = training["lr_scheduler_type"] == ONE_CYCLE
    return {
        "backbone_learning_rate_multiplier": model.backbone_learning_rate_multiplier,
        "layer_decay": model.layer_decay if model.tune == "llrd" else 1.0,
        "backbone_warmup_steps": model.backbone_warmup_steps,
        "one_cycle": training["lr_scheduler_kwargs"] or {} if one_cycle else None,
        "warmup_one_cycle": training["lr_scheduler_type"] == WARMUP_ONE_CYCLE,
        "weight_decay_on": training["weight_decay_on"],
    }


def build_callbacks(recipe: Recipe) -> list[TrainerCallback]:
    """What happens at fixed moments of a training, beside what every training does."""
    callbacks: list[TrainerCallback] = []
    if patience := recipe.training["early_stopping_patience"]:
        callbacks.append(EarlyStopping(patience, recipe.training["early_stopping_threshold"]))
    return callbacks


def build_stopper(recipe: Recipe, started: float) -> Stopper:
    """What ends the training before its last step.

    Args:
        started: of `time.monotonic`, when the run began.
    """
    limit = seconds(recipe.training["max_time"])
    return Stopper(seconds(recipe.training["stop_within"]), None if limit is None else started + limit)


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


def build_trainer(
    recipe: Recipe,
    model: DinoSegForSemanticSegmentation,
    processor: DinoSegImageProcessor,
    args: TrainingArguments,
    eval_dataset: EvalDataset,
    **training: Any,
) -> DinoSegTrainer:
    """The Trainer that trains and evaluates by a recipe.

    Args:
        training: what only a training has: `train_dataset`, `criterion`, `ema_decay`, `callbacks`, rates. Without them
            it evaluates only.
    """
    evaluation = recipe.evaluation
    return DinoSegTrainer(
        model,
        args,
        label_space=with_palette(recipe.labels, evaluation.palette),
        inference=build_inference(recipe),
        background=build_background(recipe, None if training else model.config.background_threshold),
        processing_class=processor,
        eval_dataset=eval_dataset,
        beta=evaluation.beta,
        boundary_iou=evaluation.boundary_iou,
        panels=evaluation.panels,
        **training,
    )
