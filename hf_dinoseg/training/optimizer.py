"""Which parameter learns how fast, and which one decays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from .tuning import block_depths

_UNDECAYED_MODULES = (nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_UNDECAYED_WORDS = ("embed", "token", "query", "queries", "layer_scale", "lambda1")


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
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
            yield f"{module_name}.{leaf}", parameter, parameter.ndim > 1 and not bare_embedding


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    backbone_learning_rate_multiplier: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Optimiser groups: backbone and head, each with and without weight decay.

    Norms, biases, embeddings, queries and tokens do not decay, as in Mask2Former's published training
    (Cheng et al. 2022, https://arxiv.org/abs/2112.01527), which also trains the backbone at a tenth of the rate.

    Args:
        model: a model whose backbone is `model.backbone`; parameters that need no gradient are left out.
        learning_rate: of the head.
        backbone_learning_rate_multiplier: the backbone's rate as a share of the head's.
        layer_decay: from each block of the backbone to the one before it the rate falls by this factor (BEiT,
            arXiv:2106.08254); 1 for one rate.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`: `head` and `backbone`, or with a layer decay
        `backbone_<depth>` (see `tuning.block_depths`), each also as `…_no_decay`; empty ones are left out.
    """
    backbone: Any = getattr(model, "backbone", nn.Module())
    in_backbone = {id(p) for p in backbone.parameters()}
    depths, top = block_depths(backbone.model) if layer_decay != 1 and in_backbone else ({}, 0)
    groups: dict[str, dict[str, Any]] = {}
    for _, parameter, decays in _trainable(model):
        part, rate = "head", learning_rate
        if id(parameter) in in_backbone:
            part, rate = "backbone", learning_rate * backbone_learning_rate_multiplier
            if depths:
                depth = depths[id(parameter)]
                part, rate = f"backbone_{depth}", rate * layer_decay ** (top - depth)
        name = f"{part}{'' if decays else '_no_decay'}"
        group = groups.setdefault(
            name, {"name": name, "params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0}
        )
        group["params"].append(parameter)
    return list(groups.values())
