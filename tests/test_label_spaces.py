"""Label spaces that are more than a list of names, from files through training and evaluation to predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg import LabelSpace, Segmenter, load_recipe
from hf_dinoseg.cli import app
from hf_dinoseg.run import evaluate, train

WIDE = {130 * i + 7: f"class {i}" for i in range(300)}  # ids up to 38877
MIXED = {
    "classes": {1: "road", 2: "pavement", 30: "car", 31: "truck", 90: "sky"},
    "merge": {31: 30},
    "ignore": [50, 255],  # 50 is a class of the dataset that is left out, 255 is what nobody labelled
}


def write_folder(folder: Path, ids: list[int], dtype: Any) -> None:
    """Six images of coloured blocks, each block an id, 255 or 65535 among them where it is one."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            blocks = rng.choice(ids, (8, 8))
            mask = np.kron(blocks, np.ones((10, 10), dtype)).astype(dtype)
            pixels = np.stack([mask % 251, mask // 151, mask % 13 * 19], axis=-1).astype(np.uint8)
            Image.fromarray(mask).save(folder / "masks" / split / f"{split}{i}.png")
            Image.fromarray(pixels).save(folder / "images" / split / f"{split}{i}.png")


def trained(tmp_path: Path, write_tiny_recipe: Callable[[Path], Path], labels: dict[str, Any]) -> Path:
    """The output folder of a run on `tmp_path/data`."""
    path = write_tiny_recipe(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    recipe["labels"] = labels
    recipe["data"] = {"source": "folder", "root": str(tmp_path / "data"), "crop_size": 64}
    recipe["model"]["num_queries"] = 64  # a mask holds up to 60 classes
    recipe["training"].update(max_steps=2)
    path.write_text(yaml.safe_dump(recipe))
    train(load_recipe(path))
    return tmp_path / "run"


def confusion_by_hand(run: Path, data: Path, groups: dict[int, int]) -> dict[int, float]:
    """IoU of each id over the validation files, from saved predictions and stored masks, ids and sets of pixels only.

    Args:
        groups: `{id in a mask: id that counts}`; other ids are void.
    """
    segmenter = Segmenter.from_pretrained(run)
    truths, predictions = [], []
    for path in sorted((data / "images" / "val").iterdir()):
        saved = segmenter(path).save(run / "predicted" / path.name)
        predictions.append(np.asarray(Image.open(saved)).astype(int).ravel())
        truths.append(np.asarray(Image.open(data / "masks" / "val" / path.name)).astype(int).ravel())
    truth, prediction = np.concatenate(truths), np.concatenate(predictions)
    known = np.isin(truth, list(groups))
    truth = np.array([groups.get(v, -1) for v in truth.tolist()])[known]
    prediction = prediction[known]
    result = {}
    for label in sorted(set(groups.values())):
        either = int(((truth == label) | (prediction == label)).sum())
        result[label] = int(((truth == label) & (prediction == label)).sum()) / either if either else float("nan")
    assert set(np.unique(prediction).tolist()) <= set(groups.values())
    return result


def by_id(per_category: dict[str, float | None]) -> dict[int, float]:
    return {int(k.split()[0]): float("nan") if v is None else v for k, v in per_category.items()}


def test_merged_and_dropped_classes_from_files_to_predictions(
    tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]
) -> None:
    write_folder(tmp_path / "data", [1, 2, 30, 31, 50, 90, 255], np.uint8)
    run = trained(tmp_path, write_tiny_recipe, MIXED)
    stored = json.loads((run / "config.json").read_text())
    assert stored["id2label"] == {"0": "road", "1": "pavement", "2": "car", "3": "sky"}
    space = LabelSpace.from_dict(stored["label_space"])
    assert space == LabelSpace(**MIXED) == Segmenter.from_pretrained(run).label_space
    assert space.classes[31] == "truck" and space.original_ids == (1, 2, 30, 90)
    measured = json.loads((run / "metrics.json").read_text())
    expected = confusion_by_hand(run, tmp_path / "data", {1: 1, 2: 2, 30: 30, 31: 30, 90: 90})
    assert list(measured["per_category_iou"]) == ["1 road", "2 pavement", "30 car", "90 sky"]
    assert by_id(measured["per_category_iou"]) == pytest.approx(expected, nan_ok=True)
    again = evaluate(str(run))
    assert again["per_category_iou"] == pytest.approx(measured["per_category_iou"], nan_ok=True)


def test_more_than_255_classes_from_files_to_predictions(
    tmp_path: Path, write_tiny_recipe: Callable[[Path], Path]
) -> None:
    write_folder(tmp_path / "data", [*WIDE, 65535], np.uint16)
    run = trained(tmp_path, write_tiny_recipe, {"classes": WIDE, "ignore": [65535]})
    assert json.loads((run / "config.json").read_text())["label_space"]["ignore_index"] == 65535
    measured = evaluate(str(run), output=str(tmp_path / "report"))
    expected = confusion_by_hand(run, tmp_path / "data", {i: i for i in WIDE})
    assert by_id(measured["per_category_iou"]) == pytest.approx(expected, nan_ok=True)
    assert list((tmp_path / "report" / "panels").glob("*.png"))
    image = tmp_path / "data" / "images" / "val" / "val0.png"
    result = CliRunner().invoke(app, ["predict", str(run), str(image), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    written = np.asarray(Image.open(tmp_path / "out" / "val0.png"))
    assert written.dtype == np.uint16 and (written == np.asarray(Image.open(run / "predicted" / "val0.png"))).all()
    doctor = CliRunner().invoke(app, ["doctor", str(run / "recipe.yaml"), "--checkpoint", str(run)])
    assert doctor.exit_code in (0, 1) and "Traceback" not in doctor.output, doctor.output
