"""The page on Python is run from top to bottom, on a tiny model in the place of a published one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
import yaml
from PIL import Image

import hf_dinoseg
from hf_dinoseg.builders import build_model
from hf_dinoseg.data import draw_fundus
from hf_dinoseg.recipe import recipe_of

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture
def place(tmp_path: Path, write_tiny_recipe: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page speaks of; and `train` takes a tiny model and one step, whatever the page asks for."""
    recipe = yaml.safe_load(write_tiny_recipe(tmp_path).read_text())
    recipe["labels"] = {"classes": {0: "background", 1: "vessel", 2: "vein", 3: "disc"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    folders = [tmp_path / name for name in ("photos", "masks", "data/with_masks")]
    for folder in folders:
        folder.mkdir(parents=True)
    rows = ["image,mask"]
    listed = ["file_name,label_file_name"]
    for number in range(4):
        image, mask = draw_fundus(number, 0, 96)
        vessel = (np.asarray(mask) > 0).astype(np.uint8)
        for folder in (folders[0], folders[2]):
            Image.fromarray(np.asarray(image)).save(folder / f"{number}.jpg")
        for path in (folders[1] / f"{number}.png", folders[2] / f"{number}_mask.png"):
            Image.fromarray(vessel).save(path)
        rows.append(f"photos/{number}.jpg,masks/{number}.png")
        listed.append(f"{number}.jpg,{number}_mask.png")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    (folders[2] / "metadata.csv").write_text("\n".join(listed))
    monkeypatch.chdir(tmp_path)
    real, results = hf_dinoseg.train, []
    small = {"max_steps": 1, "eval_steps": 1, "save_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True}
    small |= {"crop_size": 64, "panels": 0}

    def train(*arguments: Any, **keywords: Any) -> Any:
        """A training where something is asked of it later; of the others the recipe and the model."""
        if not arguments and "init_from" not in keywords:
            model = {"backbone": recipe["model"]["backbone"], "head": "linear"}
            results.append(real(**{**keywords, **model, **small}))
            return results[-1]
        places = {name: keywords.pop(name) for name in ("images", "masks") if name in keywords}
        keywords.pop("overwrite", None)
        build_model(recipe_of(*arguments, keywords=keywords, **places))
        return results[-1]

    def arguments(folder: str, **fields: Any) -> Any:
        return plain(folder, **{**fields, "max_steps": 1, "use_cpu": True, "report_to": "none"})

    plain = transformers.TrainingArguments
    monkeypatch.setattr(transformers, "TrainingArguments", arguments)
    monkeypatch.setattr(hf_dinoseg, "train", train, raising=False)
    return tmp_path


def test_the_page_runs(place: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"python.md, block {number}", "exec"), names)
    assert 0 <= names["metrics"]["mean_iou"] <= 1 and (place / "report" / "metrics.json").is_file()
