"""`DinoSegTrainer` on images and masks as they are, without a recipe and without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import TrainingArguments

from hf_dinoseg import DinoSegForSemanticSegmentation, DinoSegImageProcessor, DinoSegTrainer, LabelSpace
from hf_dinoseg.errors import DataError, LabelError

VIT = {"model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SPACE = LabelSpace({0: "ground", 3: "sky", 9: "tree"}, ignore=(255,))
Pairs = list[tuple[Image.Image, np.ndarray]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Of two sizes; ids of the dataset, not train ids."""
    rng = np.random.default_rng(0)
    sizes = [(40, 56), (40, 56), (33, 70), (40, 56)]
    return [
        (Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)), rng.choice([0, 3, 9, 255], size))
        for size in sizes
    ]


def trainer(folder: Path, **arguments: Any) -> DinoSegTrainer:
    torch.manual_seed(0)
    inference = {"mode": "slide", "window": 32, "stride": 20}
    model = DinoSegForSemanticSegmentation.from_backbone(
        {**VIT, "intermediate_size": 48}, head="linear", label_space=SPACE, inference=inference
    )
    args = TrainingArguments(str(folder), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    return DinoSegTrainer(model, args, **arguments)


def test_images_are_measured_as_their_tensors_are(pairs: Pairs, tmp_path: Path) -> None:
    """Against the items that the image processor makes of each pair."""
    process = DinoSegImageProcessor(label_space=SPACE)
    tensors = [
        {name: value[0] for name, value in process(image, segmentation_maps=mask, return_tensors="pt").items()}
        for image, mask in pairs
    ]
    expected = trainer(tmp_path).evaluate(tensors)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    columns = {"image": [i for i, _ in pairs], "label": [Image.fromarray(m.astype(np.uint8)) for _, m in pairs]}
    for given in (pairs, Dataset.from_dict(columns, features=features)):
        found = trainer(tmp_path, eval_dataset=given).evaluate()
        assert found["eval_mean_iou"] == pytest.approx(expected["eval_mean_iou"], abs=1e-12)
        assert found["eval_overall_accuracy"] == pytest.approx(expected["eval_overall_accuracy"], abs=1e-12)


def test_images_are_trained_on_in_crops(pairs: Pairs, tmp_path: Path) -> None:
    made = trainer(tmp_path, train_dataset=[{"image": image, "mask": mask} for image, mask in pairs])
    item = made.train_dataset[2]  # type: ignore[index]
    assert item["pixel_values"].shape == (3, 32, 32)  # as large as the windows
    assert set(item["labels"].unique().tolist()) <= {0, 1, 2, 255}  # train ids
    before = {name: p.clone() for name, p in made.model.head.named_parameters()}  # type: ignore[union-attr]
    made.train()
    assert made.state.global_step == 1 and np.isfinite(made.state.log_history[-1]["train_loss"])
    assert any(not torch.equal(p, before[name]) for name, p in made.model.head.named_parameters())  # type: ignore[union-attr]


def test_what_is_wrong_with_them_is_one_sentence(pairs: Pairs, tmp_path: Path) -> None:
    image, mask = pairs[0]
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([(image, np.full(mask.shape, 7))], LabelError, "do not know: 7|not know: 7"),
        ([(image, mask / 255)], DataError, "label ids are whole numbers"),
        ([(image, mask[:9])], DataError, "56×40"),
        ([(image, mask), (np.asarray(image) / 255, mask)], DataError, "train_dataset_000001.*float64 is no image"),
        (DatasetDict(train=Dataset.from_dict({"image": ["a"]})), DataError, "train_dataset: a mapping of the splits"),
    ]
    for given, kind, told in wrong:
        with pytest.raises(kind, match=told) as raised:
            trainer(tmp_path, train_dataset=given)
        assert "\n" not in str(raised.value)
