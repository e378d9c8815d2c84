"""Labels of well-known datasets, by name: `labels: {preset: ade20k}`.

A preset stands for the fields that its file in `label_presets/` holds. The resolved recipe has them written out, so a
checkpoint never depends on what a preset says later.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from .messages import SectionError, nearest, show
from .yaml_format import parse_yaml

KEY = "preset"


def presets() -> list[str]:
    """The names that there are."""
    return sorted(item.name.removesuffix(".yaml") for item in _folder().iterdir() if item.name.endswith(".yaml"))


def label_preset(name: str) -> dict[str, Any]:
    """The plain fields of the `labels` section that a preset stands for.

    Raises:
        SectionError: if there is none of this name.
    """
    names = presets()
    if name not in names:
        guess = nearest(str(name), names)
        hint = f" Did you mean `{guess}`?" if guess else ""
        raise SectionError([f"labels.{KEY}: {show(name)} is not accepted; write one of {', '.join(names)}.{hint}"])
    fields: dict[str, Any] = parse_yaml((_folder() / f"{name}.yaml").read_text(encoding="utf-8"), name)
    return fields


def with_preset(labels: Any) -> Any:
    """The `labels` section with its preset filled in; what the recipe itself gives replaces the preset's field.

    Raises:
        SectionError: if there is no such preset.
    """
    if not isinstance(labels, Mapping) or KEY not in labels:
        return labels
    return {**label_preset(labels[KEY]), **{key: value for key, value in labels.items() if key != KEY}}


def _folder() -> Any:
    return files(__package__) / "label_presets"
