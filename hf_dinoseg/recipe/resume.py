"""What may be otherwise when a run goes on: each setting changes, and has its effect from then on, or is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .messages import show

#: Of TrainingArguments, and of `OWN`: what learning rates and the optimiser's constants follow from.
RATES = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "num_train_epochs"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
)
_TRAINING = (
    *RATES,
    # a step, and how it is computed
    *("max_grad_norm", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16", "tf32"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend"),
    *("torch_compile_mode", "torch_empty_cache_steps", "use_cpu"),
    # when to log, evaluate, save and stop
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "report_to", "run_name"),
    *("project", "trackio_space_id", "disable_tqdm", "log_level", "log_level_replica"),
    *("log_on_each_node", "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size"),
    *("eval_accumulation_steps", "save_strategy", "save_steps", "save_total_limit", "save_on_each_node"),
    *("load_best_model_at_end", "max_time", "stop_within"),
    # how images are read, and how processes talk
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "dataloader_drop_last"),
    *("dataloader_persistent_workers", "dataloader_multiprocessing_context", "ddp_backend", "ddp_timeout"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "skip_memory_metrics"),
    # where it is published
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_revision", "hub_always_push"),
)

#: {section: fields that may change}; all others are refused.
MAY_CHANGE: dict[str, tuple[str, ...]] = {
    "labels": ("colors",),
    # what the data is, is compared by itself: see `training.fingerprint`
    "data": ("root", "file", "num_proc", "max_pixels", "on_bad_sample", "kind", "fingerprint"),
    "model": (),
    "loss": (
        *("per_class_weights", "pixel_ce_weight", "pixel_dice_weight", "num_points", "oversample_ratio"),
        *("importance_sample_ratio", "class_weight", "mask_weight", "dice_weight", "no_object_weight"),
        "void_query_threshold",
    ),
    "training": _TRAINING,
    "evaluation": ("batch_size", "boundary_iou", "panels", "palette"),
    "hub": ("repo_id", "license", "private"),
}
_BY_METRIC = ("reduce_lr_on_plateau", "greedy")
_BY_SCHEDULE = {f"training.{name}" for name in RATES if name not in ("max_steps", "num_train_epochs")}
_WHY = {
    "labels": "the classes are what the run learns",
    "data": "it decides what the run draws",
    "model": "it is what the checkpoint holds",
    "evaluation": "figures of one run would be measured in two ways",
    "training.seed": "what is drawn would follow from neither of the two",
    "training.optim": "the checkpoint holds the state of the other",
    "training.metric_for_best_model": "the best checkpoint so far was chosen by the other",
}


class Change(NamedTuple):
    """A setting that is not what it was.

    Attributes:
        field: dotted.
        old, new: its values, as plain data.
    """

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field} {show(self.new)} (was {show(self.old)})"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What differs between two resolved recipes (`Recipe.to_dict`), apart from the output folder.

    A field of TrainingArguments that one of them does not have counts as its default.
    """
    return list(_changes(json.loads(json.dumps(old)), json.loads(json.dumps(new))))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for section in MAY_CHANGE:
        then, now = old.get(section, {}), new.get(section, {})
        defaults = _defaults() if section == "training" else {}
        for key in dict.fromkeys([*then, *now]):
            a, b = then.get(key, defaults.get(key)), now.get(key, defaults.get(key))
            if a != b and (section, key) != ("training", "output_dir"):
                yield Change(f"{section}.{key}", a, b)


def refusals(found: list[Change], schedule: str) -> list[str]:
    """Of these changes, those that a run cannot go on with: one sentence each.

    Args:
        schedule: `training.lr_scheduler_type` that the run has.
    """
    said = []
    for change in found:
        section, _, key = change.field.partition(".")
        if key not in MAY_CHANGE[section]:
            why = _WHY.get(change.field) or _WHY.get(section) or "it cannot change within a run"
        elif change.field in _BY_SCHEDULE and (schedule in _BY_METRIC or change.new in _BY_METRIC):
            why = f"with {schedule if schedule in _BY_METRIC else change.new} rates follow from the evaluations so far"
        else:
            continue
        said.append(f"{change.field}: the run has {show(change.old)}, the recipe now says {show(change.new)}; {why}.")
    return said


def new_rates(found: list[Change]) -> bool:
    """Whether learning rates, their schedule or constants of the optimiser are among the changes."""
    return any(change.field in {f"training.{name}" for name in RATES} for change in found)


def _defaults() -> dict[str, Any]:
    """Of the fields of TrainingArguments, as plain data."""
    from transformers import TrainingArguments  # takes seconds

    values = {}
    for entry in dataclasses.fields(TrainingArguments):
        made = entry.default_factory() if entry.default_factory is not dataclasses.MISSING else entry.default
        values[entry.name] = json.loads(json.dumps(getattr(made, "value", made), default=lambda value: None))
    return values
