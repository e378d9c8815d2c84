"""A stream gives the samples that the map-style set gives, each once a pass over all readers, and goes on exactly."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset

from hf_dinoseg.data import (
    SegmentationDataset,
    StreamingSegmentationDataset,
    StreamLoader,
    TrainTransform,
    as_stream,
    load_synthetic_retina,
    open_stream,
    prepare_targets,
)
from hf_dinoseg.errors import DataError
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({0: "background", 1: "artery", 2: "vein", 3: "disc"})
COUNT = 13


@pytest.fixture(scope="module")
def eyes() -> Dataset:
    return load_synthetic_retina(num_train=COUNT, num_validation=3, size=48, seed=0)["train"]


def stream(rows: Any, **settings: Any) -> StreamingSegmentationDataset:
    if isinstance(rows, Dataset):
        rows = as_stream(rows, settings.pop("readers", 1))
    return StreamingSegmentationDataset(rows, SPACE, TrainTransform(32), **{"shuffle_buffer": 4, **settings})


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(bool((a[key] == b[key]).all()) for key in ("pixel_values", "labels", "class_labels"))


@pytest.mark.parametrize("shuffle_buffer", [1, 5])
def test_samples_are_those_of_the_map_style_set(eyes: Dataset, shuffle_buffer: int) -> None:
    whole = SegmentationDataset(prepare_targets(eyes, SPACE), TrainTransform(32), seed=7)
    items = iter(stream(eyes, seed=7, shuffle_buffer=shuffle_buffer))
    orders = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        got = list(islice(items, COUNT))
        orders.append([item["id"] for item in got])
        assert sorted(orders[-1]) == sorted(whole.ids)
        for item in got:
            assert same(item, whole[whole.ids.index(item["id"])])
    if shuffle_buffer == 1:
        assert orders == [whole.ids] * 3  # so that training through either is the same
    else:
        assert len({tuple(order) for order in orders}) == 3 and whole.ids not in orders
        again = islice(iter(stream(eyes, seed=7, shuffle_buffer=shuffle_buffer)), 3 * COUNT)
        assert [item["id"] for item in again] == sum(orders, [])
        other = islice(iter(stream(eyes, seed=8, shuffle_buffer=shuffle_buffer)), COUNT)
        assert [item["id"] for item in other] != orders[0]


@pytest.fixture(scope="module")
def shards(eyes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parquet files of unequal length, and one of validation."""
    folder = tmp_path_factory.mktemp("shards")
    for number, (start, stop) in enumerate([(0, 2), (2, 7), (7, 10), (10, COUNT)]):
        eyes.select(range(start, stop)).to_parquet(folder / f"train-{number:05d}-of-00004.parquet")
    eyes.select(range(3)).to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


def test_a_stored_set_streams_the_same_samples(eyes: Dataset, shards: Path) -> None:
    train, validation = open_stream("parquet", str(shards), id_column="id")
    assert train.num_shards == 4 and validation["id"][:] == eyes["id"][:3]
    loaded = load_dataset("parquet", data_dir=str(shards))["train"]
    assert loaded["id"][:] == eyes["id"][:]
    whole = SegmentationDataset(prepare_targets(eyes, SPACE), TrainTransform(32))
    got = list(islice(iter(stream(train, shuffle_buffer=1)), COUNT))
    assert [item["id"] for item in got] == whole.ids
    assert all(same(item, whole[place]) for place, item in enumerate(got))


def test_a_share_cannot_be_held_out_of_a_stream(shards: Path) -> None:
    with pytest.raises(DataError, match=r"data\.validation: 0\.2 is a share"):
        open_stream("parquet", str(shards), id_column="id", validation=0.2)


