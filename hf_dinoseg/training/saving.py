"""A Trainer whose checkpoints are plain models, whole or not there at all, and which SIGTERM and Ctrl-C make save."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import RunError
from .callbacks import BegunCallback
from .evaluation import average_buffers
from .manifest import Manifest
from .own_weights import AverageCallback, OwnWeights
from .preemption import SIGNALS, Preempted, SaveOnSignal
from .run_folder import newest_whole_checkpoint

# In the RuntimeError with which torch.save tells that a file cannot be written.
_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "iostream")


class CheckpointingTrainer(Trainer):
    """As `Trainer`, but for what and how it saves.

    Args:
        ema_decay: of a running average of the weights, evaluated and saved in their stead; None keeps none.

    Raises:
        RunError: if weights that differ from those saved (average, LoRA) are spread over processes.
    """

    def __init__(self, model: nn.Module, *args: Any, ema_decay: float | None = None, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.own_weights = OwnWeights(model, ema_decay)
        if self.own_weights.differ and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise RunError(
                "model.ema_decay and model.tune: lora work on one process or with DDP, not with FSDP or DeepSpeed, "
                "which spread the weights over processes."
            )
        self._manifest: Manifest | None = None
        self._signals = SaveOnSignal()
        self.add_callback(AverageCallback(self.own_weights))
        self.add_callback(self._signals)

    def keep(self, manifest: Manifest | None) -> None:
        """List in a manifest what is written; on the first process alone, the others give None."""
        self._manifest = manifest
        if manifest is not None:
            self.add_callback(BegunCallback(manifest))

    @contextmanager
    def filling(self, folder: Path) -> Iterator[None]:
        """A folder that all processes write files into. Nothing is written before the manifest names it, and it is
        listed when all have done their part."""
        manifest = self._manifest
        inside = manifest is not None and folder.is_relative_to(manifest.folder)
        if manifest is not None and inside:
            manifest.begin(folder.relative_to(manifest.folder).as_posix())
        self.accelerator.wait_for_everyone()
        yield
        self.accelerator.wait_for_everyone()
        if manifest is not None and inside:
            manifest.finish(folder.relative_to(manifest.folder).as_posix())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; in the end the model has the weights that were evaluated and saved.

        Raises:
            Preempted: after SIGTERM or Ctrl-C, once a checkpoint is saved.
        """
        with self._signals as signals:
            result = super().train(*args, **kwargs)
        if signals.stopped_at is not None:
            raise Preempted(
                f"ended by {SIGNALS[signals.stopped_by]} after step {signals.stopped_at}; the checkpoint is in "
                f"{self.args.output_dir}. Go on with --resume.",
                signals.stopped_by,
            )
        self.own_weights.settle()
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, which leaves out the model where FSDP saves it in shards: at the end it is whole."""
        if self.is_fsdp_enabled and not _internal_call:
            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            self._save(output_dir, get_model_state_dict(self.own_weights.model, options=whole))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(str(output_dir or self.args.output_dir))
        if self.own_weights.differ:
            with self.own_weights.shown() as shown:
                super()._save(output_dir, shown)
            if self.args.should_save:
                self.own_weights.save(folder)
        else:
            super()._save(output_dir, state_dict)
        # Pickled, and everything in it stands in recipe.yaml: nothing pickled goes into a checkpoint folder.
        pickled = folder / TRAINING_ARGS_NAME
        if self.args.should_save and pickled.exists():
            os.remove(pickled)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As `Trainer._save_checkpoint`. One that cannot be written is taken away, so that what is left is whole.

        Raises:
            RunError: naming the folder and the newest checkpoint before.
        """
        if self.args.world_size > 1:  # or a resumed run would have the first process's everywhere
            average_buffers(self.own_weights.model)
        folder = Path(str(self.args.output_dir))
        torn = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            with self.filling(torn):
                super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(word in str(error) for word in _TORCH_CANNOT_WRITE):
                raise
            shutil.rmtree(torn, ignore_errors=True)
            left = newest_whole_checkpoint(folder)
            raise RunError(
                f"{torn} could not be written ({str(error).splitlines()[0]}). Make room there, or permit writing, and "
                + (f"go on with --resume from {left.name}." if left else "start again: no checkpoint was saved before.")
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.own_weights.differ:
            self.own_weights.load(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        self.own_weights.settle()  # what was saved is the plain model
        super()._load_best_model()
