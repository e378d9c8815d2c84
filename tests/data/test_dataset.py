"""Samples follow from (seed, epoch, index) alone, whatever the number of workers."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from hf_dinoseg.data import (
    EvalDataset,
    RareClassCrops,
    SegmentationDataset,
    TrainTransform,
    collate,
    load_synthetic_retina,
    prepare_targets,
)
from hf_dinoseg.data.label_maps import encode_label_map, read_label_map
from hf_dinoseg.data.sources import FEATURES
from hf_dinoseg.errors import DataError
from hf_dinoseg.images import read_image
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({0: "background", 1: "artery", 2: "vein", 3: "disc"})


@pytest.fixture(scope="module")
def eyes() -> Any:
    return load_synthetic_retina(num_train=5, num_validation=2, size=64, seed=0)


@pytest.fixture
def prepared(eyes: Any) -> Dataset:
    return prepare_targets(eyes["train"], SPACE)


def make(prepared: Dataset, seed: int = 0) -> SegmentationDataset:
    return SegmentationDataset(prepared, TrainTransform(32), seed)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool((a["pixel_values"] == b["pixel_values"]).all() and (a["labels"] == b["labels"]).all())


def test_an_item(prepared: Dataset) -> None:
    item = make(prepared)[3]
    assert list(item) == ["index", "pixel_values", "labels", "class_labels"] and item["index"] == 3
    assert item["class_labels"].tolist() == sorted(set(item["labels"].flatten().tolist()) - {255})
    assert item["pixel_values"].shape == (3, 32, 32) and item["pixel_values"].dtype == torch.uint8
    assert item["labels"].shape == (32, 32) and item["labels"].dtype == torch.uint8
    assert item["pixel_values"].is_contiguous()


def test_channels_and_labels_are_those_of_the_files(prepared: Dataset) -> None:
    whole = TrainTransform(64, scale=(1, 1), flip=False, photometric=False)
    item = SegmentationDataset(prepared, whole)[2]
    assert (item["pixel_values"].permute(1, 2, 0).numpy() == np.asarray(read_image(prepared[2]["image"]))).all()
    assert (item["labels"].numpy() == read_label_map(prepared[2]["label_map"])).all()


def test_seed_epoch_and_index_each_change_the_draw(prepared: Dataset) -> None:
    data = make(prepared)
    first = data[1]
    assert same(first, make(prepared)[1])
    assert not same(first, make(prepared, seed=1)[1])
    data.set_epoch(1)
    assert not same(first, data[1])
    data.set_epoch(0)
    assert same(first, data[1])
    twice = SegmentationDataset(prepared.select([1, 1]), TrainTransform(32))
    assert not same(twice[0], twice[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_persist_draw_new_crops_each_epoch_and_the_same_as_no_workers(
    prepared: Dataset, workers: int
) -> None:
    alone, shared = make(prepared), make(prepared)
    loader = DataLoader(shared, 2, collate_fn=collate, num_workers=workers, persistent_workers=True)
    for epoch in (0, 1, 5):
        alone.set_epoch(epoch)
        shared.set_epoch(epoch)
        expected = collate([alone[i] for i in range(len(alone))])
        batches = list(loader)
        for key in ("index", "pixel_values", "labels"):
            assert (torch.cat([batch[key] for batch in batches]) == expected[key]).all()


def test_a_dataset_can_be_sent_to_a_process_that_is_not_forked(prepared: Dataset) -> None:
    data = make(prepared)
    data.set_epoch(3)
    assert same(pickle.loads(pickle.dumps(data))[0], data[0])


def test_rare_classes_bring_their_image_and_their_crop_and_resume_exactly(prepared: Dataset) -> None:
    rows = prepared.to_list()
    for i, row in enumerate(rows):  # the disc is in image 2 alone
        label_map = read_label_map(row["label_map"]).copy()
        if i != 2:
            label_map[label_map == 3] = 0
        row["label_map"], counts = encode_label_map(label_map), np.bincount(label_map.ravel(), minlength=4)
        row["class_labels"], row["pixel_counts"] = np.flatnonzero(counts).tolist(), counts[counts > 0].tolist()
    changed = Dataset.from_list(rows, features=prepared.features)

    def make_rare(share: float) -> SegmentationDataset:
        rare = RareClassCrops(share, changed["class_labels"][:], changed["pixel_counts"][:])
        rare.probabilities = (rare.classes == 3).astype(float)
        return SegmentationDataset(changed, TrainTransform(24, scale=(1, 1)), rare=rare)

    data = make_rare(1.0)
    for epoch in range(4):
        data.set_epoch(epoch)
        for i in range(len(data)):
            item = data[i]
            assert item["index"] == 2 and 3 in item["class_labels"].tolist()
            again = make_rare(1.0)
            again.set_epoch(epoch)
            assert same(item, again[i])
    half = make_rare(0.5)
    taken = []
    for epoch in range(20):
        half.set_epoch(epoch)
        taken += [half[i]["index"] == i for i in (0, 1, 3)]
    assert 15 < sum(taken) < 45


def test_wide_label_maps_become_int32() -> None:
    def encoded(array: np.ndarray) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return {"path": None, "bytes": buffer.getvalue()}

    row = {"id": "a", "image": encoded(np.zeros((8, 8, 3), np.uint8)), "mask": encoded(np.full((8, 8), 299, np.uint16))}
    space = LabelSpace({i: str(i) for i in range(300)})
    prepared = prepare_targets(Dataset.from_list([row], features=FEATURES), space)
    item = SegmentationDataset(prepared, TrainTransform(12, scale=(1, 1), ignore_index=space.ignore_index))[0]
    assert item["labels"].dtype == torch.int32
    assert torch.unique(item["labels"]).tolist() == [299, 65535]


def test_a_broken_image_is_named_from_within_a_worker(prepared: Dataset) -> None:
    broken = prepared.to_list()
    broken[0]["image"] = {"path": "eye.jpg", "bytes": broken[0]["image"]["bytes"][:500]}
    data = make(Dataset.from_list(broken, features=prepared.features))
    with pytest.raises(DataError, match=r"^eye\.jpg: cannot be read") as raised:
        list(DataLoader(data, num_workers=1, collate_fn=collate))
    assert "Traceback" not in str(raised.value)


def test_evaluation_samples_keep_the_label_map_at_its_own_size(prepared: Dataset) -> None:
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": 48, "width": 40})
    item = EvalDataset(prepared, processor)[1]
    assert list(item) == ["index", "pixel_values", "labels"] and item["index"] == 1
    assert item["pixel_values"].shape == (3, 48, 40) and item["pixel_values"].dtype == torch.float32
    assert (item["labels"].numpy() == read_label_map(prepared[1]["label_map"])).all()
    expected = processor(images=read_image(prepared[1]["image"]), return_tensors="pt")["pixel_values"][0]
    assert (item["pixel_values"] == expected).all()
    assert len(EvalDataset(prepared, processor)) == 5
