"""What a wrong recipe is told: one line a fault, each naming the field, the value, what is accepted and the nearest
spelling.

Pydantic finds the faults. Its own messages were tried on 20 wrong values and misspelt fields. They gave 6 another place
than the recipe does (`folder.crop_sizes`, `backbone.dict[str,any]`). They never suggested a spelling, where 9 had a
likely one. They name types, choices and bounds well, but not that null is accepted too.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from operator import getitem
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ValidationError

Finder = Callable[[str], Sequence[str]]
"""From an unknown key to the dotted names of fields elsewhere in the recipe that are spelt like it."""


class SectionError(ValueError):
    """Raised inside a validator, for pydantic to carry: faults of a part that is checked by a model of its own."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


def show(value: Any) -> str:
    """A value as a recipe would spell it, shortened."""
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(word: str, words: Sequence[str]) -> str | None:
    """The likely spelling: letters swapped or lost, or the one name that the word begins or is part of."""
    if close := difflib.get_close_matches(word, words, n=1, cutoff=0.7):
        return close[0]
    parts = [w for w in words if len(word) > 3 and word in w.split("_")]
    return parts[0] if len(parts) == 1 else None


def list_faults(error: ValidationError, schema: Any, data: Any, path: str, find: Finder = lambda key: ()) -> list[str]:
    """The lines for everything that pydantic found.

    Args:
        error: what pydantic raised.
        schema: the type that was validated: a model, a dataclass, or a union of models told apart by `source`.
        data: the plain data that was validated.
        path: the dotted name of `schema` in the recipe, e.g. `model`.
        find: looks an unknown key up in the other sections.
    """
    found: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        place = _Place(schema, data, path, item)
        if place.dotted not in found:  # the branches of a union tell of one value several times
            found[place.dotted] = _lines(item, place, find)
    return [line for lines in found.values() for line in lines]


class _Place:
    """Where a fault is: the names that lead there, the data and the type that stand there."""

    def __init__(self, schema: Any, data: Any, path: str, item: Any) -> None:
        self.path, self.schema, self.data = path, schema, data
        self.names = _real_names(item["loc"], data, item["type"])
        self.dotted = ".".join([path, *map(str, self.names)])
        self.parent = self.dotted.rpartition(".")[0]
        self.value = data
        for name in self.names:
            self.value = _inner(self.value, name)

    @property
    def accepted(self) -> str:
        """What may stand here, in words."""
        return describe(_schema_at(self.schema, self.data, self.names))

    @property
    def section(self) -> Any:
        """The model or dataclass that this place is a field of."""
        return _schema_at(self.schema, self.data, self.names[:-1])

    @property
    def siblings(self) -> list[type[BaseModel]]:
        """The models that might stand where `section` does."""
        return _models(_schema_at(self.schema, self.data, self.names[:-1], union=True))


