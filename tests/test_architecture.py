"""Who may import whom: downward only, and `models/`, which travels with every checkpoint, nothing of the package."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hf_dinoseg"

#: From the bottom up; a part imports itself and what stands in rows before its own. `docs/architecture.md` draws it.
LAYERS = [
    {"version", "errors", "addresses", "figures", "labels", "models", "losses"},
    {"images"},
    {"data", "visualize", "checkpoint"},
    {"inference"},
    {"evaluation"},
    {"training"},
    {"recipe"},  # everything below takes plain arguments, never a Recipe
    {"doctor", "hub"},
    {"builders"},
    {"run"},
    {"calibrate", "testing"},
    {"new_recipe"},
    {"cli"},
]
BOTTOM = {"labels": {"errors"}, "losses": {"models"}}  # within the lowest row
TRAVELS_WITH = {"torch", "transformers", "numpy", "PIL"}
#: What code that travels may ask for in a `try`, and tell how to install where it is missing.
MAY_BE_MISSING = {"scipy.optimize", "hf_dinoseg.labels"}


def imported(source: str, path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever it does; relative ones spelt out."""
    own = ("hf_dinoseg", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(own[: len(own) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from names if node.module is None or module == "hf_dinoseg" else [module]


def faults(source: str, path: Path) -> list[str]:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    row = next(number for number, parts in enumerate(LAYERS) if part in parts)
    below = {name for parts in LAYERS[:row] for name in parts} | {part} | BOTTOM.get(part, set())
    below |= LAYERS[row] if part in ("doctor", "hub") else set()  # these two use one another
    found = []
    asked = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Try)]
    tried = {name for node in asked for name in imported(ast.unparse(node), path)}
    for name in imported(source, path):
        if part == "models" and name in tried & MAY_BE_MISSING:
            continue
        top, _, rest = name.partition(".")
        if top == "hf_dinoseg" and rest.partition(".")[0] not in ({"models"} if part == "models" else below):
            found.append(f"{path.name}: {part} may not import {name}")
        if part == "models" and top not in {"hf_dinoseg", *TRAVELS_WITH, *sys.stdlib_module_names}:
            found.append(f"{path.name}: {name} may be missing where a checkpoint's code is loaded")
        if part == "models" and top == "hf_dinoseg" and name.count(".") != 2:
            found.append(f"{path.name}: models/ is flat; write `from .sibling import name`")
    return found


def test_imports_run_downward() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    assert len(files) > 100
    assert [fault for path in files for fault in faults(path.read_text(encoding="utf-8"), path)] == []


def test_an_import_upward_is_found() -> None:
    upward = {
        "models/head_x.py": ["from ..labels import LabelSpace", "from .parts.head import x"],
        "models/loss_x.py": ["from scipy.optimize import x", "try:\n    from ..recipe import x\nexcept: pass"],
        "data/x.py": ["from ..recipe import Recipe", "from .. import training", "def f():\n    import hf_dinoseg.run"],
        "training/x.py": ["from ..recipe import Recipe"],
        "hub/x.py": ["from ..run import train"],
    }
    for file, sources in upward.items():
        assert all(faults(source, PACKAGE / file) for source in sources), file
