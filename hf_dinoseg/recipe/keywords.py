"""A recipe from Python: an object, a file, plain data, and keywords that are fields of it by their bare names.

    train(images="photos", masks="masks", classes=["background", "vessel"], max_steps=2000)

is the recipe `labels: {classes: {0: background, 1: vessel}}, data: {source: folder, …}, training: {max_steps: 2000}`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecipeError
from ..labels import LabelSpace
from .base import merge, read_layers
from .load import Recipe, load_recipe, other_sections
from .messages import nearest, show
from .schema_data import SECTIONS, DataFields, sources_of
from .schema_training import NOT_TAKEN, training_fields

#: Where transformers' TrainingArguments puts what is given no folder.
OUTPUT_DIR = "trainer_output"

_SECTIONS = tuple(field.name for field in dataclasses.fields(Recipe))
_SHARE = 0.2  # of the images, held out where nothing divides them
_SPLIT_NAMES = {"train": ("train", "training"), "validation": ("val", "validation", "valid", "dev", "test")}


def recipe_of(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    keywords: Mapping[str, Any] | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    in_memory: bool = False,
    where: str = "recipe",
) -> Recipe:
    """The recipe that is meant.

    Args:
        recipe: a checked one, its file, plain data, or nothing.
        keywords: what is changed of it: whole sections (`labels={…}`, merged field by field), and fields of any
            section by their bare names. `classes` may be a list of names, numbered from 0, or from 1 where
            `reduce_zero_label` is set.
        images, masks: folders, as `data.image` and `data.mask` with their own roots. Without `train` and `validation`,
            subfolders of these names divide them, else a fifth is held out.
        in_memory: the data is given as an object; what the recipe says of where it is makes way.
        where: what faults are headed by.

    Raises:
        RecipeError: with every fault.
    """
    keywords = dict(keywords or {})
    if recipe is not None and not isinstance(recipe, (Recipe, str, os.PathLike, Mapping)):
        raise RecipeError(
            [f"a {type(recipe).__name__} is no recipe; give a Recipe, the path of a YAML file, or a dict."], where
        )
    named = images is not None or masks is not None
    if not keywords and not named and not in_memory:
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, (str, os.PathLike)):
            return load_recipe(os.fspath(recipe))
    base = _data_of(recipe)
    faults: list[str] = []
    given: dict[str, Any] = {}
    source = _source(base, keywords, named, in_memory)
    for key, value in keywords.items():
        _place(given, key, _plain(value), source, faults)
    if (images is None) != (masks is None):
        missing = "masks" if masks is None else "images"
        faults.append(f"{missing}: missing; images and masks are named together.")
    if faults:
        raise RecipeError(faults, where)
    data = merge(_without_place(base) if named or _moves(base, source) else base, given)
    if source is not None:
        data["data"] = {"source": source, **data.get("data", {})}
    if images is not None and masks is not None:
        data["data"] = {**data["data"], **_folders(images, masks, given.get("data", {}))}
    _number_classes(data)
    data.setdefault("training", {})
    if isinstance(data["training"], dict):
        data["training"].setdefault("output_dir", OUTPUT_DIR)
    missing_parts = [f"{name}: missing; {how}" for name, how in _PARTS.items() if not data.get(name)]
    if missing_parts and not isinstance(recipe, (str, os.PathLike)):
        raise RecipeError(missing_parts, where)
    return Recipe.from_dict(data, where if not isinstance(recipe, (str, os.PathLike)) else str(recipe))


_PARTS = {
    "labels": "name the classes by classes=['background', 'vessel'], in the order of their ids, or by labels={…}.",
    "data": "name folders by images=… and masks=…, give an object by dataset=…, or write data={'source': …}.",
}


def _data_of(recipe: Any) -> dict[str, Any]:
    if isinstance(recipe, Recipe):
        return recipe.to_dict()
    if isinstance(recipe, (str, os.PathLike)):
        return read_layers(os.fspath(recipe)).merged()
    return {} if recipe is None else {key: _plain(value) for key, value in recipe.items()}


# ---------------------------------------------------------------------- keywords to fields


def _source(base: Mapping[str, Any], keywords: Mapping[str, Any], named: bool, in_memory: bool) -> str | None:
    """The source of data that keywords are read for; None where there is none yet."""
    if in_memory:
        return "memory"
    if named:
        return "folder"
    section = keywords.get("data")
    told = section.get("source") if isinstance(section, Mapping) else None
    if isinstance(told := keywords.get("source", told), str):
        return told
    data = base.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("source"), str):
        return str(data["source"])
    own = [s for s in ("table", "synthetic-retina") if (_own_fields(s) - _own_fields("folder")) & set(keywords)]
    return "folder" if "root" in keywords and "file" not in keywords else own[0] if own else None


def _own_fields(source: str) -> set[str]:
    return {name for model in SECTIONS if source in sources_of(model) for name in model.model_fields}


def _moves(base: Mapping[str, Any], source: str | None) -> bool:
    data = base.get("data")
    return isinstance(data, Mapping) and source is not None and data.get("source") not in (None, source)


def _without_place(base: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without what it says of where its data is."""
    data = base.get("data")
    crops = {k: v for k, v in data.items() if k in DataFields.model_fields} if isinstance(data, Mapping) else {}
    return {**base, "data": crops}


