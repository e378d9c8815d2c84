"""Sources put together: which rows, under which names, and how often an epoch draws them."""

from __future__ import annotations

from collections import Counter

import pytest

from hf_dinoseg.data import SegmentationDataset, TrainTransform, load_source, prepare_targets
from hf_dinoseg.errors import DataError
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({0: "background", 1: "artery", 2: "vein", 3: "disc"})


def eyes(count: int, seed: int, weight: float = 1.0) -> dict[str, object]:
    return {
        "source": "synthetic-retina",
        "num_train": count,
        "num_validation": 2,
        "size": 32,
        "seed": seed,
        "weight": weight,
    }


def test_rows_follow_one_another_and_ids_stay_apart() -> None:
    entries = [eyes(3, 1), eyes(2, 2)]
    data = load_source("mixture", sources=entries)
    alone = [load_source(**{k: v for k, v in entry.items() if k != "weight"}) for entry in entries]  # type: ignore[arg-type]
    assert data["train"].column_names == ["id", "image", "mask"]
    for split in ("train", "validation"):
        assert data[split]["image"][:] == [*alone[0][split]["image"], *alone[1][split]["image"]]
        assert data[split]["id"][:] == [f"{n}/{name}" for n, part in enumerate(alone, 1) for name in part[split]["id"]]
    assert entries[0]["weight"] == 1.0  # the recipe's own dicts are left as they were


def test_weights_are_the_training_rows_and_survive_preparation() -> None:
    data = load_source("mixture", sources=[eyes(4, 1, 0.5), eyes(2, 2, 3.0)])
    assert data["train"]["weight"][:] == [0.5] * 4 + [3.0] * 2
    assert data["validation"].column_names == ["id", "image", "mask"]
    dataset = SegmentationDataset(prepare_targets(data["train"], SPACE), TrainTransform(32), seed=3)
    assert len(dataset) == 8 and len(dataset.ids) == 6
    drawn: Counter[int] = Counter()
    for epoch in range(2):
        dataset.set_epoch(epoch)
        items = [dataset[i] for i in range(len(dataset))]
        found = Counter(item["index"] for item in items)
        assert found[4] == found[5] == 3 and sum(found[i] for i in range(4)) == 2
        crops = [item["pixel_values"] for item in items if item["index"] == 4]
        assert not (crops[0] == crops[1]).all()  # drawn twice is not the same crop twice
        drawn += found
    again = SegmentationDataset(prepare_targets(data["train"], SPACE), TrainTransform(32), seed=3)
    again.set_epoch(1)
    assert [again[i]["index"] for i in range(8)] == [item["index"] for item in items]
    assert dataset.ids[4] == "2/train_00000"


def test_weights_that_draw_nothing_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.sources: weights this small"):
        load_source("mixture", sources=[eyes(1, 1, 0.1), eyes(1, 2, 0.2)])
