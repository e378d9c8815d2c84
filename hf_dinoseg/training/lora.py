"""Low-rank updates of the backbone (LoRA, arXiv:2106.09685) by peft, and their way into plain weights.

What is saved is always the plain model, updates merged: it loads without peft and predicts at full speed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RunError

_ADAPTER = "default"


def add_lora(backbone: nn.Module, targets: list[str], rank: int) -> None:
    """Give each named linear map a low-rank update that learns; everything else of the backbone rests.

    Raises:
        RunError: if peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RunError("model.tune is lora, which needs peft: pip install 'hf-dinoseg[lora]'.") from None
    backbone.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, lora_dropout=0.0, bias="none")
    inject_adapter_in_model(config, backbone, adapter_name=_ADAPTER)


def has_lora(model: nn.Module) -> bool:
    return any(_is_updated(module) for module in model.modules())


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The plain model's state: names and shapes as if there had been no LoRA, updates added to the weights."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if not _is_updated(module):
            continue
        own = {key: state.pop(key) for key in list(state) if key.startswith(f"{name}.")}
        for leaf, value in module.base_layer.state_dict().items():
            state[f"{name}.{leaf}"] = value
        weight = own[f"{name}.base_layer.weight"]
        state[f"{name}.weight"] = weight + _update(module).to(weight.dtype)
    return state


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Make the model plain again, in place, updates added to the weights."""
    updated = [(name, module) for name, module in model.named_modules() if _is_updated(module)]
    for name, module in updated:
        plain: Any = module.base_layer
        plain.weight += _update(module).to(plain.weight.dtype)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, plain)


def _is_updated(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "lora_A")


def _update(module: Any) -> Tensor:
    update: Tensor = module.get_delta_weight(_ADAPTER)
    return update