def _lines(item: Any, at: _Place, find: Finder) -> list[str]:
    kind, cause = item["type"], item.get("ctx", {}).get("error")
    if isinstance(cause, SectionError):
        return cause.faults
    if cause is not None:  # our own sentence; the label space's name the field already
        text = str(cause)
        return [text if re.split(r"[.:]", text)[0] == at.path else f"{at.dotted}: {text}"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = [tag for model in _models(_schema_at(at.schema, at.data, at.names)) for tag in _tags(model)]
        given = at.value.get("source") if isinstance(at.value, Mapping) else None
        told = "missing" if given is None else f"{show(given)} is not accepted"
        guess = _did_you_mean(nearest(str(given), tags))
        return [f"{at.dotted}.source: {told}; write one of {', '.join(tags)}.{guess}"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return [f"{at.dotted}: unknown field (given {show(at.value)}). {_unknown_hint(at, find)}"]
    if kind == "missing" and at.names and item["loc"][-1] == at.names[-1]:
        return [f"{at.dotted}: missing; write {_description(at) or at.accepted}."]
    if item["loc"] and item["loc"][-1] == "[key]":
        return [f"{at.parent}: the key {show(item['input'])} is not accepted; write {_of_parent(at)}."]
    if not at.names:
        return [f"{at.dotted}: {show(at.value)} is not accepted; write a mapping of fields."]
    return [f"{at.dotted}: {show(at.value)} is not accepted; write {at.accepted}.{_value_hint(at.value, at.accepted)}"]


def _value_hint(value: Any, accepted: str) -> str:
    if not isinstance(value, str):
        return ""
    words = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
    if "true or false" in accepted and value.lower() in words:
        return f" `{value}` is a word here, as in YAML 1.2; the value is `{words[value.lower()]}`."
    if "number" in accepted:
        try:
            float(value)
        except ValueError:
            return ""
        return " Quotes make it text; take them off."
    choices = re.findall(r"[\w.-]+", accepted.partition("one of ")[2])
    return _did_you_mean(nearest(value, choices))


def _did_you_mean(word: str | None) -> str:
    return f" Did you mean `{word}`?" if word else ""


def _unknown_hint(at: _Place, find: Finder) -> str:
    key = str(at.names[-1])
    known = list(_field_types(at.section))
    if others := [m for m in at.siblings if m is not at.section and key in m.model_fields]:
        owners = dict.fromkeys(tag for model in others for tag in _tags(model))
        return f"`{key}` belongs to source {', '.join(owners)}; here the source is {', '.join(_tags(at.section))}."
    elsewhere = [name for name in find(key) if name.rpartition(".")[0] != at.parent]
    if exact := [name for name in elsewhere if name.rpartition(".")[2] == key]:
        return f"`{key}` belongs to `{exact[0].rpartition('.')[0]}`: write {exact[0]}."
    if guess := nearest(key, known):
        return f"Did you mean {at.parent}.{guess}?"
    if elsewhere:
        return f"Did you mean {elsewhere[0]}?"
    return f"Known fields: {', '.join(known)}." if 0 < len(known) <= 24 else f"`{at.parent}` has no such field."


def _description(at: _Place) -> str | None:
    section = at.section
    if isinstance(section, type) and issubclass(section, BaseModel) and at.names[-1] in section.model_fields:
        return section.model_fields[at.names[-1]].description
    return None


def _of_parent(at: _Place) -> str:
    return describe(_schema_at(at.schema, at.data, at.names[:-1]))


# ---------------------------------------------------------------------- walking schema and data


def _real_names(loc: Sequence[Any], data: Any, kind: str) -> list[Any]:
    """The parts of a pydantic location that are keys of the data; the rest names branches of unions.

    A fault of a list's entry is told of the whole list: it is short, and what is accepted is said of the list. Entries
    that are mappings are told of one by one.
    """
    names: list[Any] = []
    for position, part in enumerate(loc):
        if isinstance(data, list) and isinstance(part, int) and part < len(data) and isinstance(data[part], Mapping):
            names.append(part)
            data = data[part]
            continue
        if not isinstance(data, Mapping):
            break
        key = next((k for k in data if str(k) == str(part)), None)
        if key is not None or (kind == "missing" and position == len(loc) - 1):
            names.append(part)
            data = data.get(key)
    return names


def _inner(data: Any, name: Any) -> Any:
    """What stands under a key of a mapping, or in a place of a list; None where there is none."""
    if isinstance(data, list) and isinstance(name, int):
        return data[name]
    return next((v for k, v in data.items() if str(k) == str(name)), None) if isinstance(data, Mapping) else None


def _models(schema: Any) -> list[type[BaseModel]]:
    """The models of a union, through Annotated."""
    if typing.get_origin(schema) is Annotated:
        schema = typing.get_args(schema)[0]
    return [m for m in typing.get_args(schema) if isinstance(m, type) and issubclass(m, BaseModel)]


def _tags(model: Any) -> list[str]:
    """The sources that a model describes."""
    return list(typing.get_args(model.model_fields["source"].annotation)) if "source" in model.model_fields else []


def _field_types(schema: Any) -> dict[str, Any]:
    """`{field: type}` of a model or a dataclass, bounds included as Annotated; else nothing."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {
            name: getitem(Annotated, (field.annotation, *field.metadata)) if field.metadata else field.annotation
            for name, field in schema.model_fields.items()
        }
    if isinstance(schema, type) and is_dataclass(schema):
        hints = typing.get_type_hints(schema)
        return {field.name: hints[field.name] for field in fields(schema)}
    return {}


def _schema_at(schema: Any, data: Any, names: Sequence[Any], union: bool = False) -> Any:
    """The type of the place that the names lead to; of a union the model that the data there says it is, unless the
    union itself is asked for."""
    if not (union and not names) and (models := _models(schema)) and isinstance(data, Mapping):
        schema = next((m for m in models if data.get("source") in _tags(m)), schema)
    if names and isinstance(names[0], int) and isinstance(data, list):
        entry = typing.get_args(_bounds(schema)[0])[0]
        return _schema_at(entry, data[names[0]], names[1:], union)
    types_ = _field_types(schema)
    if not names or names[0] not in types_:  # a key inside a free mapping: what the mapping accepts
        return schema
    return _schema_at(types_[names[0]], _inner(data, names[0]), names[1:], union)


# ---------------------------------------------------------------------- types in words

_ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping", list: "a list"}
_MANY = {int: "whole numbers", float: "numbers", str: "words", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def describe(annotation: Any) -> str:
    """A type in words: `describe(int | None)` is "a whole number, or null"."""
    annotation, bounds = _bounds(annotation)
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = dict.fromkeys(describe(a) + bounds for a in args if a is not type(None))
        return " or ".join(parts) + (", or null" if type(None) in args else "")
    return _kind(annotation, args) + bounds


def _bounds(annotation: Any) -> tuple[Any, str]:
    if typing.get_origin(annotation) is not Annotated:
        return annotation, ""
    annotation, *extra = typing.get_args(annotation)
    marks = [mark for item in extra for mark in (getattr(item, "metadata", None) or [item])]
    told = [f"{word} {getattr(m, name):g}" for m in marks for name, word in _BOUNDS.items() if hasattr(m, name)]
    told += ["not empty" for m in marks if getattr(m, "min_length", 0) == 1]
    return annotation, f", {' and '.join(told)}" if told else ""


def _kind(annotation: Any, args: tuple[Any, ...]) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}" if len(args) > 1 else str(args[0])
    if origin in (list, tuple) and args:
        entry, bounds = _bounds(args[0])
        many = _MANY.get(entry, "entries from the same" if typing.get_origin(entry) is Literal else "entries")
        count = f"{len(args)} " if origin is tuple and Ellipsis not in args else ""
        return f"a list of {count}{many}" + bounds.replace(", ", ", each ", 1)
    if origin is dict and args[1] is not Any:
        return f"a mapping of {_MANY.get(args[0], 'keys')} to {_MANY.get(args[1], 'lists')}"
    return _ONE.get(origin or annotation, "a mapping of fields")
