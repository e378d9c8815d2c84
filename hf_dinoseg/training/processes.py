"""What a launcher started: whether its processes know of one another, and what DeepSpeed must not do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from ..errors import RunError


def check_processes(args: TrainingArguments) -> None:
    """Refuse a run whose processes would each train for itself, into the same folder, and what DeepSpeed cannot do.

    accelerate joins processes over an accelerator's library, and over gloo only if told that they compute on CPUs.

    Raises:
        RunError: if a launcher started several processes and this one is alone, or if DeepSpeed would turn the model
            to half precision.
    """
    if args.deepspeed_plugin is not None and (args.bf16 or args.fp16):
        raise RunError(
            "training.bf16 and training.fp16 make DeepSpeed turn the whole model to half precision, but for the "
            "statistics of batch norms, which torch cannot compute with. Write training.bf16=false (fp16=false); the "
            "settings in recipes/accelerate/ autocast by `torch_autocast` in DeepSpeed's own file."
        )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if "LOCAL_RANK" in os.environ and started > args.world_size:
        raise RunError(
            f"{started} processes were started, but there is no accelerator for them, and each would train alone. To "
            "train on CPUs write training.use_cpu=true or set ACCELERATE_USE_CPU=1; otherwise look why torch finds no "
            "accelerator."
        )


@contextmanager
def built_whole(args: TrainingArguments) -> Iterator[None]:
    """Within it models are made whole in each process, with ZeRO-3 too, which would divide each backbone as it is
    loaded, and draw heads otherwise than without it: they are made as ever, and divided when training begins."""
    settings = getattr(args.deepspeed_plugin, "dschf", None)
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if settings is not None:
            set_hf_deepspeed_config(settings)


def check_can_measure(args: TrainingArguments) -> None:
    """
    Raises:
        RunError: if DeepSpeed was asked for, which evaluates only what it has trained.
    """
    if args.deepspeed_plugin is not None:
        raise RunError(
            "dinoseg evaluate works on one process or with DDP, not with DeepSpeed. Launch it without its settings, "
            "e.g. with recipes/accelerate/ddp.yaml; the model in the output folder is whole."
        )
