"""Signals that end a run: SIGTERM, as sent to pre-emptible machines and by batch systems, and SIGINT, which is Ctrl-C.
Both save after the step at hand, then stop; a second Ctrl-C stops at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import RunError

logger = logging.getLogger(__name__)

SIGNALS: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Preempted(RunError):
    """The run was asked to end; its checkpoint is saved.

    Attributes:
        exit_code: as a shell gives it for the signal: 143 after SIGTERM, 130 after Ctrl-C.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class SaveOnSignal(TrainerCallback):
    """Turns SIGTERM and Ctrl-C into one more checkpoint and an end of training. To be entered around the training: how
    ever that ends, the handlers are then those from before.

    With several processes any of them may be told first, in different steps: they agree at the end of each step.

    Attributes:
        stopped_at: the step after which training ended early; None if it did not.
        stopped_by: the signal's number; 0 if there was none.
    """

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self.stopped_by = 0
        self._told = 0
        self._process = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SaveOnSignal:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self._previous = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop_if_told(args, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step:  # there is nothing to save before the first
            self._stop_if_told(args, state, control)

    def _stop_if_told(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        if self._previous and (number := self._agreed(args)):
            self.stopped_by, self.stopped_at = number, state.global_step
            control.should_save = control.should_training_stop = True

    def _hear(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a worker that loads data: a terminal tells it as well, and the step at hand needs it still
        if number == signal.SIGINT and self._told == number:
            raise KeyboardInterrupt
        again = "; once more stops at once, without it" if number == signal.SIGINT else ""
        logger.warning("%s: a checkpoint is saved after this step, then the run ends%s.", SIGNALS[number], again)
        self._told = number

    def _agreed(self, args: TrainingArguments) -> int:
        if args.world_size == 1:
            return self._told
        told = torch.tensor(self._told, device=args.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return int(told)
