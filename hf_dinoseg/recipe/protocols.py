"""Published protocols: `protocol: eomt_dinov3` in a recipe.

A protocol stands for the fields that its file in `protocol_files/` holds, below everything that the recipe and its
bases say. The resolved recipe has them written out and keeps the name, so that what it changed can be told
(`load.deviations`).

Steps in a protocol's file are those of its own schedule. Where a recipe trains for other steps, or by epochs, they
keep their share of the schedule, unless the recipe gives them itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from .base import merge
from .named_files import named_files, read_named

KEY = "protocol"

#: Fields in steps: warm-ups, and the annealing of masks, which a recipe has as shares of the schedule.
_WARMUPS = (("training", "warmup_steps"), ("model", "backbone_warmup_steps"))
_ANNEALING = ("model", "mask_annealing")


def protocols() -> list[str]:
    """The names that there are."""
    return named_files("protocol_files")


def protocol_file(name: Any) -> dict[str, Any]:
    """What stands in the file of a protocol: sections of a recipe, and `about` (title, source, figures).

    Raises:
        SectionError: if there is none of this name.
    """
    return read_named("protocol_files", name, KEY)


def with_protocol(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its protocol's fields filled in; what the recipe itself gives wins.

    Raises:
        SectionError: if there is no such protocol.
    """
    name = data.get(KEY)
    if name is None:
        return dict(data)
    fields = protocol_sections(name, data.get("training"))
    given = data.get("training")
    if isinstance(given, Mapping):
        schedule = given.get("lr_scheduler_type", fields["training"]["lr_scheduler_type"])
        if schedule != fields["training"]["lr_scheduler_type"]:
            fields["training"].pop("lr_scheduler_kwargs", None)  # they are those of its own schedule
        for one, other in (("bf16", "fp16"), ("fp16", "bf16")):
            if given.get(one) is True:
                fields["training"].pop(other, None)  # one precision takes the place of the other
    merged: dict[str, Any] = merge(fields, data)
    return merged


def protocol_sections(name: Any, training: Any = None) -> dict[str, Any]:
    """The sections of a protocol, its steps scaled to the schedule of a recipe's `training` section."""
    fields = deepcopy(protocol_file(name))
    del fields["about"]
    published = fields["training"]["max_steps"]
    model = fields["model"]
    if _ANNEALING[1] in model:
        model[_ANNEALING[1]] = [[step / published for step in span] for span in model[_ANNEALING[1]]]
    given = training if isinstance(training, Mapping) else {}
    steps = given.get("max_steps")
    by_steps = isinstance(steps, int) and not isinstance(steps, bool) and steps > 0
    if not by_steps and (given.get("num_train_epochs") is not None or steps == -1):
        del fields["training"]["max_steps"]
        for section, field in _WARMUPS:
            if value := fields[section].get(field):
                fields[section][field] = share_of(value, published)
    elif by_steps and steps != published:
        for section, field in _WARMUPS:
            if value := fields[section].get(field):
                fields[section][field] = max(1, round(value * steps / published))
    return fields


def share_of(steps: int, total: int) -> float:
    """Steps as a share of all, such that rounding the share of `total` up, as transformers does, gives them back."""
    share = math.floor(steps / total * 1e6) / 1e6
    return share if math.ceil(share * total) == steps else steps / total
