"""Reading and writing YAML as a recipe means it, and the overrides of a command line.

PyYAML follows YAML 1.1, where `2e-5` is text, `no` is false, `010` is eight, `12:30` is 750 and the second of two equal
keys wins. A recipe is read by the rules of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema):
`1e-4` is a number, `no` stays a word, and equal keys are an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from .messages import show

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_RESOLVERS = (  # the first that matches wins, so a whole number is never a float
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"<<"), "<"),
)


#: values that aliases (`*name`) may add to those that are written
_MOST_REPEATED = 100_000
#: bytes of a recipe file; ids, names and colours of 65535 classes take less
_LARGEST_FILE = 1 << 22


def _values(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node has when aliases are written out. `sizes` holds those of the nodes seen; one that is
    within itself counts nothing there, and is told later."""
    if id(node) not in sizes:
        sizes[id(node)] = 0
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = isinstance(node, yaml.MappingNode)
        inside = (part for child in children for part in (child if pairs else (child,)))
        sizes[id(node)] = 1 + sum(_values(part, sizes) for part in inside)
    return sizes[id(node)]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}

    def get_single_node(self) -> yaml.Node | None:
        """As PyYAML's, with a limit on aliases. PyYAML does not copy what an alias repeats, but code that walks through
        the values does: ten lines that each repeat the line above ten times have ten thousand million values."""
        node: yaml.Node | None = super().get_single_node()
        sizes: dict[int, int] = {}
        if node is not None and _values(node, sizes) - len(sizes) > _MOST_REPEATED:
            raise yaml.MarkedYAMLError(
                problem=f"its aliases repeat more than {_MOST_REPEATED} values; write out what they stand for",
                problem_mark=node.start_mark,
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word or a number", problem_mark=key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                first = seen[key.value].start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"`{key.value}` stands twice, first in line {first}; keep one", problem_mark=key.start_mark
                )
            seen[key.value] = key
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML's, whose constructors raise whatever they meet when a tag does not fit what it stands before."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(problem=f"this is no {kind}", problem_mark=node.start_mark) from error


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.replace(".inf", "inf").replace(".nan", "nan") if node.value[-1].isalpha() else node.value)


def _list(dumper: yaml.SafeDumper, data: Sequence[Any]) -> yaml.Node:
    """Lists of plain values in one line, as one writes `[0.5, 2.0]` by hand."""
    flow = not any(isinstance(value, (Mapping, list, tuple)) for value in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


for _name, _pattern, _first in _RESOLVERS:
    _anchored = re.compile(rf"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _anchored, list(_first))
    if _name in ("int", "float"):
        _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _anchored, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)


def parse_yaml(text: str, where: str) -> Any:
    """Plain data from YAML.

    Args:
        text: one YAML document.
        where: what to call it in an error.

    Raises:
        RecipeError: with the line and column, if it is no YAML or has a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise RecipeError([_fault(error, text)], where) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError([f"not YAML: {str(error).splitlines()[0]}."], where) from error


def _fault(error: yaml.MarkedYAMLError, text: str) -> str:
    """What is wrong and where. YAML notices a missing bracket or quote late, often at the file's end. The place where
    it was opened is therefore named first."""
    problem, opened = error.problem_mark or error.context_mark, error.context_mark
    context = f" {error.context}" if error.context else ""
    if problem is None:
        return f"{error.problem or 'not YAML'}{context}."
    at_end = problem.index >= len(text.rstrip())
    if at_end and opened is not None and opened.index < problem.index:
        told = f"{_place(opened)}: what begins here is not closed before the end{context}: {error.problem}."
    elif opened is not None and opened.line != problem.line:
        told = f"{_place(problem)}: {error.problem}{context}, which begins at {_place(opened)}."
    else:
        told = f"{_place(problem)}: {error.problem or 'not YAML'}{context}."
        told += " The text ends before it is complete." if at_end else ""
    lines = text.splitlines()  # a mark at the end of a text may stand one line below its last
    marked = [lines[mark.line] for mark in (problem, opened) if mark is not None and mark.line < len(lines)]
    if any("/{split}" in line for line in marked):
        told += ' Inside {...}, put quotes around a template: image: "images/{split}".'
    return told


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: if the file cannot be read, is no YAML or holds no mapping.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise RecipeError([f"has more than {_LARGEST_FILE} bytes; no recipe is so large."], str(path))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = ""
        if "=" in path.name:
            hint = " It looks like an override; the recipe file comes before the overrides."
        elif path.parent.is_dir() and (others := sorted(p.name for p in path.parent.glob("*.y*ml"))):
            hint = f" {path.parent} holds {', '.join(others[:8])}."
        raise RecipeError([f"there is no such file.{hint}"], str(path)) from None
    except IsADirectoryError:
        raise RecipeError(["this is a folder; name the recipe file in it."], str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"cannot be read as UTF-8 text: {error}."], str(path)) from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        seen = "nothing" if data is None else show(data)
        raise RecipeError([f"holds {seen}; a recipe is a mapping of sections (labels, data, model, ...)."], str(path))
    try:
        json.dumps(data, default=repr)
    except (ValueError, RecursionError):
        raise RecipeError(["holds an anchor that refers to itself; write the value out."], str(path)) from None
    return data


def write_yaml(data: Mapping[str, Any]) -> str:
    """YAML that `parse_yaml` reads back as the same data, and that YAML 1.1 readers understand alike."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Write `section.key=value` entries into `data`, in place and in order.

    Values are read as YAML: `1e-4` is a number, `[255]` a list, nothing after the `=` is null.

    Returns:
        The faults: entries that are no override, or that go into a value which is no mapping.
    """
    faults = []
    for entry in overrides:
        name, equals, text = entry.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            faults.append(f"{entry}: not an override; write section.key=value, e.g. training.max_steps=100.")
            continue
        try:
            value = parse_yaml(text, name)
        except RecipeError as error:
            faults.append(f"{name}: {show(text)} is not YAML: {error.faults[0]} Put quotes around it if it is text.")
            continue
        at: dict[Any, Any] = data
        for depth, key in enumerate(keys[:-1]):
            found = _same_key(at, key)
            if at.get(found) is None:
                at[found] = {}
            if not isinstance(at[found], dict):
                parent = ".".join(keys[: depth + 1])
                faults.append(f"{name}: {parent} is {show(at[found])}, not a mapping; override {parent} as a whole.")
                break
            at = at[found]
        else:
            at[_same_key(at, keys[-1])] = value
    return faults


def _same_key(mapping: Mapping[Any, Any], key: str) -> Any:
    """The key of a mapping that is spelt like this one (`0` as a number, too), else a new one."""
    return next((k for k in mapping if str(k) == key), int(key) if key.isdigit() else key)
