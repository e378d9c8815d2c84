"""When a run that gets no better ends."""

from __future__ import annotations

import math

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments


class EarlyStopping(EarlyStoppingCallback):
    """transformers', which would take an evaluation in which the metric has no value for one that bettered nothing: a
    class that is not predicted yet, or is in none of the images, must not end a run."""

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        if not math.isnan(metric_value):
            super().check_metric_value(args, state, control, metric_value)
