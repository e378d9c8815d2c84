"""Whether the processes that a launcher started know of one another."""

from __future__ import annotations

import os

from transformers import TrainingArguments

from .errors import RunError


def check_processes(args: TrainingArguments) -> None:
    """Refuse a run whose processes would each train for itself, into the same folder.

    accelerate joins processes over an accelerator's library, and over gloo only if told that they compute on CPUs.

    Raises:
        RunError: if a launcher started several processes and this one is alone.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if "LOCAL_RANK" in os.environ and started > args.world_size:
        raise RunError(
            f"{started} processes were started, but there is no accelerator for them, and each would train alone. To "
            "train on CPUs write training.use_cpu=true or set ACCELERATE_USE_CPU=1; otherwise look why torch finds no "
            "accelerator."
        )
