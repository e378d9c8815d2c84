"""`dinoseg doctor` and the check before training, on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg import load_recipe
from hf_dinoseg.cli import app
from hf_dinoseg.doctor import DoctorError
from hf_dinoseg.run import train


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def make(
    tmp_path: Path, write_tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Writes a folder dataset whose masks hold the given values, and its recipe."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))

    def write(*values: int) -> Path:
        rng = np.random.default_rng(0)
        for split in ("train", "val"):
            for number in range(3):
                for kind in ("images", "masks"):
                    (tmp_path / "data" / kind / split).mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
                image.save(tmp_path / "data" / "images" / split / f"{number}.png")
                mask = np.repeat(np.array(values, np.uint8), 64 // len(values))[None].repeat(48, 0)
                Image.fromarray(mask).save(tmp_path / "data" / "masks" / split / f"{number}.png")
        recipe = write_tiny_recipe(tmp_path)
        data = f"data: {{source: folder, root: {tmp_path / 'data'}, crop_size: 64}}"
        lines = [data if line.startswith("data:") else line for line in recipe.read_text().splitlines()]
        recipe.write_text("\n".join(lines))
        return recipe

    return write


def test_clean_data_is_exit_0_and_nothing_is_written(make: Any, tmp_path: Path) -> None:
    recipe = make(0, 1, 2, 3)
    before = sorted(tmp_path.rglob("*"))
    result = run("doctor", recipe)
    assert result.exit_code == 0, result.output
    assert "train: 3 pairs, 3 read" in result.stdout and result.stdout.endswith("0 errors, 0 warnings.\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_is_exit_1_with_the_cure(make: Any) -> None:
    result = run("doctor", make(0, 255))
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "error: masks-0-255" in result.stdout and "labels.encoding: binary" in result.stdout
    cured = run("doctor", make(0, 255), "labels={classes: {0: background, 1: vessel}, encoding: binary}")
    assert cured.exit_code == 0, cured.output


def test_json_and_output(make: Any, tmp_path: Path) -> None:
    result = run("doctor", make(0, 1, 2, 9), "--json", "--output", tmp_path / "report", "--samples", "2")
    assert result.exit_code == 1
    plain = json.loads(result.stdout)
    assert plain["findings"][0]["code"] == "unknown-ids" and plain["overview"]["splits"]["train"]["read"] == 2
    assert json.loads((tmp_path / "report" / "doctor.json").read_text()) == plain
    assert Image.open(tmp_path / "report" / "contact_sheet.png").width >= 760
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"doctor.json", "contact_sheet.png"}


def test_wrong_usage_is_exit_2(make: Any, tmp_path: Path) -> None:
    recipe = make(0, 1, 2, 3)
    assert run("doctor", recipe, "--output", recipe).exit_code == 2
    assert run("doctor", recipe, "--checkpoint", tmp_path / "none").exit_code == 2
    assert run("doctor", recipe, "data.rot=x").exit_code == 2
    assert run("doctor", recipe, "--samples", "0").exit_code == 2


def test_a_checkpoint_is_compared_with_the_recipe(make: Any, tiny_run: Path) -> None:
    recipe = make(0, 1, 2, 3)
    codes = {
        f["code"] for f in json.loads(run("doctor", recipe, "--checkpoint", tiny_run, "--json").stdout)["findings"]
    }
    assert not codes & {"checkpoint-labels-differ", "checkpoint-names-differ", "normalization-differs"}
    labels = "labels={classes: {0: background, 1: artery, 2: vein}, ignore: [3]}"
    result = run("doctor", recipe, labels, "--checkpoint", tiny_run, "--json")
    assert result.exit_code == 1
    assert "checkpoint-labels-differ" in {f["code"] for f in json.loads(result.stdout)["findings"]}


def test_training_is_stopped_before_anything_is_read_or_written(make: Any, tmp_path: Path) -> None:
    recipe = load_recipe(make(0, 255))
    with pytest.raises(DoctorError, match=r"(?s)masks-0-255.*encoding: binary.*--force"):
        train(recipe)
    assert not (tmp_path / "run").exists() and not list(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))


def test_force_trains_regardless(make: Any, tmp_path: Path) -> None:
    """255 is void in the recipe, so such masks can be trained on, and teach only one class."""
    metrics = train(load_recipe(make(0, 255)), force=True)
    assert metrics["num_images"] == 3 and (tmp_path / "run" / "model.safetensors").is_file()


def test_force_on_the_command_line(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make(0, 255)
    stopped = run("train", recipe)
    assert stopped.exit_code == 1 and "masks-0-255" in stopped.stderr and "Traceback" not in stopped.stderr
    given: list[bool] = []

    def noting(recipe: Any, *, resume: bool, overwrite: bool, force: bool = False) -> dict[str, Any]:
        given.append(force)
        return {}

    monkeypatch.setattr("hf_dinoseg.run.train", noting)
    assert run("train", recipe, "--force").exit_code == 0 and run("train", recipe).exit_code == 0
    assert given == [True, False]


def test_a_warning_does_not_stop_and_is_logged(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(make(0, 1, 2, 2))
    with caplog.at_level("WARNING", logger="hf_dinoseg"):
        train(recipe)
    assert any(
        record.getMessage().startswith("class-absent: declared, but in no mask: 3 disc") for record in caplog.records
    )


def test_the_mean_iou_of_a_checkpoint_stands_beside_the_stored_one(tiny_run: Path) -> None:
    """On the images that it was measured on, all three of them, they are the same figure."""
    stored = json.loads((tiny_run / "metrics.json").read_text())
    done = run("doctor", tiny_run / "recipe.yaml", "--checkpoint", tiny_run)
    figure = f"{100 * stored['mean_iou']:.1f}"
    assert f"mean IoU {figure} on 3 images of this dataset, {figure} on 3 images in its metrics.json" in done.stdout
    measured = json.loads(run("doctor", tiny_run / "recipe.yaml", "--checkpoint", tiny_run, "--json").stdout)
    assert measured["overview"]["checkpoint"]["mean_iou"] == pytest.approx(stored["mean_iou"], abs=1e-6)
