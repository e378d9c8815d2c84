"""What training goes on with, where that differs from what is evaluated and saved.

A checkpoint's `model.safetensors` is always the plain model that was evaluated. With a running average, or with LoRA,
training itself has other weights; they stand beside it in `training_weights.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import RunError
from .ema import WeightAverage
from .lora import has_lora, merge_lora, merged_state_dict

FILE = "training_weights.safetensors"
_OWN, _AVERAGE = "model.", "average."


class OwnWeights:
    """The two sets of weights of a run: those that learn, and those that are shown to the world.

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
        save_file({name: t.detach().contiguous().cpu() for name, t in both.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on from `save`.

        Raises:
            RunError: if the run in the folder learned other weights than this one.
        """
        saved = load_file(folder / FILE)
        own = {name.removeprefix(_OWN): t for name, t in saved.items() if name.startswith(_OWN)}
        average = {name.removeprefix(_AVERAGE): t for name, t in saved.items() if name.startswith(_AVERAGE)}
        unknown = self.model.load_state_dict(own, strict=False).unexpected_keys
        if unknown or self.average is not None and average.keys() != self.average.weights.keys():
            raise RunError(
                f"{folder / FILE} is of a run with another model.tune or model.ema_decay; resume with those."
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


class AverageCallback(TrainerCallback):
    """Takes every step into the running average."""

    def __init__(self, weights: OwnWeights) -> None:
        self.weights = weights

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.weights.average is not None:
            self.weights.average.update(state.global_step)
