"""What a person sees of a run: a bar on a terminal, and a line for each log entry, in a file too. Loggers and
`trainer_state.json` keep every figure."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import datasets
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

logger = logging.getLogger(__name__)


class Console(ProgressCallback):
    """In the place of transformers' callbacks, which print dicts: one line for each log entry.

    Bars are drawn on terminals only. Evaluations are told by the trainer's own table.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began: tuple[float, int] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began, self.current_step = (time.perf_counter(), state.global_step), state.global_step
        if state.is_world_process_zero:
            self.training_bar = _bar(args, state.max_steps, initial=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bars are closed, that of an evaluation too, which an interrupted run leaves; may come twice."""
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()
        self.prediction_bar = self.training_bar = None

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and self.prediction_bar is None:
            self.prediction_bar = _bar(args, len(eval_dataloader), leave=False, desc="evaluation")
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        left = None
        if self._began is not None and state.global_step > self._began[1]:
            each = (time.perf_counter() - self._began[0]) / (state.global_step - self._began[1])
            left = each * (state.max_steps - state.global_step)
        say(step_line(state.global_step, state.max_steps, logs, left))


def _bar(args: TrainingArguments, total: int, **options: Any) -> tqdm[Any]:
    return tqdm(total=total, dynamic_ncols=True, disable=args.disable_tqdm or None, **options)


def say(text: str) -> None:
    """Log a line; where nobody has set up logging, it goes to standard error, between the bars."""
    if logger.hasHandlers():
        logger.info("%s", text)
    elif logging.root.manager.disable < logging.INFO:
        tqdm.write(text, file=sys.stderr)


def step_line(step: int, steps: int, logs: Mapping[str, Any], left: float | None = None) -> str:
    """What is said of a log entry.

    Args:
        step, steps: done, and of the whole run.
        logs: the entry.
        left: seconds until the end, if they are known.

    Example:
        >>> step_line(60, 150, {"loss": 20.71, "loss_mask": 1.62, "learning_rate": 6.7e-4}, 52)
        'step 60/150  loss 20.7 (mask 1.62)  lr 6.7e-4  0:52 left'
    """
    terms = [
        f"{name.removeprefix('loss_')} {_short(value)}" for name, value in logs.items() if name.startswith("loss_")
    ]
    parts = [f"step {step}/{steps}", f"loss {_short(logs['loss'])}" + (f" ({', '.join(terms)})" if terms else "")]
    if "learning_rate" in logs:
        parts.append(f"lr {_rate(float(logs['learning_rate']))}")
    if "images_per_second" in logs:
        parts.append(f"{_short(logs['images_per_second'])} images/s")
    if "gpu_memory_gb" in logs:
        parts.append(f"{_short(logs['gpu_memory_gb'])} GB")
    if left is not None:
        parts.append(f"{clock(left)} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any: `0:52`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short(value: Any) -> str:
    number = float(value)
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def _rate(rate: float) -> str:
    digits, _, exponent = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}" if rate else "0"


class Unseen:
    """Watches for classes that are never right.

    Args:
        patience: evaluations in which a class must be 0 before it is told.
        share: of the run that must be over by then.
    """

    def __init__(self, patience: int = 2, share: float = 0.3) -> None:
        self.patience, self.share = patience, share
        self._zeros: dict[str, int] = {}
        self._told: set[str] = set()

    def note(self, step: int, steps: int, iou: Mapping[str, float]) -> str | None:
        """What to say after an evaluation: a sentence or two, once for each class.

        Args:
            step, steps: done, and of the whole run.
            iou: of each class by its name; NaN where there is nothing to find.
        """
        for name, value in iou.items():
            self._zeros[name] = self._zeros.get(name, 0) + 1 if value == 0 else 0
        late = step >= self.share * steps
        names = [n for n, zeros in self._zeros.items() if late and zeros >= self.patience and n not in self._told]
        self._told.update(names)
        if not names:
            return None
        which, one = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""), len(names) == 1
        return (
            f"after step {step} of {steps}, IoU is still 0 for {which}. Look at the panels, and at how often "
            f"{'it occurs' if one else 'they occur'} (dinoseg doctor); for rare classes try "
            "loss.per_class_weights=auto and data.rare_class_crops=0.5, or train longer."
        )


@contextmanager
def calm() -> Iterator[None]:
    """Within it libraries draw no bars of their own: transformers none at all, datasets none but on a terminal."""
    theirs, ours = transformers_logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if theirs:
            transformers_logging.enable_progress_bar()
        if ours:
            datasets.enable_progress_bars()
