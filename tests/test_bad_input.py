"""Bad input through the whole command line: one clear message, the right exit code, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.training.manifest import Manifest


@pytest.fixture
def home(tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]) -> Path:
    """`recipe.yaml` on folders of two training and one validation image, all of them right."""
    rng = np.random.default_rng(0)
    for split, names in {"train": ["a", "b"], "val": ["c"]}.items():
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for name in names:
            pixels = rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "images" / split / f"{name}.jpg")
            mask = rng.integers(0, 4, (80, 70), dtype=np.uint8)
            Image.fromarray(mask).save(tmp_path / "data" / "masks" / split / f"{name}.png")
    recipe = yaml.safe_load(write_tiny_recipe(tmp_path).read_text())
    recipe["data"] = {"source": "folder", "root": str(tmp_path / "data"), "crop_size": 64}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def _train(home: Path, *overrides: str) -> Any:
    return CliRunner().invoke(app, ["train", str(home / "recipe.yaml"), *overrides])


def _masks(home: Path, split: str = "train") -> Path:
    return home / "data" / "masks" / split


def _break_nothing(home: Path) -> None:
    pass


def _drop_mask(home: Path) -> None:
    (_masks(home) / "b.png").unlink()


def _drop_image(home: Path) -> None:
    (home / "data" / "images" / "val" / "c.jpg").unlink()
    (home / "data" / "images" / "val" / "d.jpg").write_bytes((home / "data/images/train/a.jpg").read_bytes())
    Image.fromarray(np.zeros((80, 70), np.uint8)).save(_masks(home, "val") / "d.png")


def _shrink_mask(home: Path) -> None:
    Image.fromarray(np.zeros((40, 35), np.uint8)).save(_masks(home) / "a.png")


def _unknown_id(home: Path) -> None:
    mask = np.zeros((80, 70), np.uint8)
    mask[0, :5] = 9
    Image.fromarray(mask).save(_masks(home) / "a.png")


def _another_run(home: Path) -> None:
    (home / "run").mkdir()
    (home / "run" / "recipe.yaml").write_text("labels: {}\n")
    manifest = Manifest(home / "run", begun=True)
    manifest.finish("recipe.yaml")


CASES: dict[str, tuple[Callable[[Path], None], list[str], int, list[str]]] = {
    "unknown key": (_break_nothing, ["training.learnin_rate=1"], 2, ["training.learnin_rate", "learning_rate"]),
    "wrong type": (_break_nothing, ["data.crop_size=large"], 2, ["data.crop_size", "large", "whole number"]),
    "word for a truth value": (_break_nothing, ["data.photometric=no"], 2, ["true or false", "`false`"]),
    "contradicting num_labels": (_break_nothing, ["model.num_labels=5"], 2, ["model.num_labels", "5", "4 classes"]),
    "missing folder": (_break_nothing, ["data.root=nowhere"], 1, ["nowhere"]),
    "image without mask": (_drop_mask, [], 1, ["b", "mask"]),
    "mask without image": (_drop_image, [], 1, ["c", "image"]),
    "sizes that differ": (_shrink_mask, [], 1, ["a.jpg", "70×80", "a.png", "35×40"]),
    "unknown id": (_unknown_id, [], 1, ["a.png", "9", "5 pixels", "labels.classes", "labels.ignore"]),
    "unreachable backbone": (
        _break_nothing,
        ["model.backbone=facebook/dinov3-vits16-pretrain-lvd1689m"],
        1,
        ["facebook/dinov3-vits16-pretrain-lvd1689m", "licence", "hf auth login", "local folder"],
    ),
    "another run in the folder": (_another_run, [], 1, ["--resume", "--overwrite", "training.output_dir"]),
    "nothing to resume": (_break_nothing, ["--resume"], 1, ["no whole checkpoint", "without --resume"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_and_costs_nothing(case: str, home: Path) -> None:
    spoil, arguments, exit_code, words = CASES[case]
    spoil(home)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    result = _train(home, *arguments)
    message = "\n".join(line for line in result.stderr.splitlines() if "Reading masks" not in line)
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in message, f"{word!r} is not in:\n{message}"
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_the_same_input_without_a_fault_trains(home: Path) -> None:
    result = _train(home, "training.max_steps=2", "data.crop_size=32")
    assert result.exit_code == 0, result.output
    assert (home / "run" / "model.safetensors").is_file()
