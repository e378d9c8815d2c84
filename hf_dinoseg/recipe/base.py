"""Recipes that share: `base: other.yaml` takes over what another recipe file says.

    base: ../base.yaml # relative to the file that names it
    model: {head: linear}

Sections are merged field by field, and the file that names a base wins over it. Lists, `labels.classes` and
`labels.colors` are replaced as a whole: half of one dataset's classes with half of another's is nobody's wish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from .messages import show
from .yaml_format import read_yaml

KEY = "base"
_WHOLE = (("labels", "classes"), ("labels", "colors"))


@dataclass(frozen=True)
class Layers:
    """A recipe file and its bases, nearest first: (file, what stands in it)."""

    files: Sequence[tuple[Path, dict[str, Any]]]

    def merged(self) -> dict[str, Any]:
        """One recipe of them all, a copy."""
        data: Any = {}
        for _, layer in reversed(self.files):
            data = merge(data, layer)
        return dict(deepcopy(data))

    def with_file(self, fault: str, overrides: Sequence[str] = ()) -> str:
        """A fault, with the base that its value stands in named; unchanged if it stands in the recipe itself."""
        name = fault.partition(":")[0].strip()
        if any(f"{name}.".startswith(f"{entry.partition('=')[0].strip()}.") for entry in overrides):
            return fault
        keys = name.split(".")
        depths = [_depth(data, keys) for _, data in self.files]
        deepest = depths.index(max(depths))
        if deepest == 0 or depths[deepest] < min(2, len(keys)):
            return fault
        return f"{fault} (This stands in {self.files[deepest][0]}.)"


def read_layers(path: str | Path) -> Layers:
    """Read a recipe file and the bases that it leads to.

    Raises:
        RecipeError: if one of the files cannot be read, or if a file is its own base.
    """
    files: list[tuple[Path, dict[str, Any]]] = []
    at: Path | None = Path(path)
    while at is not None:
        data = _read(at, files[-1][0] if files else None)
        named = data.pop(KEY, None)
        files.append((at, data))
        if named is None:
            break
        if not isinstance(named, str) or not named:
            raise RecipeError(
                [f"{KEY}: {show(named)} is not accepted; write the path of one recipe file, e.g. {KEY}: base.yaml."],
                str(at),
            )
        at = at.parent / named
        seen = [file.resolve() for file, _ in files]
        if at.resolve() in seen:
            chain = " -> ".join(map(str, [*(file for file, _ in files), at]))
            raise RecipeError(
                [f"{KEY}: {show(named)} leads back to where it came from: {chain}. Take one `{KEY}` out."],
                str(files[-1][0]),
            )
    return Layers(files)


def _read(path: Path, named_by: Path | None) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except RecipeError as error:
        if named_by is None:
            raise
        raise RecipeError([f"{KEY}: {path}: {fault}" for fault in error.faults], str(named_by)) from error


def merge(under: Any, over: Any, at: tuple[str, ...] = ()) -> Any:
    """Two layers of a recipe as one: `over` wins, field by field, but whole where half would be nonsense."""
    if not isinstance(under, Mapping) or not isinstance(over, Mapping) or at in _WHOLE:
        return over
    same = {key: merge(under[key], value, (*at, str(key))) for key, value in over.items() if key in under}
    return {**under, **over, **same}


def _depth(data: Any, keys: Sequence[str]) -> int:
    """How many of these keys lead somewhere, one below the other."""
    for depth, key in enumerate(keys):
        found = [k for k in data if str(k) == key] if isinstance(data, Mapping) else []
        if not found:
            return depth
        data = data[found[0]]
    return len(keys)
