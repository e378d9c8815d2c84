"""What README.md tells people to type is typed here, on a tiny checkpoint."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.recipe import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder laid out as the README supposes: a checkpoint, an image, the recipes."""
    (tmp_path / "out").mkdir()
    for name in ("quickstart", "camvid_mask2former_vits16"):
        (tmp_path / "out" / name).symlink_to(tiny_run)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "photos").mkdir()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.jpg")
    photo.save(tmp_path / "photos" / "one.jpg")
    (tmp_path / "other.yaml").symlink_to(tiny_run / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("bash") for line in block.splitlines() if line.strip()]
    return [command for line in lines if (command := shlex.split(line, comments=True))]


def test_every_dinoseg_command_runs(place: Path) -> None:
    ran = []
    for command in _commands():
        if command[:3] == ["accelerate", "launch", "train.py"]:
            command = ["dinoseg", "train", *command[3:]]
        if command[0] != "dinoseg":
            assert command[:2] in (["pip", "install"], ["hf", "auth"]), command
            continue
        if command[1] in ("init", "push", "demo", "export"):  # own data, the Hub, a page: their own tests run them
            get_command(app).commands[command[1]].make_context(command[1], command[2:])
            continue
        # gated weights and real data are not here: a training command is checked, printed and not run
        arguments = [*command[1:], "--dry-run"] if command[1] == "train" else command[1:]
        result = CliRunner().invoke(app, [a for a in arguments if a != "--resume"])
        assert result.exit_code == 0, f"{command}: {result.output}"
        ran.append(command[1])
    assert {"train", "evaluate", "predict"} <= set(ran)
    assert (place / "predictions" / "one.png").is_file() and (place / "report" / "metrics.json").is_file()


# the script of DinoSegTrainer is run by test_docs_transformers.py
@pytest.mark.parametrize("number", [n for n, b in enumerate(_blocks("python")) if "DinoSegTrainer(" not in b])
def test_every_python_block_runs(number: int, place: Path) -> None:
    exec(compile(_blocks("python")[number], f"README.md, python block {number}", "exec"), {})


def test_the_card_reads_an_image_as_the_readme_does() -> None:
    """Turned upright: `Image.open` alone leaves images of most cameras lying."""
    template = (ROOT / "hf_dinoseg" / "hub" / "card_template.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^image = .*$", README, flags=re.MULTILINE)
    assert "exif_transpose" in line and f"\n{line}\n" in template


def test_the_recipe_that_is_explained_is_a_recipe(tmp_path: Path) -> None:
    (block,) = _blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(block)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.labels.num_labels == 4 and recipe.data.crop_size == 512


def test_every_label_option_that_is_named_exists() -> None:
    recipe = load_recipe(ROOT / "recipes" / "camvid" / "mask2former_tiny.yaml")
    for option in ("reduce_zero_label", "ignore", "encoding", "colors", "merge", "classes"):
        assert f"{option}" in README and hasattr(recipe.labels, option)


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target
