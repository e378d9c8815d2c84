"""What a checkpoint that training begins from says of the model: fields that a recipe with `model.init_from` need not
give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..checkpoint import checkpoint_json, checkpoint_recipe
from ..errors import DinoSegError
from .yaml_format import read_yaml

_STATISTICS = ("image_mean", "image_std")
_OUTPUTS = ("out_features", "out_indices", "apply_layernorm", "reshape_hidden_states")  # the head's to choose


def start_fields(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `model` as the checkpoint has them; none if it is no checkpoint of this package, or cannot be read:
    what is wrong with it is told once a model is to be made.

    Args:
        name: folder or Hub id.
        given: the section as it was written. A resolved one lacks nothing, and then nothing is read.
    """
    from ..models import HEADS  # takes seconds

    def settings_of(head: Any) -> list[str]:
        return [key for key, setting in HEADS[head].settings.items() if setting.in_recipe] if head in HEADS else []

    if not [key for key in ("head", "backbone", *_STATISTICS, *settings_of(given.get("head"))) if key not in given]:
        return {}
    try:
        config = checkpoint_json(name, "config.json")
        if config.get("model_type") != "dinoseg":
            return {}
        found = {"head": config.get("head", "mask2former"), "backbone": _backbone(name, config["backbone_config"])}
        statistics = checkpoint_json(name, "preprocessor_config.json")
    except (DinoSegError, OSError, LookupError):
        return {}
    found |= {key: statistics[key] for key in _STATISTICS if key in statistics}
    if given.get("head", found["head"]) == found["head"]:
        found |= {key: config[key] for key in settings_of(found["head"]) if key in config}
    return found


def _backbone(name: str, config: Mapping[str, Any]) -> Any:
    """The backbone as the checkpoint's own recipe names it, else its configuration."""
    try:
        named = read_yaml(checkpoint_recipe(name))["model"]["backbone"]
    except (DinoSegError, OSError, LookupError, TypeError):
        named = None
    return named if named is not None else architecture(config)


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a backbone's configuration, what makes the model, without what every configuration has or a head chooses."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return dict(config)
    common = {field.name for field in fields(PreTrainedConfig)} | {*_OUTPUTS}
    own = [f.name for f in fields(CONFIG_MAPPING[kind]) if f.name not in common and not f.name.startswith("_")]
    return {"model_type": kind, **{key: config[key] for key in own if key in config}}
