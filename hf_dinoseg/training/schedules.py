"""Learning-rate schedules that transformers does not have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from ..errors import RunError

POWER = 0.9


def two_stage_schedule(
    optimizer: Optimizer, head_warmup: int, backbone_warmup: int, num_training_steps: int
) -> LambdaLR:
    """Head first: the backbone rests while the head warms up, then warms up itself; both decay polynomially.

    EoMT's published schedule is of this kind (arXiv:2503.19108): 500 steps for the head, 1000 for the backbone, power
    0.9 from the end of each part's warm-up to the end of training.

    Args:
        optimizer: its groups have a `name`; those that begin with `backbone` are the backbone's.
        head_warmup: steps over which the head's rate rises linearly.
        backbone_warmup: steps over which the backbone's does, from where the head's ends.
        num_training_steps: steps in all.
    """
    ramps: list[Callable[[int], float]] = []
    for group in optimizer.param_groups:
        start, length = (head_warmup, backbone_warmup) if group["name"].startswith("backbone") else (0, head_warmup)
        ramps.append(partial(_factor, start=start, length=length, total=num_training_steps))
    return LambdaLR(optimizer, ramps)


def _factor(step: int, start: int, length: int, total: int) -> float:
    if step < start:
        return 0.0
    if step < start + length:
        return (step - start) / length
    rest = total - start - length
    return max(0.0, 1 - (step - start - length) / rest) ** POWER if rest > 0 else 0.0


def one_cycle_schedule(optimizer: Optimizer, warmup: int, num_training_steps: int, **options: Any) -> OneCycleLR:
    """torch's one-cycle schedule: each group's rate rises to its own over the warm-up, then falls to almost nothing,
    while the optimiser's momentum goes the other way (Smith 2018, https://arxiv.org/abs/1803.09820).

    Args:
        optimizer: its groups' learning rates are the peaks.
        warmup: steps until the peak; 0 and 1 begin there.
        num_training_steps: steps in all.
        options: `div_factor`, `final_div_factor`, `anneal_strategy`, `cycle_momentum` … of
            `torch.optim.lr_scheduler.OneCycleLR`.

    Raises:
        RunError: if the momentum is to be cycled and the optimiser has none.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    rising = 0.0 if warmup < 2 else warmup / num_training_steps  # torch divides by the steps between start and peak
    try:
        return OneCycleLR(optimizer, peaks, total_steps=num_training_steps, pct_start=rising, **options)
    except ValueError as error:
        raise RunError(
            f"The one-cycle schedule cannot be had: {error}. Correct training.lr_scheduler_kwargs; an optimiser "
            "without momentum needs {cycle_momentum: false}."
        ) from error
