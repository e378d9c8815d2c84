"""Bad samples under `skip`: taken out when targets are prepared, replaced when a file breaks later, always counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from hf_dinoseg.data import EvalDataset, SegmentationDataset, TrainTransform, collate, collate_eval
from hf_dinoseg.data.sources import FEATURES
from hf_dinoseg.data.targets import drop_bad, prepare_targets
from hf_dinoseg.errors import DataError, LabelError
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({0: "background", 1: "artery"})


def write_rows(folder: Path, count: int) -> Dataset:
    rows = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image, mask = folder / f"i{i}.jpg", folder / f"m{i}.png"
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(image)
        Image.fromarray(rng.integers(0, 2, (40, 40), dtype=np.uint8)).save(mask)
        rows.append(
            {"id": str(i), "image": {"path": str(image), "bytes": None}, "mask": {"path": str(mask), "bytes": None}}
        )
    return Dataset.from_list(rows, features=FEATURES)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def missing(folder: Path) -> None:
    (folder / "i1.jpg").unlink()


def truncated_image(folder: Path) -> None:
    cut(folder / "i1.jpg")


def empty_mask(folder: Path) -> None:
    (folder / "m1.png").write_bytes(b"")


def other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(folder / "m1.png")


def unknown_id(folder: Path) -> None:
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(folder / "m1.png")


def too_large(folder: Path) -> None:
    for name, shape in (("i1.jpg", (50, 50, 3)), ("m1.png", (50, 50))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / name)


@pytest.mark.parametrize("spoil", [missing, truncated_image, empty_mask, other_size, unknown_id, too_large])
def test_a_bad_sample_is_an_error_or_left_out(spoil: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = write_rows(tmp_path, 3)
    spoil(tmp_path)
    named = r"(i1\.jpg|m1\.png)"
    with pytest.raises((DataError, LabelError), match=named):
        prepare_targets(rows, SPACE, max_pixels=1600)
    with caplog.at_level(logging.WARNING):
        good, skipped = drop_bad(prepare_targets(rows, SPACE, max_pixels=1600, on_bad_sample="skip"), "train")
    assert good["id"][:] == ["0", "2"] and [one.id for one in skipped] == ["1"]
    assert skipped[0].reason in caplog.text and "1 of 3 train samples" in caplog.text
    # what is left is prepared as it would be without the other
    alone = prepare_targets(rows.select([0, 2]), SPACE)
    assert good.column_names == alone.column_names
    assert [row["label_map"] for row in good] == [row["label_map"] for row in alone]


def test_the_cache_of_one_way_is_not_read_by_the_other(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 2)
    for _ in range(2):
        good, skipped = drop_bad(prepare_targets(rows, SPACE, on_bad_sample="skip"), "train")
        assert len(good) == 2 and not skipped
        assert prepare_targets(rows, SPACE).column_names == good.column_names


def test_a_file_that_comes_back_is_read_again(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 2)
    whole = (tmp_path / "i1.jpg").read_bytes()
    missing(tmp_path)
    assert len(drop_bad(prepare_targets(rows, SPACE, on_bad_sample="skip"), "train")[1]) == 1
    (tmp_path / "i1.jpg").write_bytes(whole)
    assert drop_bad(prepare_targets(rows, SPACE, on_bad_sample="skip"), "train")[1] == []


def test_where_nothing_is_good_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 2)
    for i in range(2):
        cut(tmp_path / f"i{i}.jpg")
    with pytest.raises(DataError, match=r"none of the 2 validation samples.*i0\.jpg"):
        drop_bad(prepare_targets(rows, SPACE, on_bad_sample="skip"), "validation")


def train_set(folder: Path, count: int, on_bad_sample: Any) -> SegmentationDataset:
    prepared = prepare_targets(write_rows(folder, count), SPACE)
    return SegmentationDataset(prepared, TrainTransform(16), seed=3, on_bad_sample=on_bad_sample)


def test_a_training_image_that_breaks_later_is_replaced_and_batches_stay_full(tmp_path: Path) -> None:
    data = train_set(tmp_path, 4, "skip")
    before = [data[i] for i in range(4)]
    for broken in (1, 3):
        cut(tmp_path / f"i{broken}.jpg")
    loader = DataLoader(data, 2, collate_fn=collate, num_workers=2)
    batches = list(loader)
    assert [batch["index"].tolist() for batch in batches] == [[0, 2], [2, 0]]
    assert [[name for name, _ in batch["skipped"]] for batch in batches] == [["1"], ["3"]]
    assert all("cannot be read" in reason for batch in batches for _, reason in batch["skipped"])
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    # the others are as they were, and a stand-in is cut from its image in another way
    assert (pixels[0] == before[0]["pixel_values"]).all() and (pixels[2] == before[2]["pixel_values"]).all()
    assert (pixels[1] != pixels[2]).any()
    again = torch.cat([batch["pixel_values"] for batch in DataLoader(data, 2, collate_fn=collate)])
    assert (again == pixels).all()


def test_under_error_an_image_that_breaks_later_is_named(tmp_path: Path) -> None:
    data = train_set(tmp_path, 2, "error")
    cut(tmp_path / "i1.jpg")
    assert "skipped" not in data[0]
    with pytest.raises(DataError, match=r"i1\.jpg"):
        data[1]


def test_when_every_image_breaks_training_stops(tmp_path: Path) -> None:
    data = train_set(tmp_path, 2, "skip")
    for i in range(2):
        cut(tmp_path / f"i{i}.jpg")
    with pytest.raises(DataError, match=r"none of the 2 training samples.*i1\.jpg"):
        data[1]


def processor(images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.from_numpy(np.array(images)).permute(2, 0, 1)[None].float()}


def test_an_evaluation_image_that_breaks_later_is_marked(tmp_path: Path) -> None:
    prepared = prepare_targets(write_rows(tmp_path, 3), SPACE)
    cut(tmp_path / "i1.jpg")
    with pytest.raises(DataError, match=r"i1\.jpg"):
        EvalDataset(prepared, processor)[1]
    data = EvalDataset(prepared, processor, on_bad_sample="skip", num_skipped=5)
    batch = collate_eval([data[i] for i in range(3)])
    assert batch["index"].tolist() == [0, -2, 2] and [name for name, _ in batch["skipped"]] == ["1"]
