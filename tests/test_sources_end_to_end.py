"""Each source through the doctor and through a training of two steps: the command line, the files, the fingerprints."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict, Features
from PIL import Image
from typer.testing import CliRunner

from hf_dinoseg.cli import app

SPLITS = {"train": ["a", "b"], "val": ["c"]}


def pair(number: int) -> tuple[bytes, bytes]:
    rng = np.random.default_rng(number)
    files = []
    for pixels, kind in ((rng.integers(0, 256, (48, 40, 3)), "JPEG"), (rng.integers(0, 4, (48, 40)), "PNG")):
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, kind)
        files.append(file.getvalue())
    return files[0], files[1]


def write_files(root: Path, image: str, mask: str) -> None:
    for split, stems in SPLITS.items():
        for stem in stems:
            for template, data in zip((image, mask), pair(ord(stem)), strict=True):
                path = root / template.format(split=split, stem=stem)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def write_stored(root: Path) -> DatasetDict:
    def split(stems: list[str]) -> Dataset:
        columns = list(zip(*(pair(ord(stem)) for stem in stems), strict=True))
        cells = [[{"bytes": data, "path": None} for data in column] for column in columns]
        features = Features({"image": datasets.Image(), "label": datasets.Image()})
        return Dataset.from_dict({"image": cells[0], "label": cells[1]}, features=features)

    return DatasetDict({name: split(stems) for name, stems in SPLITS.items()})


def template(root: Path) -> dict[str, Any]:
    write_files(root, "{split}/images/{stem}_{split}.jpg", "{split}/1st_manual/{stem}_manual1.png")
    names = {"image": "{split}/images/{stem}_{split}.jpg", "mask": "{split}/1st_manual/{stem}_manual1.png"}
    return {"source": "folder", "root": str(root), **names}


def held_out(root: Path) -> dict[str, Any]:
    write_files(root, "images/{stem}.jpg", "masks/{stem}.png")
    return {"source": "folder", "root": str(root), "image": "images", "mask": "masks", "validation": 0.3}


def csv_table(root: Path) -> dict[str, Any]:
    write_files(root, "{stem}.jpg", "{stem}.png")
    lines = [f"{stem}.jpg,{stem}.png,{split}" for split, stems in SPLITS.items() for stem in stems]
    (root / "pairs.csv").write_text("\n".join(["image,mask,split", *lines]))
    return {"source": "table", "file": str(root / "pairs.csv"), "split_column": "split"}


def json_table(root: Path) -> dict[str, Any]:
    write_files(root, "{stem}.jpg", "{stem}.png")
    for split, stems in SPLITS.items():
        rows = [json.dumps({"image": f"{stem}.jpg", "mask": f"{stem}.png"}) for stem in stems]
        (root / f"{split}.jsonl").write_text("\n".join(rows))
    return {"source": "table", "file": str(root / "{split}.jsonl")}


def parquet(root: Path) -> dict[str, Any]:
    for name, split in write_stored(root).items():
        split.to_parquet(root / f"{name}-00000.parquet")
    return {"source": "parquet", "root": str(root), "mask_column": "label"}


def hub(root: Path) -> dict[str, Any]:
    parquet(root)
    return {"source": "hub", "repo_id": str(root), "mask_column": "label"}


def arrow(root: Path) -> dict[str, Any]:
    write_stored(root).save_to_disk(root)
    return {"source": "arrow", "root": str(root), "mask_column": "label", "train": "train", "validation": "val"}


def imagefolder(root: Path) -> dict[str, Any]:
    write_files(root, "{split}/{stem}.jpg", "{split}/masks/{stem}.png")
    for split, stems in SPLITS.items():
        lines = [f"{stem}.jpg,masks/{stem}.png" for stem in stems]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,mask_file_name", *lines]))
    return {"source": "imagefolder", "root": str(root)}


def coco(root: Path) -> dict[str, Any]:
    """Polygons that cover the image in four strips, and a crowd."""
    write_files(root, "images/{split}/{stem}.jpg", "unused/{split}/{stem}.png")
    for split, stems in SPLITS.items():
        images = [{"id": n, "file_name": f"{stem}.jpg", "width": 40, "height": 48} for n, stem in enumerate(stems)]
        strips = [[10 * n, 0, 10 * n + 10, 0, 10 * n + 10, 48, 10 * n, 48] for n in range(4)]
        shapes = [
            {
                "id": 4 * image["id"] + n,
                "image_id": image["id"],
                "category_id": n,
                "segmentation": [strip],
                "iscrowd": 0,
            }
            for image in images
            for n, strip in enumerate(strips)
        ]
        shapes.append({**shapes[0], "id": 99, "iscrowd": 1, "segmentation": {"size": [48, 40], "counts": [0, 5, 1915]}})
        content = {"images": images, "annotations": shapes, "categories": []}
        (root / f"{split}.json").write_text(json.dumps(content))
    given = {"unlabelled": 255, "overlap": "last", "crowd": 255}
    return {"source": "coco", "root": str(root), "annotations": "{split}.json", **given}


def mixture(root: Path) -> dict[str, Any]:
    eyes = {"source": "synthetic-retina", "num_train": 1, "num_validation": 1, "size": 48, "weight": 0.5}
    return {"source": "mixture", "sources": [{**csv_table(root), "weight": 2}, eyes]}


@pytest.mark.parametrize(
    "make", [template, held_out, csv_table, json_table, parquet, hub, arrow, imagefolder, coco, mixture]
)
def test_doctor_and_training(
    make: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    write_tiny_recipe: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    recipe = yaml.safe_load(write_tiny_recipe(tmp_path).read_text())
    recipe["data"] = {**make(tmp_path / "data"), "crop_size": 32}
    if recipe["data"]["source"] in ("parquet", "hub", "imagefolder"):
        recipe["data"]["validation"] = "validation"  # datasets knows `val` in a file's name as `validation`
    recipe["model"]["head"] = "linear"
    recipe["evaluation"]["panels"] = 0
    recipe["training"] |= {"max_steps": 2, "eval_strategy": "no"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    checked = CliRunner().invoke(app, ["doctor", str(tmp_path / "recipe.yaml"), "--json"])
    assert checked.exit_code == 0, checked.output
    seen = json.loads(checked.stdout)["overview"]["splits"]
    assert seen["train"]["read"] >= 2 and seen["validation"]["read"] >= 1

    trained = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml")])
    assert trained.exit_code == 0, trained.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["train_images"], metrics["num_images"]) == (seen["train"]["rows"], seen["validation"]["rows"])
