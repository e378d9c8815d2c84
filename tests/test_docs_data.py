"""docs/data.md: its commands run, its recipe and every fragment are recipes, and their layouts are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.data import draw_fundus, load_source
from hf_dinoseg.data.sources import SHAPES
from hf_dinoseg.recipe import Recipe
from hf_dinoseg.testing.generated_data import mimic_source

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
FRAGMENTS = [yaml.safe_load(block) for block in BLOCKS[1:]]


def test_forty_images_and_the_commands(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, on vessels in black and white; training is tried and not run."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "masks"):
        (tmp_path / "eyes" / folder).mkdir(parents=True)
    for number in range(1, 7):
        image, mask = draw_fundus(number, size=96)
        image.save(tmp_path / f"eyes/photos/patient{number:02d}.jpg")
        vessels = ((mask == 1) | (mask == 2)).astype("uint8") * 255
        Image.fromarray(vessels).save(tmp_path / f"eyes/masks/patient{number:02d}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/eyes").symlink_to(tiny_run)
    Recipe.from_dict(yaml.safe_load(BLOCKS[0]))
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    verbs = []
    for line in commands.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "dinoseg"
        if arguments[0] == "train" and "--dry-run" not in arguments:
            arguments.append("--dry-run")
        if arguments[0] == "init":
            arguments += ["--yes", "--no-measure"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        verbs.append(arguments[0])
    assert verbs == ["init", "doctor", "train", "train", "predict"]
    assert (tmp_path / "report/contact_sheet.png").is_file()
    assert len(list((tmp_path / "predictions").glob("*.png"))) >= 6


@pytest.mark.parametrize("number", range(len(FRAGMENTS)))
def test_every_fragment_describes_data_that_can_be_read(number: int, tmp_path: Path) -> None:
    complete = yaml.safe_load(BLOCKS[0])
    recipe = Recipe.from_dict({**complete, **FRAGMENTS[number]})
    data = load_source(
        labels=recipe.labels, **mimic_source(recipe.data.source_fields(), recipe.labels, tmp_path / "data")
    )
    assert len(data["train"]) >= 2 and len(data["validation"]) >= 1


def test_every_source_and_every_way_of_masks_is_on_the_page() -> None:
    shown = {fragment["data"]["source"] for fragment in FRAGMENTS}
    assert shown == {
        "folder",
        "table",
        "hub",
        "parquet",
        "arrow",
        "imagefolder",
        "mixture",
        "coco",
        "labelme",
        "yolo",
        "voc",
    }
    assert all(f"| `{source}` |" in PAGE for source in SHAPES)
    for word in ("binary", "rgb", "nearest", "reduce_zero_label", "merge", "ignore", ".npy", "preset"):
        assert word in PAGE
