"""What lies in checkpoints of others: state dicts, and transformers' models.

`converters` makes checkpoint folders of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from .convert_names import ConversionError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a `.pth` file, bare or under `model` or `state_dict`. Nothing but tensors is ever unpickled.

    Raises:
        ConversionError: if there is no such file, or other things than tensors are in it.
    """
    file = Path(path)
    if not file.is_file():
        raise ConversionError(f"{file}: there is no such file.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn archive, foreign bytes and pickled code each raise their own
        raise ConversionError(
            f"{file} cannot be read as weights ({str(error).splitlines()[0]}). It must be a state dict as torch.save "
            "writes it, with tensors only."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ConversionError(f"{file} holds no state dict, bare or under `model` or `state_dict`.")
    if strangers := [str(key) for key, value in content.items() if not isinstance(value, Tensor)]:
        raise ConversionError(f"{file} holds entries that are no tensors: {', '.join(strangers[:5])}.")
    return {str(key): value for key, value in content.items()}


def from_transformers(
    model_class: Any, checkpoint: str, model_type: str, *, complete: bool
) -> tuple[Any, dict[str, Tensor]]:
    """A model of transformers, and those of its tensors that are in the checkpoint: all of them if it has to be
    `complete`; no tensor may be left over."""
    try:
        found = AutoConfig.from_pretrained(checkpoint).model_type
        if found != model_type:
            raise ConversionError(f"it is a checkpoint of {found!r}; one of {model_type!r} is converted here.")
        model, report = model_class.from_pretrained(checkpoint, output_loading_info=True, ignore_mismatched_sizes=True)
    except Exception as error:  # the Hub, files and shapes each raise their own; all of them end the conversion
        raise ConversionError(f"{checkpoint} cannot be loaded: {error}") from error
    misshapen = [
        f"{name} is {list(there)}, its configuration says {list(here)}"
        for name, there, here in report["mismatched_keys"]
    ]
    if misshapen:
        raise ConversionError(f"{checkpoint}: {'; '.join(misshapen[:5])}.")
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("criterion."))
    if complete and missing:
        raise ConversionError(f"{checkpoint} lacks tensors: {', '.join(missing[:5])} ({len(missing)} in all).")
    if extra := sorted(report["unexpected_keys"]):
        raise ConversionError(f"{checkpoint} has tensors that the model lacks: {', '.join(extra[:5])} ({len(extra)}).")
    return model.eval(), {name: t for name, t in model.state_dict().items() if name not in missing}


def checked_tensor(weights: Mapping[str, Tensor], name: str, shown: str, ndim: int) -> Tensor:
    if name not in weights:
        raise ConversionError(f"the checkpoint lacks {shown}.")
    if weights[name].ndim != ndim:
        raise ConversionError(f"{shown} has shape {list(weights[name].shape)}; {ndim} dimensions are expected.")
    return weights[name]


def count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({m[1] for key in weights if (m := re.match(re.escape(prefix) + r"(\d+)\.", key))})
