"""Defaults of the `training` section that follow from the batch and from the number of steps.

They are worked out when the recipe is read and stand as plain numbers in the resolved recipe; what a recipe says stays
as it is. Without `max_steps` the number of steps is known only with the data, and shares of it stand instead.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

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
