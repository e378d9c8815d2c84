"""Learning-rate schedules that transformers does not have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

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
