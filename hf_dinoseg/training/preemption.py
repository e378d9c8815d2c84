"""SIGTERM, as sent to pre-emptible machines and by batch systems: save after the step at hand, then stop."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import RunError

logger = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(RunError):
    """The run was asked to end; its checkpoint is saved."""

    exit_code = EXIT_CODE


class SaveOnSigterm(TrainerCallback):
    """Turns SIGTERM into one more checkpoint and an end of training.

    With several processes any of them may be told first, in different steps: they agree at the end of each step.

    Attributes:
        stopped_at: the step after which training ended early; None if it did not.
    """

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self._told = False
        self._previous: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self._previous = signal.signal(signal.SIGTERM, self._hear)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._agreed(args):
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _hear(self, number: int, frame: Any) -> None:
        logger.warning("SIGTERM: a checkpoint is saved after this step, then the run ends.")
        self._told = True

    def _agreed(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self._told
        told = torch.tensor(float(self._told), device=args.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told)
