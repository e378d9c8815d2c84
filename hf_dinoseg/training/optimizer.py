"""Which parameter learns how fast, which one decays, and how rates go over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from ..errors import RunError
from .tuning import block_depths

_UNDECAYED_MODULES = (nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_UNDECAYED_WORDS = ("embed", "token", "query", "queries", "layer_scale", "lambda1")


#: What weight decay applies to: weights of more than one dimension but embeddings; those and biases; everything.
Decays = Literal["weights", "all_but_norms", "all"]


def _trainable(model: nn.Module, decays: Decays) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """(name, parameter, whether weight decay applies) of every parameter that learns, shared ones once."""
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            bare_embedding = isinstance(module, _UNDECAYED_MODULES) or (
                leaf not in ("weight", "bias") and any(word in leaf for word in _UNDECAYED_WORDS)
            )
            usual = not bare_embedding and (parameter.ndim > 1 or decays == "all_but_norms")
            yield f"{module_name}.{leaf}", parameter, usual or decays == "all"


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    backbone_learning_rate_multiplier: float,
    layer_decay: float = 1.0,
    decays: Decays = "weights",
) -> list[dict[str, Any]]:
    """Optimiser groups: backbone and head, each with and without weight decay.

    By default norms, biases, embeddings, queries, tokens and layer scales do not decay. Mask2Former's published
    training (Cheng et al. 2022, https://arxiv.org/abs/2112.01527) excludes norms, embeddings and position tables, and
    its biases decay: `all_but_norms`. EoMT's and DINOv3's exclude nothing: `all`.

    Args:
        model: a model whose backbone is `model.backbone`; parameters that need no gradient are left out.
        learning_rate: of the head.
        backbone_learning_rate_multiplier: the backbone's rate as a share of the head's.
        layer_decay: from each block of the backbone to the one before it the rate falls by this factor (BEiT,
            arXiv:2106.08254); 1 for one rate.
        decays: what weight decay applies to.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`: `head` and `backbone`, or with a layer decay
        `backbone_<depth>` (see `tuning.block_depths`), each also as `…_no_decay`; empty ones are left out.
    """
    backbone: Any = getattr(model, "backbone", nn.Module())
    in_backbone = {id(p) for p in backbone.parameters()}
    depths, top = block_depths(backbone.model) if layer_decay != 1 and in_backbone else ({}, 0)
    groups: dict[str, dict[str, Any]] = {}
    for _, parameter, decaying in _trainable(model, decays):
        part, rate = "head", learning_rate
        if id(parameter) in in_backbone:
            part, rate = "backbone", learning_rate * backbone_learning_rate_multiplier
            if depths:
                depth = depths[id(parameter)]
                part, rate = f"backbone_{depth}", rate * layer_decay ** (top - depth)
        name = f"{part}{'' if decaying else '_no_decay'}"
        group = groups.setdefault(
            name, {"name": name, "params": [], "lr": rate, "weight_decay": weight_decay if decaying else 0.0}
        )
        group["params"].append(parameter)
    return list(groups.values())


POWER = 0.9


def two_stage_schedule(
    optimizer: Optimizer, head_warmup: int, backbone_warmup: int, num_training_steps: int
) -> LambdaLR:
    """Head first: the backbone rests while the head warms up, then warms up itself; both decay polynomially.

    EoMT's published schedule is of this kind (arXiv:2503.19108): 500 steps for the head, 1000 for the backbone, power
    0.9 from the end of each part's warm-up to the end of training.

    Args:
        optimizer: its groups have a `name`, which begins with `backbone` for the backbone's.
        head_warmup: steps over which the head's rate rises linearly.
        backbone_warmup: steps over which the backbone's rate rises, after the head's warm-up.
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


_WARMUP_FROM = 1e-6  # of the rate


def warmup_one_cycle_schedule(optimizer: Optimizer, warmup: int, num_training_steps: int) -> LambdaLR:
    """The schedule of DINOv3's linear probes (`WarmupOneCycleLR` in https://github.com/facebookresearch/dinov3): half a
    cosine over all steps from the first one on, whose beginning a linear warm-up takes the place of. So the cosine does
    not start anew after the warm-up. Their loop steps the schedule from the second step on, so the first two steps have
    the same rate.

    Args:
        optimizer: its groups' learning rates are what the cosine starts from.
        warmup: steps of the warm-up.
        num_training_steps: steps in all.
    """

    def factor(step: int) -> float:
        at = max(step - 1, 0)
        if at < warmup:
            return (_WARMUP_FROM + (1 - _WARMUP_FROM) * at / warmup) * (1 - at / num_training_steps)
        return 0.5 * (1 + math.cos(math.pi * min(at + 1, num_training_steps) / num_training_steps))

    return LambdaLR(optimizer, factor)
