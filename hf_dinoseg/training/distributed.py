"""Several processes: checks of the launch, batch norms, and sharded weights."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from ..errors import RunError
from ._compat import gathered

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
    """Within it, models are made whole in each process, also with ZeRO-3, and are divided when training begins. ZeRO-3
    would otherwise divide a backbone while it is loaded, and initialise heads with other numbers."""
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


def synchronise_batch_norms(model: nn.Module, device: torch.device, processes: int) -> bool:
    """Make batch norms that learn normalise by the batch of all processes, if there are several and
    `torch.nn.SyncBatchNorm` works on their device. Parameters and buffers stay the same objects, under the same names.

    On a CPU it does not work. Each process then normalises by its own part of the batch, which a warning says, and only
    the running statistics, with which a model evaluates, are averaged (`average_buffers`).

    Args:
        model: changed in place; not a batch norm itself.
        device: of this process.
        processes: that train together.

    Returns:
        Whether it was done.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    learning = [m for m in norms if m.weight is not None and m.weight.requires_grad]  # a frozen one does not look
    if processes < 2 or not learning:
        return False
    if device.type == "cpu":
        logger.warning(
            "%d batch norms normalise by each process's own part of the batch, since torch.nn.SyncBatchNorm does not "
            "run on a CPU. model.norm: group does not depend on how the batch is divided.",
            len(learning),
        )
        return False
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return True


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Make the running statistics of batch norms those of all processes, and the same in each.

    DDP hands on those of the first process at each training step's beginning; after the last step every process has its
    own, and would evaluate another model than the one that is saved. What is averaged are distances from the first
    process's values: where all have the same ones they stay what they are to the last bit, however many processes there
    are. Other buffers are no statistics and are not touched.
    """
    processes = torch.distributed.get_world_size()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for statistics in (module.running_mean, module.running_var):
                if statistics is not None:
                    of_first = statistics.clone()
                    torch.distributed.broadcast(of_first, 0)
                    distance = statistics - of_first
                    torch.distributed.all_reduce(distance)
                    statistics.copy_(of_first + distance / processes)


def on_first_process(args: TrainingArguments, function: Callable[[], T]) -> T:
    """What a function gives on the first process, on all of them; so is what it raises. To be called by all.

    Files are read once so, and all processes go by the same answer.
    """
    if args.world_size == 1:
        return function()
    answer: list[Any] = [None, None]
    if args.process_index == 0:
        try:
            answer[0] = function()
        except Exception as error:
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    given: T = answer[0]
    return given


@contextmanager
def preserved_randomness(device: torch.device) -> Iterator[None]:
    """What is drawn within it does not change what is drawn after it: by torch on the CPU and this device, by numpy
    and by Python."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    accelerator = device.type not in ("cpu", "meta")
    kind = device.type if accelerator else "cuda"
    try:
        with torch.random.fork_rng([device] if accelerator else [], device_type=kind):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


@contextmanager
def whole_on_each_process(model: nn.Module, engine: Any = None) -> Iterator[None]:
    """For FSDP and ZeRO-3: every process holds all weights within it. Images differ in their number of windows, and
    processes that gather weights at each forward pass would wait for passes that others do not make.

    Args:
        engine: DeepSpeed's, if it trains the model.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        with gathered(model, engine):
            yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)
