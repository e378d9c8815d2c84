"""What docs/sharing.md tells people to type is typed here, against a Hub on loopback."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.cli import app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "tests" / "hub"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_command_and_example_runs(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_tiny_recipe: Callable[[Path], Path]
) -> None:
    from hub_server import TOKENS, WRITES, HubServer

    write_tiny_recipe(tmp_path).rename(tmp_path / "recipe.yaml")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "quickstart").symlink_to(tiny_run)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TOKENS, WRITES, ("you", "write"))
    with HubServer() as hub:
        hub.stand_in(monkeypatch, tmp_path)
        commands = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
        for command in filter(None, commands):
            assert command[0] == "dinoseg"
            result = CliRunner().invoke(app, command[1:])
            assert result.exit_code == 0, f"{command}: {result.output}"
        assert set(hub.repos) == {("model", "you/retina"), ("model", "you/retina-inside")}
        assert hub.repos["model", "you/retina-inside"].private and "v2" in hub.repos["model", "you/retina"].branches
        for block in blocks("python"):
            exec(compile(block, "docs/sharing.md", "exec"), {})


def test_every_message_of_the_table_is_one_that_is_said() -> None:
    said = "".join((ROOT / "hf_dinoseg" / "hub" / f).read_text("utf-8") for f in ("push.py",))
    said = re.sub(r"\"\s*\n\s*f?\"", "", said).replace("{kind}", "dataset")
    for row in PAGE.split("## When it fails")[1].splitlines()[4:]:
        for message in re.findall(r"\*([^*]+)\*", row.split("|")[1]):
            assert message in said, message
