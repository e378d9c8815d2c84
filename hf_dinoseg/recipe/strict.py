"""What strict means in a recipe: for our own sections, and for parts whose fields belong to transformers.

TrainingArguments and the configs of backbones are dataclasses with annotations. A pydantic model made from those
catches an unknown key or a wrong type without constructing either.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from operator import getitem
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from .messages import Finder, list_faults, nearest, show

PositiveInt = Annotated[int, Field(ge=1)]

_STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
)


class Section(BaseModel):
    """Strict and immutable: an unknown key is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def model_of(cls: type, name: str, bounds: Mapping[str, Any], extra: Mapping[str, Any] = {}) -> type[BaseModel]:  # noqa: B006
    """A strict pydantic model with the fields of a dataclass, none of them required.

    Args:
        cls: the dataclass. Its annotations give the types; `choices` in a field's metadata narrow them.
        name: name of the model.
        bounds: `{field: keyword arguments of pydantic's Field}`.
        extra: `{field: type}` beside the dataclass's own.
    """
    hints = _hints(cls)
    types_ = {f.name: _narrow(hints[f.name], f.metadata.get("choices")) for f in fields(cls) if f.init}
    types_ = {k: t for k, t in types_.items() if not k.startswith("_")} | dict(extra)
    definitions: dict[str, Any] = {
        key: (Annotated[kind, Field(**bounds[key])] if key in bounds else kind, None) for key, kind in types_.items()
    }
    return create_model(name, __config__=_STRICT, **definitions)


def check_values(model: type[BaseModel], values: Any, path: str, find: Finder = lambda key: ()) -> list[str]:
    """The faults of plain data under a model; `find` looks an unknown key up elsewhere in the recipe.

    Data goes through JSON because pydantic's strict mode for JSON is what is meant here: no text for a number and no
    word for a truth value, but lists for tuples and names for enum members.
    """
    try:
        model.model_validate_json(json.dumps(values, default=repr), strict=True)
    except ValidationError as error:
        return list_faults(error, model, values, path, find)
    return []


def _hints(cls: type) -> dict[str, Any]:
    import torch

    try:
        return typing.get_type_hints(cls, localns={"torch": torch})  # transformers' configs name torch.dtype as text
    except NameError:  # a type that only type checkers import: the names are still checked
        return {f.name: Any for f in fields(cls)}


def _narrow(hint: Any, choices: Any) -> Any:
    """Choices in place of text where there are choices: transformers writes `SchedulerType | str`."""
    arms = typing.get_args(hint)
    enums = [a for a in arms if isinstance(a, type) and issubclass(a, Enum)]
    if not choices and not enums:
        return hint
    names = tuple(choices) if choices else tuple(member.value for member in enums[0])
    choice: Any = getitem(Literal, names)
    return choice | None if type(None) in arms else choice


def backbone_faults(config: dict[str, Any]) -> list[str]:
    """Faults of a backbone's config: transformers itself takes unknown keys without a word."""
    from transformers import CONFIG_MAPPING  # takes seconds, and only a backbone from scratch needs it

    kinds = list(CONFIG_MAPPING.keys())
    kind = config.get("model_type")
    if kind is None:
        return ["model.backbone.model_type: missing; write the architecture, e.g. dinov3_vit or dinov3_convnext."]
    if kind not in kinds:
        guess = nearest(str(kind), kinds)
        hint = f" Did you mean `{guess}`?" if guess else ""
        return [f"model.backbone.model_type: {show(kind)} is no architecture that transformers knows.{hint}"]
    extra = {"model_type": str, "out_indices": list[int] | None, "out_features": list[str] | None}
    known = CONFIG_MAPPING[kind]
    bounds = {f.name: {"ge": 1} for f in fields(known) if f.name in _AT_LEAST_ONE and f.type in ("int", int)}
    if faults := check_values(model_of(known, kind, bounds, extra), config, "model.backbone"):
        return faults
    return _attention_faults(kind, {f.name: f.default for f in fields(known)} | config)


_AT_LEAST_ONE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels")


def _attention_faults(kind: str, config: Mapping[str, Any]) -> list[str]:
    """transformers makes a DINOv3 ViT of any width and any number of heads, and fails in its first step. What others
    need is found when the model is made (`objects.check_sizes`)."""
    if kind != "dinov3_vit":
        return []
    width, heads = config["hidden_size"], config["num_attention_heads"]
    # a quarter of each head's channels are sines and cosines of the two coordinates
    if width % (heads * 4) == 0:
        return []
    fitting = [count for count in range(1, width // 4 + 1) if width % (count * 4) == 0]
    near = sorted(sorted(fitting, key=lambda count: abs(count - heads))[:3])
    hint = f" Heads that do: {', '.join(map(str, near))}." if near else ""
    return [
        f"model.backbone.hidden_size: {width} does not divide into num_attention_heads {heads} of a multiple of 4 "
        f"channels each; write a multiple of {heads * 4}.{hint}"
    ]
