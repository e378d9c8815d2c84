"""Batch norms of several processes: statistics of the whole batch where torch can have them."""

from __future__ import annotations

import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)


def synchronise_batch_norms(model: nn.Module, device: torch.device, processes: int) -> bool:
    """Make batch norms that learn normalise by the batch of all processes, if there are several and
    `torch.nn.SyncBatchNorm` works on their device. Parameters and buffers stay the same objects, under the same names.

    On a CPU it does not work. Each process then normalises by its own part of the batch, which a warning says, and only
    the running statistics, with which a model evaluates, are averaged (`evaluation.average_buffers`).

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
