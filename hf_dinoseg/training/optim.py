"""Which parameter learns how fast, and which one decays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

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
    model: nn.Module, *, learning_rate: float, weight_decay: float, backbone_learning_rate_multiplier: float
) -> list[dict[str, Any]]:
    """Optimiser groups: backbone and head, each with and without weight decay.

    Norms, biases, embeddings, queries and tokens do not decay, as in Mask2Former's published training
    (Cheng et al. 2022, https://arxiv.org/abs/2112.01527), which also trains the backbone at a tenth of the rate.

    Args:
        model: a model whose backbone is `model.backbone`; parameters that need no gradient are left out.
        learning_rate: of the head.
        backbone_learning_rate_multiplier: the backbone's rate as a share of the head's.

    Returns:
        Up to four groups with `params`, `lr`, `weight_decay` and `name`; empty ones are left out.
    """
    backbone = {id(p) for p in getattr(model, "backbone", nn.Module()).parameters()}
    groups: dict[str, dict[str, Any]] = {}
    for _, parameter, decays in _trainable(model):
        part = "backbone" if id(parameter) in backbone else "head"
        name = f"{part}{'' if decays else '_no_decay'}"
        rate = learning_rate * (backbone_learning_rate_multiplier if part == "backbone" else 1.0)
        group = groups.setdefault(
            name, {"name": name, "params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0}
        )
        group["params"].append(parameter)
    return list(groups.values())
