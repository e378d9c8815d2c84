"""A recipe file with the reasons as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

_WIDTH = 110


def recipe_text(head: str, sections: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str]) -> str:
    """
    Args:
        head: sentences that the file begins with.
        sections: of the recipe; empty ones are left out.
        reasons: `section.field` to a sentence, written above the field.
    """
    lines = [f"# {line}" for line in textwrap.wrap(head, _WIDTH)]
    for section, fields in sections.items():
        if not fields:
            continue
        lines += ["", f"{section}:"]
        for name, value in fields.items():
            if reason := reasons.get(f"{section}.{name}"):
                lines += [f"  # {line}" for line in textwrap.wrap(reason, _WIDTH)]
            lines += textwrap.indent(_dump({name: value}), "  ").splitlines()
    return "\n".join(lines) + "\n"


def _dump(value: Any) -> str:
    """Mappings in block form; lists of numbers on one line."""

    class Dumper(yaml.SafeDumper):
        pass

    def sequence(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)

    Dumper.add_representer(list, sequence)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**6)
