"""The rules that keep the package readable: who imports whom, and what stands nowhere. Read from the source alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_dinoseg"

LOWER = {"labels", "models", "losses", "data", "metrics", "visualize", "inference"}
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "labels": set(),
    "pictures": set(),
    "models": set(),
    "losses": set(),
    "recipe": {"labels", "metrics"},
    "data": {"labels", "pictures"},
    "metrics": {"labels"},
    "visualize": {"labels"},
    "inference": {"labels", "pictures", "models", "visualize"},
    "training": LOWER,
    "doctor": LOWER | {"recipe", "hub", "version"},
    "hub": LOWER | {"recipe", "doctor", "version"},
    "objects": LOWER | {"recipe", "doctor", "hub", "training"},
    "build": LOWER | {"recipe", "doctor", "hub", "training", "objects", "version"},
    "dry_run": {"labels", "data", "recipe", "build"},
    "calibrate": LOWER | {"recipe", "hub", "training", "objects", "build"},
    "cli": LOWER | {"recipe", "doctor", "hub", "training", "objects", "build", "dry_run", "calibrate", "version"},
}
TRAVELS_WITH = {"torch", "transformers", "numpy", "PIL"}
DEVICES = ("cuda", "mps", "xpu", "npu", "hpu")

FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """`(line, dotted name)` of every import, wherever in the file; relative ones spelt out."""
    own = ("hf_dinoseg", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(own[: len(own) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            if node.module is None or module == "hf_dinoseg":
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def import_faults(source: str, path: Path) -> list[str]:
    tree, layer = ast.parse(source), layer_of(path)
    faults = []
    for line, name in imported(tree, path):
        parts = name.split(".")
        if parts[0] == "torchvision":
            faults.append(f"{line}: torchvision is never needed")
        if parts[0] in ("pickle", "dill", "cloudpickle", "joblib"):
            faults.append(f"{line}: nothing is pickled")
        if parts[0] == "hf_dinoseg" and (parts[1] if len(parts) > 1 else "") not in {layer} | MAY_IMPORT[layer]:
            faults.append(f"{line}: {layer} may not import {name}")
        if layer == "models" and parts[0] not in {"hf_dinoseg", *TRAVELS_WITH, *sys.stdlib_module_names}:
            faults.append(f"{line}: {name} may be missing where the model's code is loaded from a checkpoint")
    if layer == "models" and path.stem != "__init__":
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and (node.level > 1 or not node.module):
                faults.append(f"{node.lineno}: a travelling file imports siblings only, as `from .sibling import name`")
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and "." in node.module:
                faults.append(f"{node.lineno}: models/ is flat")
    return faults


def body_faults(source: str, path: Path) -> list[str]:
    tree = ast.parse(source)
    faults = []
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings may name devices
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if node.value.split(":")[0] in DEVICES:
                faults.append(f"{node.lineno}: device literal {node.value!r}")
        if isinstance(node, ast.Attribute) and node.attr in DEVICES:
            faults.append(f"{node.lineno}: .{node.attr} names a device")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name == "print" and layer_of(path) != "cli":
            faults.append(f"{node.lineno}: print; use logging")
        if name == "torch.load" and given.get("weights_only") != "True":
            faults.append(f"{node.lineno}: torch.load without weights_only=True runs what the file says")
        if name == "np.load" and given.get("allow_pickle", "False") != "False":
            faults.append(f"{node.lineno}: np.load with allow_pickle runs what the file says")
        if name in ("eval", "exec"):
            faults.append(f"{node.lineno}: {name}")
        if given.get("trust_remote_code") == "True":
            faults.append(f"{node.lineno}: trust_remote_code is for the user to give")
        if name in ("yaml.load", "yaml.load_all") and not is_safe_loader(given.get("Loader", ""), tree):
            faults.append(f"{node.lineno}: yaml.load without a SafeLoader")
    if len(source.splitlines()) >= 400:
        faults.append(f"{len(source.splitlines())} lines; a file is one concept, below 400")
    defines = any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body)
    if defines and not any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body[:2]):
        faults.append("1: no `from __future__ import annotations`")
    return faults


def is_safe_loader(name: str, tree: ast.AST) -> bool:
    bases = {
        node.name: [ast.unparse(base) for base in node.bases]
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    return name in ("yaml.SafeLoader", "yaml.CSafeLoader") or any(is_safe_loader(b, tree) for b in bases.get(name, []))


def test_every_part_of_the_package_has_a_rule() -> None:
    known = set(MAY_IMPORT) | {"__init__"}
    assert {layer_of(path) for path in FILES} <= known
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    if layer_of(path) != "__init__":  # the package's own __init__ offers names of every layer
        assert import_faults(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_house_rules(path: Path) -> None:
    assert body_faults(path.read_text(encoding="utf-8"), path) == []


def test_the_import_graph_has_no_way_up() -> None:
    """The table itself is acyclic, but for doctor and hub, which may use each other."""
    order = list(MAY_IMPORT)
    for layer, below in MAY_IMPORT.items():
        for other in below - {"doctor", "hub"}:
            assert layer not in MAY_IMPORT[other], (layer, other)
            assert other in order


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/head.py", "from ..labels import LabelSpace"),
        ("models/head.py", "from . import semantic"),
        ("models/head.py", "from .parts.head import x"),
        ("models/head.py", "import scipy"),
        ("models/head.py", "def f():\n    from hf_dinoseg.labels import LabelSpace"),
        ("losses/matcher.py", "from ..models import x"),
        ("data/masks.py", "from ..recipe import Recipe"),
        ("data/masks.py", "from .. import training"),
        ("data/masks.py", "import hf_dinoseg"),
        ("metrics/deep/x.py", "from ...build import train"),
        ("recipe/loader.py", "import hf_dinoseg.data.sources"),
        ("training/trainer.py", "from ..recipe import Recipe"),
        ("hub/card.py", "from ..build import train"),
        ("build.py", "from .cli import main"),
        ("data/augment.py", "import torchvision.transforms as T"),
        ("cli/x.py", "import pickle"),
    ],
)
def test_an_import_against_the_rules_is_found(file: str, source: str) -> None:
    assert import_faults(source, PACKAGE / file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "models/head.py",
            "from .semantic import x\nimport math, torch\nfrom transformers import Y\nfrom PIL import Image",
        ),
        ("build.py", "from .recipe import Recipe\nfrom .training.trainer import T"),
        ("cli/x.py", "from .. import build\nfrom ._errors import y\nfrom ..recipe import z"),
        ("recipe/loader.py", "from ..labels import LabelSpace\nfrom .faults import RecipeError\nimport pydantic"),
    ],
)
def test_an_import_within_the_rules_passes(file: str, source: str) -> None:
    assert import_faults(source, PACKAGE / file) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/x.py", "print(1)"),
        ("models/x.py", "device = 'cuda'"),
        ("models/x.py", "device = 'cuda:0'"),
        ("models/x.py", "import torch\ntorch.cuda.synchronize()"),
        ("models/x.py", "model.cuda()"),
        ("hub/x.py", "torch.load(path)"),
        ("hub/x.py", "torch.load(path, weights_only=False)"),
        ("hub/x.py", "AutoModel.from_pretrained(name, trust_remote_code=True)"),
        ("recipe/x.py", "yaml.load(text)"),
        ("recipe/x.py", "class L(yaml.Loader): pass\nyaml.load(text, Loader=L)"),
        ("data/x.py", "np.load(f, allow_pickle=True)"),
        ("data/x.py", "x = 1\n" * 400),
        ("data/x.py", "eval('1')"),
    ],
)
def test_a_line_against_the_house_rules_is_found(file: str, source: str) -> None:
    assert len(body_faults("from __future__ import annotations\n" + source, PACKAGE / file)) == 1


def test_lines_within_the_house_rules_pass() -> None:
    source = (
        '"""Runs on cuda."""\nfrom __future__ import annotations\nclass L(yaml.SafeLoader): pass\n'
        "yaml.load(text, Loader=L)\ntorch.load(p, weights_only=True)\nx.cpu()\nlogger.info('cuda is fast')"
    )
    assert body_faults(source, PACKAGE / "data/x.py") == []
    assert body_faults("from __future__ import annotations\nprint(1)", PACKAGE / "cli/x.py") == []
