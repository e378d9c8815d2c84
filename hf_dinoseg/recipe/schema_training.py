"""The `training` section: every field of transformers' TrainingArguments, checked before anything is loaded.

The accepted fields and their types are read from the TrainingArguments that is installed, so the section grows with it.
It is never constructed here: its constructor touches devices. What comes out is a plain dict: what the user wrote, over
this package's defaults. Beside the fields of TrainingArguments it has a few of our own (`OWN`), and one schedule more;
`training_arguments` leaves them out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import cache
from inspect import signature
from operator import getitem
from typing import Any, Literal

from pydantic import BaseModel

from ..labels import LabelSpace
from .messages import Finder, SectionError, nearest, show
from .strict import check_values, model_of

_DEFAULTS: dict[str, Any] = {
    # AdamW with weight decay 0.05 is what Mask2Former (arXiv:2112.01527, section 4.1) and EoMT (arXiv:2503.19108)
    # publish, and the polynomial decay of power 0.9 is theirs as well.
    "weight_decay": 0.05,
    "lr_scheduler_type": "polynomial",
    # Mask2Former clips the whole gradient to 0.01. This does not slow training down, because AdamW divides by the
    # gradient's size. It keeps a sudden change of the matching from weighing more than other steps.
    "max_grad_norm": 0.01,
    "per_device_eval_batch_size": 1,  # evaluation is at original resolution, and images differ in size
    "eval_strategy": "steps",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_mean_iou",
    "save_total_limit": 2,  # the best and the newest
    "report_to": "none",
    "seed": 42,
}

ONE_CYCLE = "one_cycle"
WARMUP_ONE_CYCLE = "warmup_one_cycle"
_OWN_SCHEDULES = (ONE_CYCLE, WARMUP_ONE_CYCLE)
_ONE_CYCLE_DEFAULTS = {"div_factor": 25.0, "final_div_factor": 1e4, "anneal_strategy": "cos", "cycle_momentum": True}

#: Fields that TrainingArguments does not have: type, default, meaning.
OWN: dict[str, tuple[Any, Any, str]] = {
    "early_stopping_patience": (
        int | None,
        None,
        "stop after so many evaluations on end that did not better `metric_for_best_model`; null: never",
    ),
    "early_stopping_threshold": (float, 0.0, "by more than this it must be better"),
    "weight_decay_on": (
        Literal["weights", "all_but_norms", "all"],
        "weights",
        "what weight_decay applies to: weights of linear maps and convolutions; those and their biases; everything",
    ),
    "max_time": (
        str | None,
        None,
        "the run ends in order, with a checkpoint to resume from and exit code 124, after this time since it was "
        "started, e.g. 3.5h, 90m or 1d12h; null: never",
    ),
    "stop_within": (
        str | None,
        "60s",
        "after SIGTERM, Ctrl-C, SIGHUP or SIGUSR1 the process is gone within this time, with its step unsaved if need "
        "be; null: however long step and checkpoint take",
    ),
}

_OWNED: dict[str, tuple[Any, str]] = {
    "remove_unused_columns": (False, "the dataset's columns are read by the package's own transforms"),
    "batch_eval_metrics": (True, "metrics are counted image by image; all logits at once would not fit in memory"),
    "eval_do_concat_batches": (False, "label maps keep their original sizes and cannot be put into one tensor"),
    "prediction_loss_only": (False, "the best checkpoint is chosen by a metric, so evaluation predicts"),
    "include_for_metrics": ([], "metrics need label maps and predictions only"),
    "label_names": (["labels"], "the batch calls its label maps `labels`"),
    "label_smoothing_factor": (0.0, "the mask-classification loss has no label smoothing, so it would do nothing"),
}

#: Fields of TrainingArguments, or names that are taken for them, and what is done instead.
NOT_TAKEN = {
    "hub_token": "the recipe travels with the checkpoint, a token must not; run `hf auth login`, or set HF_TOKEN",
    "resume_from_checkpoint": "pass `--resume` on the command line, resume=True in Python",
    "local_rank": "`accelerate launch` sets it",
    "parallelism_config": "it is no plain value; choose it with `accelerate config`",
    "overwrite_output_dir": "pass `--overwrite` on the command line, overwrite=True in Python",
    "bf16_full_eval": "write evaluation.autocast: bfloat16, which predictions with the checkpoint then follow too",
    "fp16_full_eval": "write evaluation.autocast: float16, which predictions with the checkpoint then follow too",
    "warmup_ratio": "write warmup_steps; below 1 it is a share of all steps",
    "batch_size": "write per_device_train_batch_size or per_device_eval_batch_size",
}

#: Of TrainingArguments, what an evaluation heeds: where it runs, how images are read, what is shown meanwhile. All else
#: is about learning, and may ask for what the computer that evaluates does not have. Its precision is
#: `evaluation.autocast`.
_MEASURING = (
    "output_dir",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_multiprocessing_context",
    "use_cpu",
    "seed",
    "ddp_timeout",
    "disable_tqdm",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    *_OWNED,
)

_LOW: dict[str, Any] = {
    **dict.fromkeys(("learning_rate", "num_train_epochs", "logging_steps", "eval_steps", "save_steps"), {"gt": 0}),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), {"ge": 1}),
    **dict.fromkeys(("gradient_accumulation_steps", "save_total_limit", "eval_accumulation_steps"), {"ge": 1}),
    **dict.fromkeys(("dataloader_prefetch_factor", "torch_empty_cache_steps", "ddp_timeout"), {"ge": 1}),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "warmup_steps", "seed", "data_seed", "eval_delay"), {"ge": 0}),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), {"ge": 0, "lt": 1}),
    "adam_epsilon": {"gt": 0},
    "dataloader_num_workers": {"ge": 0},
    "output_dir": {"min_length": 1},
    "early_stopping_patience": {"ge": 1},
    "early_stopping_threshold": {"ge": 0},
}


def check_training(values: Any, find: Finder = lambda key: ()) -> dict[str, Any]:
    """The resolved section: what was given, over the defaults that follow from it.

    Args:
        values: the section as it was read.
        find: looks an unknown key up in the other sections.

    Raises:
        SectionError: with every fault.
    """
    if not isinstance(values, Mapping):
        raise SectionError([f"training: {show(values)} is not accepted; write a mapping of fields."])
    given = dict(values)
    faults = [f"training.{k}: not taken here; {why}." for k, why in NOT_TAKEN.items() if given.get(k) is not None]
    for key, (value, reason) in _OWNED.items():
        if key in given and given[key] != value:
            faults.append(f"training.{key}: {show(given[key])} is not possible; it is {show(value)}, because {reason}.")
    settled = {*NOT_TAKEN, *_OWNED}
    faults += check_values(_training_model(), {k: v for k, v in given.items() if k not in settled}, "training", find)
    if not given.get("output_dir") and not any(f.startswith("training.output_dir:") for f in faults):
        faults.insert(0, "training.output_dir: missing; write the folder that the checkpoint goes to, e.g. out/camvid.")
    if faults:
        raise SectionError(faults)
    resolved = _resolve(given)
    if faults := _contradictions(resolved):
        raise SectionError(faults)
    return resolved


def seconds(duration: str | None) -> float | None:
    """How long a duration of a recipe is.

    Raises:
        ValueError: if it is none.

    Example:
        >>> seconds("3.5h"), seconds("1d12h"), seconds(None)
        (12600.0, 129600.0, None)
    """
    if duration is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text := duration.replace(" ", ""))
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if "".join(f"{number}{unit}" for number, unit in parts) != text or total <= 0:
        raise ValueError(duration)
    return total


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def training_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """What `TrainingArguments` takes of a resolved section. A schedule that it does not know becomes a constant one."""
    values = {k: v for k, v in section.items() if k not in OWN}
    if section["lr_scheduler_type"] in _OWN_SCHEDULES:
        values |= {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": None}
    return values


def evaluation_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """What `TrainingArguments` takes of a resolved section where a checkpoint is only measured."""
    return {k: v for k, v in section.items() if k in _MEASURING} | {"report_to": "none"}


def training_fields() -> list[str]:
    """The names that the section takes."""
    return [name for name in _training_model().model_fields if name not in NOT_TAKEN]


@cache
def _training_model() -> type[BaseModel]:
    from transformers import TrainingArguments  # takes seconds, and torch with it
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.trainer_utils import SchedulerType

    reporter: Any = getitem(Literal, ("none", "all", *sorted(INTEGRATION_TO_CALLBACK)))
    narrowed = {
        "output_dir": str,
        "report_to": reporter | list[reporter] | None,
        # grouping by length is for text: there is no length column here
        "train_sampling_strategy": Literal["random", "sequential"],
        "lr_scheduler_type": getitem(Literal, (*(kind.value for kind in SchedulerType), *_OWN_SCHEDULES)),
        **{name: kind for name, (kind, _, _) in OWN.items()},
    }
    return model_of(TrainingArguments, "training", _LOW, narrowed)


# what other libraries and papers call figures that have another name here
_SYNONYMS = {
    "miou": "mean_iou",
    "macc": "mean_accuracy",
    "aacc": "overall_accuracy",
    "pixel_accuracy": "overall_accuracy",
    "mdice": "mean_dice",
    "f1": "mean_dice",
    "mean_f1": "mean_dice",
    "fwiou": "frequency_weighted_iou",
    "ece": "expected_calibration_error",
}


def best_metric_faults(training: Mapping[str, Any], labels: LabelSpace) -> list[str]:
    """What is wrong with the metric that the best checkpoint is chosen by; `training` is the resolved section."""
    from ..evaluation.summary import KINDS, OVERALL, classes_called, figure_names, find_figure, higher_is_better

    metric, field = training["metric_for_best_model"], "training.metric_for_best_model"
    if find_figure(metric, labels) is None:
        bare = metric.removeprefix("eval_")
        names = figure_names(labels)
        kind = next((kind for kind in KINDS if bare.startswith(f"{kind}_")), "")
        place = bare.removeprefix(f"{kind}_")
        same = classes_called(place, labels) if kind else []
        meant = _SYNONYMS.get(bare.lower()) or (f"mean_{bare.lower()}" if bare.lower() in KINDS else None)
        guess = meant or nearest(bare, names) or nearest(bare.lower(), names)
        if len(same) > 1:
            hint = f" Several classes are called so; write {' or '.join(f'{kind}_{i}' for i in same)}."
        elif kind and place.lstrip("-+").isdigit():
            hint = f" A number is an id, and {place} is none of a class."
        elif bare.endswith("loss"):
            hint = " An evaluation predicts and computes no loss."
        else:
            hint = f" Did you mean {guess}?" if guess else ""
        classes = ", ".join(f"{i} {labels.classes[i]}" for i in labels.original_ids[:8])
        more = f", … ({labels.num_labels})" if labels.num_labels > 8 else ""
        return [
            f"{field}: {show(metric)} is no figure of an evaluation.{hint} There are {', '.join(OVERALL)}; and of one "
            f"class, by its name or id, {', '.join(f'{kind}_…' for kind in KINDS)}. The classes: {classes}{more}."
        ]
    if training["greater_is_better"] != higher_is_better(metric):
        return [
            f"training.greater_is_better: {show(training['greater_is_better'])} contradicts metric_for_best_model "
            f"{metric}, of which the {'higher' if higher_is_better(metric) else 'lower'} is better. Take "
            "greater_is_better out."
        ]
    return []


def _resolve(given: dict[str, Any]) -> dict[str, Any]:
    from ..evaluation.summary import higher_is_better

    for key in ("metric_for_best_model", "greater_is_better"):  # without a value, as if they were not there
        given = {k: v for k, v in given.items() if k != key or v is not None}
    derived = derived_defaults(given)
    values = {**_DEFAULTS, **{k: v for k, (v, _) in _OWNED.items()}, **{k: v for k, (_, v, _) in OWN.items()}}
    values |= {k: derived[k] for k in ("learning_rate", "warmup_steps", "logging_steps")}
    schedule = given.get("lr_scheduler_type", "polynomial")
    if schedule == "polynomial":
        values["lr_scheduler_kwargs"] = {"power": 0.9, "lr_end": 0.0}
    elif schedule == ONE_CYCLE:
        values["lr_scheduler_kwargs"] = dict(_ONE_CYCLE_DEFAULTS)
    if given.get("early_stopping_patience"):
        values["restore_callback_states_from_checkpoint"] = True  # a resumed run goes on counting
    strategy = given.get("eval_strategy", "steps")
    values["load_best_model_at_end"] = strategy != "no"
    values["save_strategy"] = strategy if strategy != "no" else "steps"
    if strategy == "steps":
        values["eval_steps"] = given.get("eval_steps") or given.get("save_steps") or derived["eval_steps"]
    if given.get("save_strategy", values["save_strategy"]) == "steps":
        values["save_steps"] = given.get("eval_steps") or values.get("eval_steps") or derived["eval_steps"]
    values["greater_is_better"] = higher_is_better(given.get("metric_for_best_model", values["metric_for_best_model"]))
    return values | given


def _contradictions(v: dict[str, Any]) -> list[str]:
    """What TrainingArguments would refuse, or do silently otherwise, later."""
    faults = []
    steps = v.get("max_steps")
    if steps is not None and steps != -1 and steps < 1:
        faults.append(
            f"training.max_steps: {steps} is no number of steps; write one above 0. To train by epochs, write "
            "num_train_epochs and take max_steps out (or write -1, which is the same)."
        )
    if v.get("bf16") and v.get("fp16"):
        faults.append("training.bf16, training.fp16: both are true; keep one of them.")
    for name in ("max_time", "stop_within"):
        try:
            seconds(v[name])
        except ValueError:
            faults.append(
                f"training.{name}: {show(v[name])} is no duration; write numbers with s, m, h or d, e.g. 90s, 3.5h or "
                "1d12h."
            )
    for kind in ("logging", "eval", "save"):
        steps = v.get(f"{kind}_steps")
        if v.get(f"{kind}_strategy") == "steps" and steps is not None and steps > 1 and steps != int(steps):
            faults.append(
                f"training.{kind}_steps: {steps} is no number of steps; write a whole number, or a share of all steps "
                "below 1."
            )
    if v["load_best_model_at_end"] and v["save_strategy"] != "best":
        if v["eval_strategy"] != v["save_strategy"]:
            faults.append(
                f"training.save_strategy: {v['save_strategy']} beside eval_strategy {v['eval_strategy']}; the best "
                "checkpoint can only be kept if each evaluation is saved. Write the same for both, or "
                "load_best_model_at_end: false."
            )
        elif v["eval_strategy"] == "steps" and not _divides(v["eval_steps"], v["save_steps"]):
            faults.append(
                f"training.save_steps: {v['save_steps']} is no multiple of eval_steps {v['eval_steps']}; the best "
                "checkpoint can only be kept if it is saved at an evaluation. Write a multiple, or "
                "load_best_model_at_end: false."
            )
    if v["lr_scheduler_type"] == ONE_CYCLE:
        faults += _one_cycle_faults(v["lr_scheduler_kwargs"] or {})
    if v["lr_scheduler_type"] == WARMUP_ONE_CYCLE and v.get("lr_scheduler_kwargs"):
        faults.append(
            f"training.lr_scheduler_kwargs: {show(v['lr_scheduler_kwargs'])} is not taken by {WARMUP_ONE_CYCLE}, which "
            "has a learning_rate and warmup_steps only; take it out."
        )
    if v["early_stopping_patience"] and v["eval_strategy"] == "no":
        faults.append(
            "training.early_stopping_patience: counts evaluations, but eval_strategy is no. Write eval_strategy: "
            "steps, or take it out."
        )
    if v["lr_scheduler_type"] in ("reduce_lr_on_plateau", "greedy") and v["eval_strategy"] == "no":
        faults.append(f"training.lr_scheduler_type: {v['lr_scheduler_type']} needs a metric, but eval_strategy is no.")
    if v.get("dataloader_prefetch_factor") and not v.get("dataloader_num_workers"):
        faults.append("training.dataloader_prefetch_factor: needs workers; write dataloader_num_workers: 2 or more.")
    if v.get("dataloader_persistent_workers") and not v.get("dataloader_num_workers"):
        faults.append("training.dataloader_persistent_workers: needs workers; write dataloader_num_workers: 2 or more.")
    return faults


def _one_cycle_faults(options: Mapping[str, Any]) -> list[str]:
    from torch.optim.lr_scheduler import OneCycleLR

    settled = ("self", "optimizer", "max_lr", "total_steps", "epochs", "steps_per_epoch", "pct_start", "last_epoch")
    known = [name for name in signature(OneCycleLR.__init__).parameters if name not in settled]
    return [
        f"training.lr_scheduler_kwargs.{name}: unknown with one_cycle; it takes {', '.join(known)}. The peak is "
        "training.learning_rate, reached after training.warmup_steps."
        for name in options
        if name not in known
    ]


def _divides(small: float, large: float) -> bool:
    if (small < 1) != (large < 1):
        return False
    return abs(large / small - round(large / small)) < 1e-9


_LEARNING_RATE, _BATCH = 1e-4, 16  # as Mask2Former (arXiv:2112.01527) and EoMT (arXiv:2503.19108) publish
_SMALLEST, _LARGEST = 4, 64  # batches that the rule is followed to
_LONGEST_WARMUP = 1500  # of the published DINOv3 schedules
_RAREST_EVALUATION = 5000

#: What docs/recipe.md says of each.
RULES = {
    "learning_rate": "1e-4 at 16 images a step, times √(images / 16) between 4 and 64 images, in two digits: the rate "
    "that Mask2Former and EoMT publish, and the square-root rule for Adam (arXiv:2205.10287). Images a step are "
    "per_device_train_batch_size × gradient_accumulation_steps × processes.",
    "warmup_steps": "a twentieth of max_steps, at most 1500 as in the DINOv3 schedules; with one_cycle three tenths, "
    "torch's own. Without max_steps: 0.05 and 0.3, which are shares of all steps.",
    "eval_steps": "a tenth of max_steps, at most 5000; what save_steps says, where only that is written. Without "
    "max_steps: 0.1, a share of all steps.",
    "save_steps": "eval_steps: each evaluation is saved, or the best could not be kept.",
    "logging_steps": "a twentieth of max_steps, at most 50; 50 without max_steps.",
}


def derived_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for fields that `given`, a training section, does not have to have; see `RULES`.

    Example:
        >>> derived_defaults({"max_steps": 20000, "per_device_train_batch_size": 4})
        {'learning_rate': 5e-05, 'warmup_steps': 1000, 'eval_steps': 2000, 'logging_steps': 50}
    """
    steps = given.get("max_steps") or -1
    rising = 0.3 if given.get("lr_scheduler_type") == "one_cycle" else 0.05
    values: dict[str, Any] = {"learning_rate": _learning_rate(images_a_step(given))}
    if steps < 1:
        return values | {"warmup_steps": rising, "eval_steps": 0.1, "logging_steps": 50}
    warmup = math.ceil(rising * steps)
    return values | {
        "warmup_steps": warmup if rising == 0.3 else min(warmup, _LONGEST_WARMUP),
        "eval_steps": min(max(steps // 10, 1), _RAREST_EVALUATION),
        "logging_steps": min(max(steps // 20, 1), 50),
    }


def images_a_step(given: Mapping[str, Any]) -> int:
    """Images of one optimiser step, over all processes: as many as the launcher (`accelerate launch`, `torchrun`) says,
    by the variable that both set."""
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    batch: int = given.get("per_device_train_batch_size") or 8
    return batch * (given.get("gradient_accumulation_steps") or 1) * processes


def _learning_rate(images: int) -> float:
    rate = _LEARNING_RATE * math.sqrt(min(max(images, _SMALLEST), _LARGEST) / _BATCH)
    return float(f"{rate:.1e}")
