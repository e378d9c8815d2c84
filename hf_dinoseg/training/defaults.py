"""What a Trainer needs beside a model, where it is not given: found in the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

from ..data import (
    EvalDataset,
    SegmentationDataset,
    StreamingSegmentationDataset,
    TrainTransform,
    holds_images,
    load_memory_rows,
    prepare_targets,
)
from ..data.plain import TensorItems
from ..errors import ModelError, RunError
from ..labels import LabelSpace
from ..models import DinoSegImageProcessor

logger = logging.getLogger(__name__)


def settle_arguments(args: TrainingArguments) -> None:
    """Set what evaluation here depends on: it is counted batch by batch, and measures no loss.

    Raises:
        RunError: on label smoothing, which these losses do not have.
    """
    if args.label_smoothing_factor:
        raise RunError(
            f"label_smoothing_factor: found {args.label_smoothing_factor}, wanted 0: the losses of this package smooth "
            "no labels."
        )
    args.batch_eval_metrics, args.remove_unused_columns = True, False
    args.eval_do_concat_batches, args.prediction_loss_only = False, False
    if args.metric_for_best_model in ("loss", "eval_loss"):
        logger.info("The best checkpoint is chosen by mean_iou; the evaluation of DinoSegTrainer measures no loss.")
        args.metric_for_best_model, args.greater_is_better = "mean_iou", True


def find_label_space(config: Any, given: LabelSpace | Mapping[str, Any] | None) -> LabelSpace:
    """The label space that was given, or the one of a configuration, or one of the configuration's `id2label`, whose
    original ids are the train ids. A configuration without one keeps it from now on.

    Raises:
        ModelError: if the one that was given has other classes than the model.
    """
    stored = LabelSpace.from_dict(config.label_space) if config.label_space else None
    space = LabelSpace.from_dict(given) if isinstance(given, Mapping) else given
    space = space or stored or LabelSpace({int(train_id): name for train_id, name in config.id2label.items()})
    if space.num_labels != config.num_labels or stored is not None and stored.original_ids != space.original_ids:
        ids = stored.original_ids if stored is not None else range(config.num_labels)
        names = ", ".join(f"{i} {name}" for i, name in zip(ids, config.id2label.values(), strict=True))
        raise ModelError(
            f"label_space: found {space.num_labels} classes, "
            f"{_short(', '.join(f'{i} {space.classes[i]}' for i in space.original_ids))}, wanted those of the model, "
            f"{config.num_labels}: {_short(names)}. Load the model with label_space=… and ignore_mismatched_sizes=True "
            "to teach it other classes."
        )
    if stored is None:
        if config.ignore_index != space.ignore_index:
            raise ModelError(
                f"ignore_index: found {config.ignore_index} in the model's configuration, wanted {space.ignore_index}, "
                f"as label spaces of {space.num_labels} classes have it. Make the model with label_space=…."
            )
        config.label_space = space.to_dict()
        config.id2label, config.label2id = space.id2label, space.label2id
    return space


def find_processor(config: Any, label_space: LabelSpace) -> DinoSegImageProcessor:
    """The image processor that lies beside the model's weights, or one with the usual statistics."""
    try:
        if not config.name_or_path:
            raise OSError
        processor = DinoSegImageProcessor.from_pretrained(config.name_or_path)
    except OSError:
        processor = DinoSegImageProcessor()
    processor.label_space = label_space.to_dict()
    return processor


def as_items(
    dataset: Any,
    name: str,
    label_space: LabelSpace,
    processor: Any,
    args: TrainingArguments,
    crop_size: int | None = None,
) -> Any:
    """A dataset that this package's loaders read: those of `data` as they are, images and masks prepared as training by
    a recipe does, tensors as `data.plain.TensorItems`.

    Args:
        processor: makes `pixel_values` of images that are evaluated.
        crop_size: of images that are trained on; None for an evaluation, which sees them whole.
    """
    if dataset is None or isinstance(dataset, (EvalDataset, SegmentationDataset, StreamingSegmentationDataset)):
        return dataset
    evaluation = crop_size is None
    if holds_images(dataset):
        with args.main_process_first(desc="reading masks"):
            prepared = prepare_targets(load_memory_rows(dataset, name), label_space)
        if crop_size is None:
            return EvalDataset(prepared, processor, label_space)
        transform = TrainTransform(crop_size, ignore_index=label_space.ignore_index)
        return SegmentationDataset(prepared, transform, args.seed)
    return TensorItems(dataset, name, label_space.num_labels, label_space.ignore_index, same_size=not evaluation)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100].rpartition(',')[0]}, …"
