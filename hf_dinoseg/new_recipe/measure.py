"""How long a training will take, and how much memory: a few real steps, before it is begun."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import DatasetDict
from transformers import TrainerCallback, set_seed

from .. import builders
from ..recipe import Recipe
from ..testing.dry_run import in_silence

_STEPS = 5  # of which the first, which is slower, does not count
_IMAGES = 16


@dataclass(frozen=True)
class Cost:
    """What was measured, and what follows from it.

    Attributes:
        step: seconds of a training step, median.
        image: seconds to predict and measure one validation image.
        total: seconds of the whole run: all steps and all evaluations.
        memory: GiB: the most that torch held on an accelerator, or this process on a computer without one.
        where: `GPU` or `computer`.
    """

    step: float
    image: float
    total: float
    memory: float
    where: str

    def text(self) -> str:
        return (
            f"{_duration(self.step)} a step and {_duration(self.image)} a validation image, measured here: about "
            f"{_duration(self.total)} in all, and {self.memory:.1f} GiB of memory of this {self.where}"
        )


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self._began)


def measure(recipe: Recipe) -> Cost:
    """Train a few steps by a recipe and predict one image; nothing is left on disk.

    Raises:
        What `run.train` raises.
    """
    clock = _Clock()
    with TemporaryDirectory() as scratch, in_silence():
        short = {
            "output_dir": str(Path(scratch) / "run"),
            "max_steps": _STEPS,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "report_to": [],
            "push_to_hub": False,
            "disable_tqdm": True,
            "warmup_steps": 0,
        }
        args = builders.build_training_arguments(recipe, **short)
        set_seed(args.seed)
        source = builders.build_source(recipe)
        counts = {name: len(split) for name, split in source.items()}
        few = DatasetDict({name: builders.evenly(split, _IMAGES) for name, split in source.items()})
        data = builders.build_data(recipe, few)
        processor = builders.build_processor(recipe)
        evaluated = builders.build_eval_dataset(recipe, data["validation"], processor)
        trainer = builders.build_trainer(
            recipe,
            builders.build_model(recipe),
            processor,
            args,
            evaluated,
            train_dataset=builders.build_train_dataset(recipe, data["train"]),
            criterion=builders.build_criterion(recipe, data["train"]),
            callbacks=[*builders.build_callbacks(recipe), clock],
            **builders.build_rates(recipe),
        )
        trainer.train()
        trainer.predict_one(evaluated, 0)
        began = time.perf_counter()
        trainer.predict_one(evaluated, len(evaluated) - 1)
        image = time.perf_counter() - began
        memory, where = _memory(args.device)
    step = median(clock.steps[1:])
    steps = recipe.training["max_steps"]
    evaluations = 1 + (steps // recipe.training["eval_steps"] if recipe.training["eval_strategy"] == "steps" else 0)
    measured = min(recipe.evaluation.max_samples or counts["validation"], counts["validation"])
    return Cost(step, image, steps * step + evaluations * measured * image, memory, where)


def _memory(device: torch.device) -> tuple[float, str]:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30, "GPU"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, "computer"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
