"""The weights of a run. With a running average or LoRA, the weights that learn are not those that are evaluated and
saved.

A checkpoint's `model.safetensors` is always the plain model that was evaluated. The weights that learn, if they differ,
are in `training_weights.safetensors` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import RunError, how_to_install

TRAINING_WEIGHTS_FILE = "training_weights.safetensors"
_OWN, _AVERAGE = "model.", "average."
_ADAPTER = "default"  # peft's name of a single adapter


class OwnWeights:
    """The two sets of weights of a run: the learning ones, and the ones that are evaluated and saved.

    Args:
        model: the model that learns, already on its device.
        ema_decay: of the running average; None keeps none.
    """

    def __init__(self, model: nn.Module, ema_decay: float | None = None) -> None:
        self.model = model
        self.average = None if ema_decay is None else WeightAverage(model, ema_decay)
        self.lora = has_lora(model)

    @property
    def differ(self) -> bool:
        """Whether the two sets are not one and the same."""
        return self.average is not None or self.lora

    @contextmanager
    def shown(self) -> Iterator[dict[str, Tensor] | None]:
        """Within it the model evaluates as what is shown; yields its state if that is not simply the model's."""
        with self.average.swapped_in() if self.average else nullcontext():
            yield merged_state_dict(self.model) if self.lora else None

    def save(self, folder: Path) -> None:
        """Write what training needs to go on from this checkpoint."""
        learning = {name for name, p in self.model.named_parameters() if p.requires_grad}
        learning |= {name for name, _ in self.model.named_buffers()}
        own = {f"{_OWN}{name}": t for name, t in self.model.state_dict().items() if name in learning}
        average = self.average.weights if self.average else {}
        both = own | {f"{_AVERAGE}{name}": t for name, t in average.items()}
        save_file({name: t.detach().contiguous().cpu() for name, t in both.items()}, folder / TRAINING_WEIGHTS_FILE)

    def load(self, folder: Path) -> None:
        """Go on from `save`.

        Raises:
            RunError: if the run in the folder learned other weights than this one.
        """
        saved = load_file(folder / TRAINING_WEIGHTS_FILE)
        own = {name.removeprefix(_OWN): t for name, t in saved.items() if name.startswith(_OWN)}
        average = {name.removeprefix(_AVERAGE): t for name, t in saved.items() if name.startswith(_AVERAGE)}
        unknown = self.model.load_state_dict(own, strict=False).unexpected_keys
        if unknown or self.average is not None and average.keys() != self.average.weights.keys():
            raise RunError(
                f"{folder / TRAINING_WEIGHTS_FILE} is of a run with another model.tune or model.ema_decay; resume with "
                "those."
            )
        if self.average is not None:
            self.average.load(average)

    def settle(self) -> None:
        """When training is over: the model becomes what was shown, for good."""
        if self.average is not None:
            self.average.hand_over()
            self.average = None
        if self.lora:
            merge_lora(self.model)
            self.lora = False


# ---------------------------------------------------------------------- a running average


class WeightAverage:
    """Exponential moving average of all weights that learn.

    Early on the average follows more closely, so that it does not drag the random start along: the decay at step t is
    min(decay, (1 + t) / (10 + t)), as TensorFlow's ExponentialMovingAverage has it. Buffers (running statistics of
    batch norms) are averages already and are not averaged again.

    Args:
        model: the model; its weights are copied.
        decay: share of the average that a step keeps, e.g. 0.999.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().clone() for name, p in self._learning.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimiser's step number `step`, from 1."""
        kept = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in self._learning.values()], 1 - kept)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has the averaged weights; afterwards its own, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from saved averages; the names are those of `weights`."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @torch.no_grad()
    def hand_over(self) -> None:
        """Give the averaged weights to the model for good."""
        for name, parameter in self._learning.items():
            parameter.copy_(self.weights[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._learning.items():
            own = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(own)


# ---------------------------------------------------------------------- LoRA


def add_lora(backbone: nn.Module, targets: list[str], rank: int) -> None:
    """Give each named linear map a low-rank update that learns; everything else of the backbone rests.

    Raises:
        RunError: if peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RunError(f"model.tune is lora, which needs peft: {how_to_install('lora')}.") from None
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
