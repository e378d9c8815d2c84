"""What a configuration may say: types and sizes, checked before anything is made of them.

`config.json` and `preprocessor_config.json` may come from anyone. A wrong type is told here in a sentence, and a size
that no model has is refused before memory or time is spent on it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

#: No published model has a size near it.
LARGEST = 65536
#: layers of a network, and stages of one
MOST_LAYERS = 1024
_LARGEST_ID = 2**31 - 1  # of 32-bit masks
_POSITIVE = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlong = 30


def shown(value: Any) -> str:
    """A value as a message shows it: never longer than a line."""
    return _short.repr(value)


def is_whole(value: Any, least: int = -LARGEST, most: int = LARGEST) -> bool:
    """Whether a value is a whole number within bounds; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def check(fine: bool, name: str, value: Any, what: str) -> None:
    """
    Raises:
        ValueError: `name is value; it is what.`, if it is not fine.
    """
    if not fine:
        raise ValueError(f"{name} is {shown(value)}; it is {what}.")


def check_threshold(value: Any) -> None:
    """
    Raises:
        ValueError: if it is neither None nor a number above 0.
    """
    check(value is None or (is_number(value) and value > 0), "background_threshold", value, "a number above 0, or null")


def check_names(id2label: Any) -> None:
    """
    Raises:
        ValueError: if it is no mapping of whole numbers, or their text.
    """
    fine = isinstance(id2label, Mapping) and len(id2label) <= LARGEST and all(_is_id(key, 0) for key in id2label)
    check(fine, "id2label", id2label, f"a mapping of whole numbers to names, at most {LARGEST}")


def check_label_space(space: Any) -> None:
    """Check what `models/` reads of a label space; the rest is `LabelSpace`'s.

    Raises:
        ValueError: naming the field.
    """
    check(isinstance(space, Mapping), "label_space", space, "a mapping, or null")
    for key in ("classes", "original_ids", "ignore_index"):
        if key not in space:
            raise ValueError(f"label_space has no {key}; store what LabelSpace.to_dict() gives.")
    ids = space["original_ids"]
    fine = (
        isinstance(ids, list) and 0 < len(ids) < LARGEST and all(_is_id(i) for i in ids) and len(set(ids)) == len(ids)
    )
    check(fine, "label_space.original_ids", ids, f"a list of different whole numbers, at most {LARGEST - 1}")
    for key in ("ignore_index", "void_id"):
        if key in space:
            check(_is_id(space[key]), f"label_space.{key}", space[key], "a whole number")
    classes = space["classes"]
    fine = isinstance(classes, Mapping) and len(classes) < LARGEST and all(map(_is_id, classes))
    check(fine, "label_space.classes", classes, f"a mapping of ids to names, at most {LARGEST - 1}")
    if missing := {int(i) for i in ids} - {int(i) for i in classes}:
        raise ValueError(f"label_space.classes names no {shown(sorted(missing))}, which original_ids holds.")


def check_backbone(fields: Any) -> None:
    """Check the sizes of a backbone's configuration before transformers makes one of it.

    Raises:
        ValueError: naming the field.
    """
    check(isinstance(fields, Mapping), "backbone_config", fields, "a mapping with model_type, or null")
    check(isinstance(fields.get("model_type"), str), "backbone_config.model_type", fields.get("model_type"), "a name")
    for key, value in fields.items():
        name = f"backbone_config.{key}"
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if isinstance(value, (list, tuple)):
            check(len(value) <= MOST_LAYERS, name, value, f"a list of at most {MOST_LAYERS}")
        layers = str(key).endswith("layers") or key == "depths"
        most, least = MOST_LAYERS if layers else LARGEST, 1 if key in _POSITIVE else -LARGEST
        for number in numbers:
            if isinstance(number, int) and not is_whole(number, least, most) and not isinstance(number, bool):
                raise ValueError(f"{name} is {shown(value)}; its numbers lie between {least} and {most}.")


def _is_id(value: Any, least: int = -_LARGEST_ID - 1) -> bool:
    """Whether a value is a whole number, or the text of one, as keys of JSON objects are."""
    if isinstance(value, str):
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
            return False
        value = int(value)
    return is_whole(value, least, _LARGEST_ID)


__all__ = [
    "LARGEST",
    "MOST_LAYERS",
    "check",
    "check_backbone",
    "check_label_space",
    "check_names",
    "check_threshold",
    "is_number",
    "is_whole",
    "shown",
]
