"""What comes from outside runs nothing here: no unpickling, no code of others, no path out of a dataset's folder.

What is refused is tried out. Calls that the source must not make are for ruff's security rules, and for a test here
where it has none.
"""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_dinoseg.data.sources.table import load_table
from hf_dinoseg.errors import DataError, RecipeError, how_to_install
from hf_dinoseg.images import read_mask
from hf_dinoseg.recipe import load_recipe

ROOT = Path(__file__).parents[1]


def code_that_loads_more_than_data(source: str) -> list[str]:
    """Lines that ruff's security rules (pyproject.toml) have no rule for, or none without a preview."""
    trusting = {
        "torch.load": ("weights_only", "True", "False"),
        "np.load": ("allow_pickle", "False", "False"),
    }
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            option, safe, unsaid = trusting.get(name, ("trust_remote_code", "False", "False"))
            if given.get(option, unsaid) != safe:
                found.append(f"line {node.lineno}: {name}")
    return found


def test_loading_takes_data_only() -> None:
    files = [*ROOT.glob("hf_dinoseg/**/*.py"), ROOT / "train.py"]
    assert len(files) > 100
    assert {str(path): found for path in files if (found := code_that_loads_more_than_data(path.read_text()))} == {}
    bad = ("torch.load(p)", "np.load(p, allow_pickle=True)", "AutoModel.from_pretrained(n, trust_remote_code=given)")
    assert all(code_that_loads_more_than_data(source) for source in bad)


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


def test_a_mask_that_is_pickled_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    np.save(tmp_path / "mask.npy", np.array([Trap(trap)], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read_mask(tmp_path / "mask.npy")
    assert not trap.exists()


def test_a_published_head_that_is_pickled_is_refused(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hf_dinoseg.cli import app

    trap, head = tmp_path / "trap", tmp_path / "head.pth"
    torch.save({"model": Trap(trap)}, head)
    backbone = ROOT / "tests" / "reference" / "tiny_backbone"
    arguments = ["meta-linear", "--backbone", str(backbone), "--head", str(head), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["convert", *arguments])
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    assert not trap.exists()


def test_a_recipe_makes_no_objects(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"labels: !!python/object/apply:os.mkdir ['{trap}']\n")
    with pytest.raises(RecipeError):
        load_recipe(recipe)
    assert not trap.exists()


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "./../secret.png"])
def test_a_table_s_paths_stay_in_its_folder(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    for place in (tmp_path / "secret.png", folder / "own.png"):
        Image.new("L", (4, 4)).save(place)
    for row in (f"{path},own.png", f"own.png,{path}"):
        (folder / "table.csv").write_text(f"image,mask\n{row}\n")
        with pytest.raises(DataError, match="secret.png"):
            load_table(str(folder / "table.csv"), None, 0.5)


def test_every_dependency_has_a_lower_bound_and_a_reason() -> None:
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    config = configparser.ConfigParser()
    config.read_string(text)
    required = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    names = [line for block in required for line in block.splitlines() if line and not line.startswith("#")]
    assert len(names) > 20
    for line in names:
        if not line.startswith("hf-dinoseg["):
            assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+(,<\d+)?", line), line
    lines = text.splitlines()
    block = lines[lines.index("install_requires =") : lines.index("[options.packages.find]")]
    for above, line in zip(block, block[1:], strict=False):
        if ">=" in line and not line.strip().startswith("#"):
            assert above.strip().startswith("#"), f"{line.strip()} has no reason above it"


def test_every_file_that_is_no_code_is_installed_with_the_package() -> None:
    """An editable install has them all; others take what `package_data` names."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    named = {
        path
        for package, patterns in config["options.package_data"].items()
        for pattern in patterns.split(",")
        for path in (ROOT / package.replace(".", "/")).glob(pattern.strip())
    }
    there = {p for p in (ROOT / "hf_dinoseg").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".pyi")}
    assert there - named == set()


def test_what_is_missing_is_named_as_it_is_installed() -> None:
    """This package is on no index, so only its extras' packages, or a clone, can be installed."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    for extra, block in config["options.extras_require"].items():
        if extra == "dev":
            continue
        names = [re.split("[><]", line)[0] for line in block.splitlines() if line and not line.startswith("#")]
        said = how_to_install(extra)
        assert f"`pip install {' '.join(names)}`" in said and f"pip install -e '.[{extra}]'" in said
    for path in [*(ROOT / "hf_dinoseg").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        assert not re.search(r"pip install [^\n]*hf[-_]dinoseg", path.read_text(encoding="utf-8")), path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from hf_dinoseg.labels import LabelSpace
    from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegImageProcessor

    space = LabelSpace({0: "a", 1: "b"}).to_dict()
    backbone = {"model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DinoSegForSemanticSegmentation.from_backbone(backbone, head="linear", label_space=space)
    model.save_pretrained(tmp_path / "checkpoint")
    DinoSegImageProcessor(label_space=space).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_code_beside_a_checkpoint_is_not_run(checkpoint: Path) -> None:
    from hf_dinoseg.checkpoint import load_checkpoint

    trap, files = checkpoint.parent / "trap", list(checkpoint.glob("*.py"))
    assert files and "auto_map" in (checkpoint / "config.json").read_text()
    for file in files:
        file.write_text(f"open({str(trap)!r}, 'w').close()\n" + file.read_text())
    assert load_checkpoint(checkpoint).label_space.num_labels == 2
    assert not trap.exists()


def test_weights_that_are_pickled_are_refused(checkpoint: Path) -> None:
    from hf_dinoseg.checkpoint import load_checkpoint

    trap = checkpoint.parent / "trap"
    (checkpoint / "model.safetensors").unlink()
    torch.save({"head.classify.weight": Trap(trap)}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError):
        load_checkpoint(checkpoint)
    assert not trap.exists()


def test_security_md_says_what_loading_runs() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for word in ("Reporting", "trust_remote_code", "HF_TOKEN"):
        assert word in text


def test_each_line_of_security_md_names_tests_that_are_there() -> None:
    rows = [line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    for row in rows[2:]:
        _, trusted, bounds, shown_by = (cell.strip() for cell in row.strip("|").split(" | "))
        named = re.findall(r"`([\w/]+\.py)`", shown_by)
        assert named or (trusted == "yes" and bounds.startswith("nothing")), row
        for name in named:
            assert (ROOT / "tests" / name).is_file(), name