@pytest.mark.parametrize("source", ["rows", "files"])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (2, 2), (3, 0), (4, 2)])
def test_processes_and_workers_share_each_pass_without_gap_or_overlap(
    eyes: Dataset, shards: Path, source: str, world_size: int, workers: int
) -> None:
    seen: list[dict[int, Counter[str]]] = []
    for rank in range(world_size):
        rows: Any = eyes
        settings: dict[str, Any] = {"readers": world_size * max(1, workers)}
        if source == "files":
            rows, settings = open_stream("parquet", str(shards), id_column="id")[0], {}
        data = stream(rows, rank=rank, world_size=world_size, **settings)
        passes: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
        loader = StreamLoader(data, 1, 1000, num_workers=workers)
        readers = max(1, workers)
        for batch in loader:
            place = data.places
            number = place[(data.turn - 1) % readers][0]
            if number in passes:
                passes[number].update(batch["id"])
            if len(place) == readers and all(done[0] > 1 for done in place.values()):
                break
        seen.append(passes)
    for number in (0, 1):
        together = sum((part[number] for part in seen), Counter())
        assert together == Counter(eyes["id"])
    if source == "files" and world_size in (2, 4):
        # each process keeps to files of its own
        files = [set(eyes["id"][a:b]) for a, b in [(0, 2), (2, 7), (7, 10), (10, COUNT)]]
        for part in seen:
            mine = set(part[0]) | set(part[1])
            assert mine == set().union(*(names for names in files if names & mine))
            assert len(mine) < COUNT


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [1, 4, 9, 14])
def test_what_is_left_after_a_stop_is_what_would_have_come(eyes: Dataset, workers: int, after: int) -> None:
    def loader() -> StreamLoader:
        return StreamLoader(stream(eyes, readers=2, seed=3), 2, 18, num_workers=workers, prefetch_factor=None)

    whole = list(loader())
    assert len(whole) == 18 and all(len(batch["id"]) == 2 for batch in whole)
    first = loader()
    for _ in islice(first, after):
        pass
    second = loader()
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert [batch["id"] for batch in rest] == [batch["id"] for batch in whole[after:]]
    for a, b in zip(rest, whole[after:], strict=True):
        assert (a["pixel_values"] == b["pixel_values"]).all() and (a["labels"] == b["labels"]).all()


def test_with_another_number_of_readers_a_new_pass_begins(eyes: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    first = StreamLoader(stream(eyes, readers=2), 2, 18, num_workers=2)
    list(islice(first, 3))
    data = stream(eyes, readers=1)
    second = StreamLoader(data, 2, 18)
    with caplog.at_level(logging.WARNING):
        second.load_state_dict(first.state_dict())
    assert "a new pass through it begins" in caplog.text
    assert next(iter(data))["position"] == (0, 1, 1) and len(list(second)) == 15


def spoiled(eyes: Dataset, *places: int) -> Dataset:
    rows = eyes.to_list()
    for place in places:
        rows[place]["image"] = {"path": f"{place}.jpg", "bytes": rows[place]["image"]["bytes"][:200]}
    return Dataset.from_list(rows, features=eyes.features)


def test_a_bad_sample_is_named_or_replaced_without_moving_the_others(eyes: Dataset) -> None:
    rows = spoiled(eyes, 3, 4, COUNT - 1)
    with pytest.raises(DataError, match=r"3\.jpg"):
        list(islice(iter(stream(rows, shuffle_buffer=1)), 5))
    settings: dict[str, Any] = {"shuffle_buffer": 1, "on_bad_sample": "skip"}
    got = list(islice(iter(stream(rows, **settings)), 2 * COUNT))
    sound = list(islice(iter(stream(eyes, shuffle_buffer=1)), 2 * COUNT))
    names = eyes["id"][:]
    stand_ins = {3: names[5], 4: names[5], COUNT - 1: names[0]}  # the last one's is of the next pass
    for place in range(2 * COUNT - 1):
        item, expected = got[place], sound[place]
        assert item["position"] == expected["position"]
        if place % COUNT in stand_ins:
            assert item["id"] == stand_ins[place % COUNT] and not same(item, expected)
        else:
            assert item["id"] == expected["id"] and same(item, expected)
    assert not same(got[3], got[4]) and not same(got[4], got[5])
    assert [one.id for one in got[3]["skipped"]] == [names[3], names[4]] and got[4]["skipped"] == []
    # a stop between a bad sample's place and the next good one changes nothing
    data = stream(rows, **settings)
    data.places = {0: (0, 4)}
    rest = list(islice(iter(data), 10))
    assert all(a["id"] == b["id"] and same(a, b) for a, b in zip(rest, got[4:14], strict=True))


def test_a_stream_of_bad_samples_ends_with_an_error(eyes: Dataset) -> None:
    with pytest.raises(DataError, match=r"not found one good sample.*cannot be read"):
        next(iter(stream(spoiled(eyes, *range(COUNT)), on_bad_sample="skip")))


def test_masks_are_judged_as_when_they_are_prepared(eyes: Dataset) -> None:
    small = LabelSpace({0: "background", 1: "artery", 2: "vein"})
    data = StreamingSegmentationDataset(as_stream(eyes, 1), small, TrainTransform(32))
    with pytest.raises(ValueError, match=r"train_\d+\.png"):
        next(iter(data))
