"""What happens at fixed moments of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data import SegmentationDataset, StreamingSegmentationDataset
from .manifest import Manifest
from .step_log import StepLog
from .weights import OwnWeights


class EpochCallback(TrainerCallback):
    """Tells the training set which epoch begins.

    accelerate's loader passes the epoch to its sampler and only where there is none to the dataset: with several
    processes, or when a run resumes within an epoch, the dataset would never hear of it and draw old crops again.
    """

    def __init__(self, dataset: SegmentationDataset | StreamingSegmentationDataset | None) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if isinstance(self.dataset, SegmentationDataset):
            self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))  # 1.9999… is the second epoch's end

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Of a stream the library knows no epochs; what is logged is how often it has been gone through."""
        if isinstance(self.dataset, StreamingSegmentationDataset):
            state.epoch = float(self.dataset.passes)


class HeadSchedule(TrainerCallback):
    """Tells the head how far training is: EoMT lets its queries off their masks by it.

    A head's schedule depends on the step alone, so a resumed run continues it. A run that ends with its best checkpoint
    ends with that one's progress: predictions are made as they were when it was measured.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["model"].head.set_progress(state.global_step / max(state.max_steps, 1))

    on_step_end = on_train_begin

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loaded = state.best_global_step if args.load_best_model_at_end else None
        kwargs["model"].head.set_progress((loaded or state.global_step) / max(state.max_steps, 1))


class BegunCallback(TrainerCallback):
    """Notes that training runs: from now on its folder is not given to another without being asked, and what it was
    told to do otherwise than before is in force.

    Args:
        begun: called once, with the step that training runs from.
    """

    def __init__(self, manifest: Manifest, begun: Callable[[int], None]) -> None:
        self.manifest = manifest
        self.begun: Callable[[int], None] | None = begun
        self._from = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._from = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.begun is not None:
            self.manifest.begun = True
            self.begun(self._from)
            self.begun = None
            self.manifest.save()


class PickUpCallback(TrainerCallback):
    """Calls a function when all is loaded and the first step is next."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.function()


class EarlyStopping(EarlyStoppingCallback):
    """transformers' early stopping, except that an evaluation without a value of the metric does not count. A class
    that is not predicted yet, or is in no image, must not end a run."""

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        if not math.isnan(metric_value):
            super().check_metric_value(args, state, control, metric_value)


class AverageCallback(TrainerCallback):
    """Takes every step into the running average."""

    def __init__(self, weights: OwnWeights) -> None:
        self.weights = weights

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.weights.average is not None:
            self.weights.average.update(state.global_step)


class ClockCallback(TrainerCallback):
    """Starts the clock of images per second, when the first data is waited for."""

    def __init__(self, step_log: StepLog) -> None:
        self.step_log = step_log

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step_log.start()
