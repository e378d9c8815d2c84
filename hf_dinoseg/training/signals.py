"""What ends a run before its last step, in order: signals, the time limit `training.max_time`, and the death of the
launcher.

SIGTERM is what pre-emptible machines, batch systems and service managers send, SIGINT is Ctrl-C, SIGHUP comes when a
terminal closes, SIGUSR1 is what batch systems send ahead of time when they are asked to. All of them save after the
step at hand, then stop; a second Ctrl-C stops at once.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import multiprocessing.context
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import RunError

logger = logging.getLogger(__name__)

_NAMES = {"SIGTERM": "SIGTERM", "SIGINT": "Ctrl-C", "SIGHUP": "SIGHUP", "SIGUSR1": "SIGUSR1"}
#: By number, as far as the operating system has them.
SIGNALS: dict[int, str] = {getattr(signal, name): said for name, said in _NAMES.items() if hasattr(signal, name)}
# In the place of a signal's number; above all of them.
TIME_IS_UP, LAUNCHER_IS_DEAD = 1001, 1002
_REASONS = {**SIGNALS, TIME_IS_UP: "training.max_time", LAUNCHER_IS_DEAD: "the death of its launcher"}
_EXIT_CODES = {TIME_IS_UP: 124, LAUNCHER_IS_DEAD: 128 + signal.SIGTERM}  # 124 is what `timeout` gives
_LAUNCHED = ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")  # torchrun sets the one, `accelerate launch` the other


class Preempted(RunError):
    """The run was asked to end; its checkpoint is saved.

    Attributes:
        exit_code: as a shell gives it for the signal: 143 after SIGTERM, 130 after Ctrl-C, 129 after SIGHUP, 138 after
            SIGUSR1; 124 when the time was up.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = exit_code(number)


class StopRequested(Exception):
    """Within an evaluation: it is to be left. Never seen outside the trainer."""


def exit_code(number: int) -> int:
    """That of a run that this signal, or other reason, ended."""
    return _EXIT_CODES.get(number, 128 + number)


def shield_workers(loader: DataLoader[Any]) -> None:
    """Make the processes that load data ignore signals: what is sent to the whole group, or to everything of a service,
    is for the run. The step at hand needs its workers still; they end when the run tells them, or dies.

    Args:
        loader: changed in place.
    """
    first: Any = loader.worker_init_fn
    if getattr(first, "func", first) in (_ignore_signals, _ignore_signals_and):
        return  # one that is kept from evaluation to evaluation
    default = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    # accelerate's loaders take their batches from one that they hold
    for each in {id(each): each for each in (loader, getattr(loader, "base_dataloader", loader))}.values():
        each.worker_init_fn = _ignore_signals if first is None else partial(_ignore_signals_and, first)
        context: Any = each.multiprocessing_context
        if each.num_workers and (context.get_start_method() if context else default) == "fork":
            each.multiprocessing_context = _ShieldedContext()


def _ignore_signals(worker: int) -> None:
    others = set(SIGNALS) - {signal.SIGTERM}
    for number in others:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where workers end by SIGTERM as torch has it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_heed_parent, args=[os.getppid()], daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, others)


def _heed_parent(parent: int) -> None:
    """By SIGTERM the run itself ends a worker that it can wait for no longer; from anybody else it is let pass."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _ignore_signals_and(first: Callable[[int], None], worker: int) -> None:
    _ignore_signals(worker)
    first(worker)


if hasattr(multiprocessing.context, "ForkContext"):  # not on Windows

    class _ShieldedProcess(multiprocessing.context.ForkProcess):
        """Is born with signals blocked: torch gives its workers a handler for SIGTERM of its own, by which they die,
        before they come to ignore it."""

        def start(self) -> None:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    class _ShieldedContext(multiprocessing.context.ForkContext):
        Process = _ShieldedProcess


class Stopper(TrainerCallback):
    """Asks, after each step and each batch of an evaluation, whether the run is to end. To be entered around what is to
    be ended so: however that ends, the handlers are then those from before.

    With several processes any of them may be told first, in different steps: they agree each time. A signal that was
    ignored when the run began (`nohup`) stays ignored.

    Args:
        stop_within: seconds from a signal within which the process is gone; None: however long the step, and saving
            after it, take. When they are over it ends at once, and what it was saving is lost.
        deadline: of `time.monotonic`, when a run's time is up.

    Attributes:
        stopped_by: the signal, or other reason, that all processes agreed on; 0 as long as there is none.
    """

    def __init__(self, stop_within: float | None = None, deadline: float | None = None) -> None:
        self.stop_within, self.deadline = stop_within, deadline
        self.stopped_by = 0
        self._told = self._interrupts = 0
        self._depth = self._process = self._launcher = 0
        self._previous: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Stopper:
        self._depth += 1
        if self._depth > 1:
            return self
        self._process = os.getpid()
        self._launcher = os.getppid() if any(name in os.environ for name in _LAUNCHED) else 0
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}
        if self._timer is not None:
            self._timer.cancel()

    @property
    def reason(self) -> str:
        """What ended the run, in words."""
        return _REASONS[self.stopped_by]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._agree(args)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._agree(args):
            raise StopRequested

    def _agree(self, args: TrainingArguments) -> int:
        if not self._depth or self.stopped_by:
            return self.stopped_by
        told = self._told
        if self._launcher and os.getppid() != self._launcher:
            told = LAUNCHER_IS_DEAD
        elif not told and self.deadline is not None and time.monotonic() >= self.deadline:
            told = TIME_IS_UP
        if args.world_size > 1:
            of_all = torch.tensor(told, device=args.device)
            torch.distributed.all_reduce(of_all, torch.distributed.ReduceOp.MAX)
            told = int(of_all)
        self.stopped_by = told
        return told

    def _hear(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a process that was forked; those that load data ignore signals by themselves: `shield_workers`
        if number == getattr(signal, "SIGHUP", 0):
            _leave_terminal()
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if self._told:
            return
        self._told = number
        again = "; once more stops at once, without it" if number == signal.SIGINT else ""
        logger.warning("%s: a checkpoint is saved after this step, then the run ends%s.", SIGNALS[number], again)
        if self.stop_within is not None:
            self._timer = threading.Timer(self.stop_within, self._give_up)
            self._timer.daemon = True
            self._timer.start()

    def _give_up(self) -> None:
        # of this thread no exception would reach the main one, which may be waiting for another process or a disk
        said = (
            f"dinoseg: {SIGNALS[self._told]}: the step and its checkpoint were not done within {self.stop_within:g} s "
            "(training.stop_within). Stopped at once; --resume goes on from the checkpoint before.\n"
        )
        try:
            os.write(2, said.encode())
        finally:
            os._exit(exit_code(self._told))


def _leave_terminal() -> None:
    """Where a terminal that was closed was written to, writing would be an error from now on: nothing is written."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        try:
            os.get_terminal_size(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
