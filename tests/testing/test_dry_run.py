"""The rehearsal of a recipe: that it is the recipe's own choices that are tried, and that nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from typer.testing import CliRunner

from hf_dinoseg.cli import app
from hf_dinoseg.data import load_source
from hf_dinoseg.images import read_image, read_mask
from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.recipe import Recipe
from hf_dinoseg.testing.dry_run import _magnification, dry_run, rehearsal, small_backbone
from hf_dinoseg.testing.generated_data import IMAGE_SIZE, draw_mask, mimic_source

SOURCES: dict[str, dict[str, Any]] = {
    "folders": {"source": "folder", "root": "/nowhere"},
    "templates": {
        "source": "folder",
        "root": "nowhere",
        "image": "{split}/images/{stem}_{split}.tif",
        "mask": "/{split}/../1st manual/*/{stem}_manual*.*",
        "train": "training",
        "validation": "test",
    },
    "split files": {
        "source": "folder",
        "root": "nowhere",
        "image": "photos",
        "mask": "labels",
        "train": "/lists/a.txt",
        "validation": "../b.txt",
    },
    "a share of a folder": {"source": "folder", "root": "r", "image": "photos", "mask": "labels", "validation": 0.2},
    "a share of a split": {"source": "folder", "root": "r", "train": "all", "validation": 0.2},
    "arrays": {"source": "folder", "root": "r", "mask": "labels/{split}/{stem}.npy"},
    "a table": {"source": "table", "file": "x/t.csv", "split_column": "fold", "id_column": "nr", "mask_column": "m"},
    "tables": {"source": "table", "file": "/x/{split}_list.jsonl"},
    "a share of a table": {"source": "table", "file": "x/t.tsv", "validation": 0.4},
    "hub": {"source": "hub", "repo_id": "a/b", "revision": "v1", "mask_column": "label", "id_column": "name"},
    "hub, one split": {"source": "hub", "repo_id": "a/b", "validation": 0.1},
    "parquet": {"source": "parquet", "root": "r", "train": "training", "validation": "test"},
    "imagefolder": {"source": "imagefolder", "root": "r"},
    "mixture": {
        "source": "mixture",
        "sources": [{"source": "folder", "root": "r", "weight": 0.1}, {"source": "hub", "repo_id": "a/b", "weight": 2}],
    },
}
LABELS = {"classes": {1: "artery", 2: "vein", 9: "disc"}, "ignore": [255], "merge": {4: 2}, "reduce_zero_label": True}


def recipe(data: dict[str, Any], **sections: Any) -> Recipe:
    return Recipe.from_dict({"labels": LABELS, "data": data, "training": {"output_dir": "out/x"}, **sections})


@pytest.mark.parametrize("name", SOURCES)
def test_generated_data_is_read_by_the_recipes_own_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checked = recipe(SOURCES[name])
    folder = tmp_path / "generated"
    fields = mimic_source(checked.data.source_fields(), checked.labels, folder)
    data = load_source(**fields)
    assert len(data["train"]) >= 2 and len(data["validation"]) >= 1
    for row in [*data["train"], *data["validation"]]:
        mask = read_mask(row["mask"])
        assert read_image(row["image"]).size == IMAGE_SIZE == mask.shape[::-1]
        assert set(np.unique(mask)) == {0, 1, 2, 4, 9, 255}
        checked.labels.encode(mask)
    assert list(tmp_path.iterdir()) == [folder]  # a name of the recipe never leads out


@pytest.mark.parametrize(
    ("labels", "values", "shape"),
    [
        (LabelSpace({0: "a", 1: "b"}, encoding="binary"), {0, 255}, 2),
        (LabelSpace({i: str(i) for i in range(300)}), set(range(300)), 2),
        (LabelSpace({-1: "a", 70000: "b"}), {-1, 70000}, 2),
        (
            LabelSpace({0: "a", 1: "b"}, encoding="rgb", colors={0: (1, 2, 3), 1: (4, 5, 6)}),
            {1, 2, 3, 4, 5, 6},
            3,
        ),
    ],
)
def test_generated_masks_hold_what_the_label_space_knows(labels: LabelSpace, values: set[int], shape: int) -> None:
    mask = draw_mask(labels, seed=0)
    assert mask.ndim == shape and set(np.unique(mask).tolist()) <= values
    assert len(np.unique(mask)) == min(len(values), 48)  # 8 by 6 blocks
    labels.encode(mask)


def test_the_recipes_choices_are_kept_and_its_sizes_are_not(tmp_path: Path) -> None:
    model = {"head": "eomt", "tune": "llrd", "layer_decay": 0.7, "backbone_warmup_steps": 1000, "num_queries": 100}
    training = {"output_dir": "out/x", "learning_rate": 3e-4, "bf16": True, "push_to_hub": True, "report_to": "wandb"}
    full = recipe(
        SOURCES["folders"],
        model=model,
        training={**training, "per_device_train_batch_size": 16, "max_steps": 40000, "warmup_steps": 1500},
        loss={"dice_weight": 4.0, "class_weights": "auto"},
        evaluation={"shortest_edge": 512, "tta": {"scales": [0.5, 1], "flip": True}},
        hub={"repo_id": "me/x"},
    )
    small = rehearsal(full, tmp_path)
    assert (small.model.head, small.model.tune, small.model.layer_decay) == ("eomt", "llrd", 0.7)
    assert small.training["learning_rate"] == 3e-4 and small.training["max_steps"] == 2
    assert not {"bf16", "push_to_hub"} & set(small.training) and small.training["report_to"] == "none"
    assert (small.loss.dice_weight, small.loss.per_class_weights) == (4.0, "auto")
    assert small.evaluation.tta == full.evaluation.tta and small.hub.repo_id is None
    assert small.training["output_dir"] == str(tmp_path / "run")
    assert (small.labels, small.data.crop_size) == (full.labels, 64)


def test_how_large_the_world_is_shown_is_said() -> None:
    def told(**sections: Any) -> str:
        return _magnification(recipe({**SOURCES["folders"], **sections.pop("data", {})}, **sections))

    alike = told(data={"base_size": 512})
    assert "0.5 to 2 times a shorter side of 512 pixels (mean 1.25), evaluation at a shorter side of 512" in alike
    assert "of the crops is padding" in alike and "Warning" not in alike
    # 512 / 4 and 256 / 3 times images of 4:3, so 1.25 × 1.5 apart
    apart = told(data={"base_size": 512, "base_side": "longer"}, evaluation={"shortest_edge": 256})
    assert "Warning: the mean in training is 1.88 times what evaluation shows" in apart
    assert "dinoseg doctor tells" in told(evaluation={"shortest_edge": 512})
    assert "Warning" in told(data={"scale": [1.0, 2.0]}) and "Warning" not in told()


@pytest.mark.parametrize(
    ("given", "family"),
    [
        ("facebook/dinov3-vit7b16-pretrain-lvd1689m", "dinov3_vit"),
        ("facebook/dinov3-convnext-tiny-pretrain-lvd1689m", "dinov3_convnext"),
        ("facebook/dinov2-base", "dinov2"),
        ("facebook/dinov2-with-registers-large", "dinov2_with_registers"),
        (
            {"model_type": "dinov3_vit", "hidden_size": 4096, "num_attention_heads": 32, "num_register_tokens": 2},
            "dinov3_vit",
        ),
        ("me/my-own", "dinov3_vit"),
    ],
)
def test_the_tiny_backbone_is_of_the_same_family_and_trains(given: Any, family: str) -> None:
    small = small_backbone(given)
    assert small["model_type"] == family and small.get("hidden_size", 32) == 32
    if isinstance(given, dict):
        assert small["num_register_tokens"] == 2
    did = dry_run(recipe(SOURCES["folders"], model={"backbone": given, "out_layers": [3, 6, 9, 12]}))
    assert did["backbone"] == family and did["losses"][0] > 0


def test_a_local_backbone_is_known_by_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": 768, "patch_size": 8}))
    assert small_backbone(str(tmp_path)) == {
        "model_type": "dinov2",
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
    }


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    dry_run(recipe(SOURCES["hub"], model={"head": "linear"}))
    assert list(tmp_path.iterdir()) == [] and datasets.is_caching_enabled()


def test_a_recipe_that_does_not_fit_together_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "labels: {classes: {0: a, 1: b}}\ndata: {source: folder, root: r}\ntraining: {output_dir: o}\n"
        "model: {backbone: facebook/dinov3-convnext-tiny-pretrain-lvd1689m, head: eomt}\n"
    )
    result = CliRunner().invoke(app, ["train", str(path), "--dry-run"])
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "runs the blocks of a plain ViT" in result.stderr
