"""What this package leans on in transformers, accelerate and DeepSpeed that these do not promise to keep.

Everything else goes by their public interface. Should one of these names be gone in a later version, importing this
file says so, and nothing is trained in another way than before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

#: Methods of `Trainer` that `DinoSegTrainer` overrides or calls, and why its public ones do not serve.
TRAINER_METHODS = {
    "_save_checkpoint": "overridden: a checkpoint gets a manifest, and one that cannot be written is taken away; "
    "`on_save` comes too late",
    "_maybe_log_save_evaluate": "overridden: a step is saved before it is evaluated, and a run can end there",
    "_run_epoch": "overridden: resumed when all steps are done, it would do one more",
    "_evaluate": "called when a run is resumed whose evaluation was interrupted",
    "_determine_best_metric": "called with it",
    "_load_optimizer_and_scheduler": "overridden: learning rates may change when a run is resumed",
    "_load_scaler": "overridden: fp16 may become bf16 when a run is resumed",
    "_save": "called with the weights that are saved; `save_model` takes none",
    "_load_from_checkpoint": "overridden: with LoRA or an average, training goes on from other weights than are saved",
    "_load_best_model": "overridden: before it, the model has to become the plain one whose weights are loaded",
}

if _missing := [name for name in TRAINER_METHODS if not hasattr(Trainer, name)]:
    raise ImportError(
        f"transformers {transformers.__version__} lacks {', '.join(_missing)} of Trainer, which is needed; "
        "install a version that setup.cfg names."
    )


@contextmanager
def without_autocast(model: nn.Module) -> Iterator[None]:
    """Within it, a model that accelerate prepared runs in the dtype of its weights, as it does when it is loaded.

    With mixed precision, accelerate gives the model an attribute `forward`, which runs the class's method under
    autocast; its own way to take that off, `unwrap_model`, takes it off for good. FSDP keeps it: there the weights
    themselves are in the lower precision.
    """
    model = getattr(model, "module", model)
    wrapped = None if isinstance(model, FSDPModule) else vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped


@contextmanager
def gathered(model: nn.Module, engine: Any) -> Iterator[None]:
    """Within it, a model that ZeRO-3 divided is whole on each process, and stays whole through forward passes.

    `GatheredParameters` is public, but the engine's hooks would divide each layer again after its forward pass. Only
    the object `parameter_offload` of its optimizer takes them off and puts them back.

    Args:
        engine: DeepSpeed's, if it trains the model.
    """
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)  # ZeRO-3 has it alone
    if offload is None:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        offload.destroy()
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()
