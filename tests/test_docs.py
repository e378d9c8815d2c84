"""What the pages in docs/ tell people to type is typed here, page by page and in order, on a tiny checkpoint."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.data import draw_fundus
from hf_dinoseg.recipe import Recipe, load_recipe
from hf_dinoseg.run import train

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
# Pages whose commands need data or a Hub of their own have a test of their own.
ELSEWHERE = {"data", "sharing", "deployment", "python", "transformers"}
# These would reach for the Hub, open a page, or need another dataset; their own tests run them.
ONLY_PARSED = {"push", "demo", "convert"}
NOT_OURS = {"pip", "hf", "make", "docker", "python"}


def _blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block, which may be indented."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


@pytest.fixture(scope="module")
def zero_run(tmp_path_factory: pytest.TempPathFactory, write_tiny_recipe: Callable[[Path], Path]) -> Path:
    """A checkpoint to which label 0 is void."""
    folder = tmp_path_factory.mktemp("zero")
    labels = "labels={classes: {1: artery, 2: vein, 3: disc}, reduce_zero_label: true, ignore: [255]}"
    overrides = [labels, "training.max_steps=1", "training.eval_steps=1", "evaluation.panels=0"]
    train(load_recipe(write_tiny_recipe(folder), overrides))
    return folder / "run"


@pytest.fixture
def place(tmp_path: Path, tiny_run: Path, zero_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder laid out as the pages suppose: a recipe, checkpoints, images."""
    (tmp_path / "out").mkdir()
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shutil.copytree(zero_run, tmp_path / "out" / "zero_void")  # calibration writes into it
    for name in set(re.findall(r"\bout/([\w-]+)", text)) - {"zero_void"}:
        (tmp_path / "out" / name).symlink_to(tiny_run)
    for split, seed in (("train", 0), ("val", 1)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / "retina" / kind / split).mkdir(parents=True)
        for index in range(3):
            image, mask = draw_fundus(index, seed, 96)
            Image.fromarray(np.asarray(image)).save(tmp_path / f"data/retina/images/{split}/{index}.jpg")
            Image.fromarray(np.asarray(mask)).save(tmp_path / f"data/retina/masks/{split}/{index}.png")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "data" / "retina")
    recipe = yaml.safe_load((tiny_run / "recipe.yaml").read_text())
    recipe["data"] = {"source": "folder", "root": "data/retina", "crop_size": 64}
    for name in ("recipe.yaml", "other.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(recipe))
    recipe["labels"] = yaml.safe_load((zero_run / "recipe.yaml").read_text())["labels"]
    (tmp_path / "zero_void.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "photos").mkdir()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.png", "mosaic.tif"):
        photo.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(command: list[str]) -> None:
    if "train.py" in command:  # accelerate launch, torchrun
        command = ["dinoseg", "train", *command[command.index("train.py") + 1 :]]
    if command[0] in ("torchrun", "accelerate") and "dinoseg" in command:
        command = command[command.index("dinoseg") :]
    if command[0] != "dinoseg":
        assert command[0] in NOT_OURS, command
        return
    verb, arguments = command[1], command[2:]
    if verb in ONLY_PARSED:
        group = typer.main.get_command(app)
        group.commands[verb].make_context(verb, list(arguments))  # type: ignore[attr-defined]
        return
    if verb == "train" and "--print" not in arguments:  # no weights and no data are here
        arguments = [a for a in arguments if a not in ("--resume", "--overwrite", "--force", "--dry-run")] + [
            "--dry-run"
        ]
    result = CliRunner().invoke(app, [verb, *arguments])
    assert result.exit_code == 0 or verb == "doctor" and result.exit_code == 1, f"{command}: {result.output}"


def _as_recipe(fragment: dict, base: dict) -> None:
    sections = {
        name: value if name in ("labels", "data", "protocol") else base[name] | value
        for name, value in fragment.items()
    }
    Recipe.from_dict(base | sections)


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in ELSEWHERE], ids=lambda page: page.stem)
def test_what_a_page_shows_works(page: Path, place: Path) -> None:
    base = yaml.safe_load((place / "recipe.yaml").read_text())
    names: dict[str, object] = {}
    for number, (language, text) in enumerate(_blocks(page)):
        if language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                if command := shlex.split(line, comments=True):
                    _run(command)
        elif language == "python":
            exec(compile(text, f"{page.name}, block {number}", "exec"), names)
        elif language == "yaml":
            _as_recipe(yaml.safe_load(text), base)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_stands_in_the_index_and_every_verb_on_a_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index]
    everything = (ROOT / "README.md").read_text(encoding="utf-8") + "".join(page.read_text() for page in PAGES)
    group = typer.main.get_command(app)
    assert not [verb for verb in group.commands if f"dinoseg {verb}" not in everything]  # type: ignore[attr-defined]


def test_the_reference_of_recipes_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/make_recipe_page.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
