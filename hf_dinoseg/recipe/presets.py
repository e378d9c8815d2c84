"""Labels of well-known datasets, by name: `labels: {preset: ade20k}`.

A preset stands for the fields that its file in `label_presets/` holds. The resolved recipe has them written out, so a
checkpoint never depends on what a preset says later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .named_files import named_files, read_named

KEY = "preset"


def presets() -> list[str]:
    """The names that there are."""
    return named_files("label_presets")


def label_preset(name: str) -> dict[str, Any]:
    """The plain fields of the `labels` section that a preset stands for.

    Raises:
        SectionError: if there is none of this name.
    """
    return read_named("label_presets", name, f"labels.{KEY}")


def with_preset(labels: Any) -> Any:
    """The `labels` section with its preset filled in; what the recipe itself gives replaces the preset's field.

    Raises:
        SectionError: if there is no such preset.
    """
    if not isinstance(labels, Mapping) or KEY not in labels:
        return labels
    return {**label_preset(labels[KEY]), **{key: value for key, value in labels.items() if key != KEY}}
