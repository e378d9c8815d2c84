"""YAML files that the package brings along and a recipe names: label presets and protocols."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from .messages import SectionError, nearest, show
from .yaml_format import parse_yaml


def named_files(folder: str) -> list[str]:
    """The names that there are in a folder beside this file."""
    return sorted(item.name.removesuffix(".yaml") for item in _place(folder).iterdir() if item.name.endswith(".yaml"))


def read_named(folder: str, name: Any, field: str) -> dict[str, Any]:
    """What stands in the file of this name.

    Args:
        field: of the recipe that gave the name, for the message.

    Raises:
        SectionError: if there is none, with those that there are.
    """
    names = named_files(folder)
    if name not in names:
        guess = nearest(str(name), names)
        hint = f" Did you mean `{guess}`?" if guess else ""
        raise SectionError([f"{field}: {show(name)} is not accepted; write one of {', '.join(names)}.{hint}"])
    fields: dict[str, Any] = parse_yaml((_place(folder) / f"{name}.yaml").read_text(encoding="utf-8"), name)
    return fields


def _place(folder: str) -> Any:
    return files(__package__) / folder