def _place(given: dict[str, Any], key: str, value: Any, source: str | None, faults: list[str]) -> None:
    """Put a keyword where it belongs."""
    key = {"label_space": "labels"}.get(key, key)
    if key in _SECTIONS:
        if key == "labels" and isinstance(value, str):
            value = {"preset": value}
        if not isinstance(value, Mapping):
            faults.append(f"{key}: {show(value)} is not accepted; {key} is a section, so give a dict of its fields.")
            return
        for name, inner in value.items():
            given.setdefault(key, {})[name] = inner
        return
    owners = [name for name in other_sections(key) if name.rpartition(".")[2] == key]
    if key in NOT_TAKEN:
        owners.append(f"training.{key}")
    mine = source is None or key in _own_fields(source)
    if not mine and len(owners) > 1:  # a field of another source of data
        owners = [name for name in owners if not name.startswith("data.")]
    if len(owners) == 1:
        section = owners[0].partition(".")[0]
        given.setdefault(section, {})[key] = value
    elif owners:
        options = " or ".join(f"{name.partition('.')[0]}={{'{key}': {show(value)}}}" for name in owners)
        why = f" ({NOT_TAKEN[key]})" if key in NOT_TAKEN else ""
        both = " and of ".join(name.partition(".")[0] for name in owners)
        faults.append(f"{key}: a field of {both}; write {options}{why}.")
    else:
        names = [*_SECTIONS, "images", "masks", "dataset", *training_fields()]
        close = other_sections(key)
        guess = nearest(key, names) or (close[0].rpartition(".")[2] if close else None)
        hint = f"Did you mean {guess}?" if guess else "Keywords are fields of a recipe by their bare names."
        faults.append(f"{key}: unknown (given {show(value)}). {hint}")


def _number_classes(data: dict[str, Any]) -> None:
    labels = data.get("labels")
    if isinstance(labels, Mapping) and isinstance(classes := labels.get("classes"), list):
        first = 1 if labels.get("reduce_zero_label") is True else 0
        data["labels"] = {**labels, "classes": dict(enumerate(classes, first))}


def _plain(value: Any) -> Any:
    """Plain data, as YAML has it."""
    if isinstance(value, LabelSpace):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(LabelSpace)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return [_plain(inner) for inner in value]
    return value


# ---------------------------------------------------------------------- folders


def _folders(images: str | os.PathLike[str], masks: str | os.PathLike[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """`root`, `image`, `mask` and, where they are not given, `train` and `validation` of two folders."""
    names = [os.path.expanduser(os.fspath(name)) for name in (images, masks)]
    if any(map(os.path.isabs, names)):
        names = [os.path.abspath(name) for name in names]
    root = os.path.commonpath([_fixed_parent(name) for name in names]) or "."
    fields: dict[str, Any] = dict(zip(("image", "mask"), (os.path.relpath(name, root) for name in names), strict=True))
    if "train" not in given and "validation" not in given and not any("{" in name for name in names):
        found = {
            split: next((n for n in usual if all(Path(name, n).is_dir() for name in names)), None)
            for split, usual in _SPLIT_NAMES.items()
        }
        if all(found.values()):
            fields = {key: f"{value}/{{split}}" for key, value in fields.items()} | found
    if not any("{split}" in fields[key] for key in ("image", "mask")) and "validation" not in given:
        fields["validation"] = _SHARE
    return {"root": root, **fields}


def _fixed_parent(name: str) -> str:
    """The folder that holds a folder, or what of a template's path is fixed."""
    parts: Sequence[str] = Path(name).parts
    fixed = next((i for i, part in enumerate(parts) if "{" in part or "*" in part), len(parts) - 1)
    return os.path.join(*parts[:fixed]) if fixed else ""


__all__ = ["OUTPUT_DIR", "recipe_of"]
