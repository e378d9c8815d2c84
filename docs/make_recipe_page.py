"""Writes docs/recipe.md from the recipe's own definitions: python docs/make_recipe_page.py [--check]"""

from __future__ import annotations

import argparse
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.recipe import schema, schema_data
from hf_dinoseg.recipe.schema_training import _DEFAULTS, _OWNED, NOT_TAKEN, OWN, RULES

PAGE = Path(__file__).with_name("recipe.md")

HEAD = """# Every field of a recipe

<!-- Written by docs/make_recipe_page.py from the definitions in hf_dinoseg/recipe/ and hf_dinoseg/labels.py. -->

A recipe is a YAML file of seven sections: `labels`, `data`, `model`, `loss`, `training`, `evaluation`, `hub`. The first
two and `training.output_dir` must be written; everything else has a default. Any field can be changed on the command
line, `section.key=value`; the value is read as YAML. Unknown fields, wrong types and contradictions are errors that are
all listed at once, before anything is loaded. What a run used, every default filled in, stands in the `recipe.yaml` of
its output folder; `--print` shows it without training.

```bash
dinoseg train recipe.yaml training.max_steps=100 --print        # the whole recipe, and stop
dinoseg train recipe.yaml training.max_steps=100 --dry-run      # the same, and two steps on generated images
```

## base

Recipes that have much in common share it: `base: other.yaml` takes over what another recipe file says, and what stands
beside it wins, field by field. Lists, `labels.classes` and `labels.colors` are replaced as a whole; `null` takes a
value of the base back. The path starts from the file that names it, and a base may have a base. A resolved recipe has
none: everything is written out. The recipes of [ADE20K](../recipes/ade20k) are made so.

## protocol

`protocol: eomt_dinov3` starts from a published way to train and to measure: see [protocols](protocols.md), which lists
them. It stands below the recipe and its bases. `--print` lists what the recipe changed of it, and the model card does.
"""


def type_of(annotation: Any) -> str:
    """A type in the words of the page."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_of(a) for a in arguments))
    if origin in (list, tuple):
        return "list of " + " or ".join(dict.fromkeys(type_of(a) for a in arguments if a is not Ellipsis))
    if origin is dict or annotation is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "`null`"}
    return words.get(annotation, "value")


def as_yaml(value: Any) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def row(name: str, kind: str, default: str, meaning: str) -> str:
    return f"| `{name}` | {kind} | {default} | {meaning} |".replace("\n", " ")


TABLE = "| field | type | default | meaning |\n| --- | --- | --- | --- |"


def fields_of(model: type[BaseModel], without: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    rows = [TABLE]
    for name, field in model.model_fields.items():
        if name in without:
            continue
        if field.default_factory is not None:
            default = as_yaml(field.default_factory())  # type: ignore[call-arg]
        else:
            default = "required" if field.default is PydanticUndefined else as_yaml(field.default)
        rows.append(row(name, type_of(field.annotation), default, (field.description or "").replace("|", "\\|")))
    return rows


def labels() -> list[str]:
    """From the docstring of LabelSpace: one entry a field."""
    text = re.search(r"Args:\n(.*?)\n\n", LabelSpace.__doc__ or "", flags=re.DOTALL)
    assert text is not None
    entries = re.findall(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", text[1] + "\n", flags=re.DOTALL | re.MULTILINE)
    rows = ["| field | meaning |", "| --- | --- |"]
    return rows + [f"| `{name}` | {' '.join(meaning.split())} |" for name, meaning in entries]


def data() -> list[str]:
    shared = set(schema_data.DataFields.model_fields)
    lines = [*fields_of(schema_data.DataFields), ""]
    for model in typing.get_args(typing.get_args(schema_data.Data)[0]):
        (kind,) = [typing.get_args(model.model_fields["source"].annotation)] if "source" in model.model_fields else [()]
        names = ", ".join(f"`{k}`" for k in kind)
        lines += [f"### `source`: {names}", "", " ".join((model.__doc__ or "").split()), ""]
        lines += [*fields_of(model, shared | {"source"}), ""]
    return lines


def training() -> list[str]:
    lines = [
        "Every field of transformers' "
        "[`TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments)."
        " These defaults are this package's:",
        "",
        "| field | default |",
        "| --- | --- |",
        *[f"| `{name}` | {as_yaml(value)} |" for name, value in _DEFAULTS.items()],
        "",
        "These follow from other fields where the recipe does not give them, and stand as numbers in the `recipe.yaml` "
        "of the output folder:",
        "",
        "| field | default |",
        "| --- | --- |",
        *[f"| `{name}` | {rule} |" for name, rule in RULES.items()],
        "",
        "`lr_scheduler_type` takes transformers' schedules and two more. `polynomial`: power 0.9, end 0. `cosine`: "
        "half a cosine to 0. `one_cycle`: torch's `OneCycleLR`, up to `learning_rate` over `warmup_steps` and down "
        "again, the momentum the other way; `lr_scheduler_kwargs` takes its arguments. "
        "`model.backbone_warmup_steps` makes the polynomial one a warm-up in two stages, head first. Fields that "
        "TrainingArguments does not have:",
        "",
        TABLE,
        *[row(name, type_of(kind), as_yaml(value), says) for name, (kind, value, says) in OWN.items()],
        "",
        "These are settled:",
        "",
        "| field | value | because |",
        "| --- | --- | --- |",
        *[f"| `{name}` | {as_yaml(value)} | {why} |" for name, (value, why) in _OWNED.items()],
        "",
        "And these are said elsewhere:",
        "",
        "| field | instead |",
        "| --- | --- |",
        *[f"| `{name}` | {why} |" for name, why in NOT_TAKEN.items()],
    ]
    return lines


def page() -> str:
    sections = [
        ("labels", "What the numbers or colours of masks mean; see [labels.md](labels.md).", labels()),
        ("data", "Where images and masks are; see [data.md](data.md). These fields go with every source:", data()),
        ("model", schema.Model.__doc__ or "", fields_of(schema.model_section())),
        ("loss", schema.Loss.__doc__ or "", fields_of(schema.Loss)),
        ("training", "", training()),
        ("evaluation", schema.Evaluation.__doc__ or "", fields_of(schema.Evaluation)),
        ("hub", schema.Hub.__doc__ or "", fields_of(schema.Hub)),
    ]
    parts = [HEAD]
    for name, says, lines in sections:
        says = " ".join(says.split())
        parts.append("\n".join([f"## {name}", "", *([says, ""] if says else []), *lines]).rstrip() + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    if parser.parse_args().check:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE} is out of date; run this script.")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
