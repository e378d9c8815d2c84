"""Datasets given as Python objects: each form yields the pixels and ids that it was made of."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

from hf_dinoseg.data import load_memory, load_memory_validation
from hf_dinoseg.errors import DataError
from hf_dinoseg.images import read_image, read_mask

COUNT = 5
Pairs = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Images of noise, each another one, and masks of the ids 0 to 3."""
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (20, 24, 3), dtype=np.uint8), rng.integers(0, 4, (20, 24), dtype=np.uint8))
        for _ in range(COUNT)
    ]


@pytest.fixture(scope="module")
def files(pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("files")
    names = []
    for number, (image, mask) in enumerate(pairs):
        names.append((str(folder / f"{number}.png"), str(folder / f"{number}_mask.png")))
        Image.fromarray(image).save(names[-1][0])
        Image.fromarray(mask).save(names[-1][1])
    return names


class Torch(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """As torchvision's datasets are after ToTensor: floats from 0 to 1, and int64 masks."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs, self.asked = pairs, 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        image, mask = self.pairs[place]
        return torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(mask).long()


def of_library(pairs: Pairs) -> Dataset:
    columns = {"image": [Image.fromarray(i) for i, _ in pairs], "label": [Image.fromarray(m) for _, m in pairs]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    return Dataset.from_dict(columns, features=features)


def png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


FORMS: dict[str, Callable[[Pairs, list[tuple[str, str]]], Any]] = {
    "a datasets.Dataset": lambda pairs, files: of_library(pairs),
    "one of which rows are chosen": lambda pairs, files: of_library([*pairs, pairs[0]]).select(range(COUNT)),
    "one of paths": lambda pairs, files: Dataset.from_list([{"img": i, "mask": m} for i, m in files]),
    "one with masks in arrays": lambda pairs, files: (
        of_library(pairs).remove_columns("label").add_column("mask", [m.tolist() for _, m in pairs])
    ),
    "one of arrays": lambda pairs, files: Dataset.from_dict(
        {"pixel_values": [i.tolist() for i, _ in pairs], "labels": [m.tolist() for _, m in pairs]}
    ),
    "a torch Dataset": lambda pairs, files: Torch(pairs),
    "pairs of paths": lambda pairs, files: files,
    "pairs of a path and an array": lambda pairs, files: [
        (Path(f[0]), m.astype(np.int64)[None]) for f, (_, m) in zip(files, pairs, strict=True)
    ],
    "PIL images": lambda pairs, files: [(Image.fromarray(i), Image.fromarray(m)) for i, m in pairs],
    "bytes, by key": lambda pairs, files: [{"image": png(i), "mask": png(m)} for i, m in pairs],
    "two lists": lambda pairs, files: {"image": [f[0] for f in files], "mask": [m for _, m in pairs]},
    "a frame": lambda pairs, files: pandas.DataFrame(files, columns=["image", "mask"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_back_what_it_was_made_of(form: str, pairs: Pairs, files: list[tuple[str, str]]) -> None:
    given = FORMS[form](pairs, files)
    rows = load_memory_validation(given)["validation"]
    assert len(rows) == COUNT and len(set(rows["id"])) == COUNT
    for row, (image, mask) in zip(rows, pairs, strict=True):
        assert np.array_equal(np.asarray(read_image(row["image"])), image)
        assert np.array_equal(read_mask(row["mask"]), mask)
    if isinstance(given, Torch):
        assert given.asked == COUNT  # once through, and never again
    splits = load_memory(given, validation=0.4)
    assert {name: len(split) for name, split in splits.items()} == {"train": 3, "validation": 2}
    assert not set(splits["train"]["id"]) & set(splits["validation"]["id"])


def test_masks_keep_what_a_png_cannot_show(pairs: Pairs) -> None:
    """Bools, palettes, ids beyond 16 bits and colours; an image that lies on its side is turned."""
    wide = np.array([[0, 70000]])
    palette = Image.fromarray(np.array([[0, 3]], np.uint8)).convert("P")
    palette.putpalette([0, 0, 0] * 3 + [200, 10, 10])
    colors = np.array([[[1, 2, 3], [9, 9, 9]]] * 2, np.uint8)
    image = np.zeros((2, 2, 3), np.uint8)
    given = [(image, wide), (image, palette), (image, np.array([[False, True]])), (image, colors)]
    cells = load_memory_validation(given)["validation"]["mask"]
    assert np.array_equal(read_mask(cells[0]), wide)
    assert np.array_equal(read_mask(cells[1]), [[0, 3]]) and read_mask(cells[1], "rgb")[0, 1].tolist() == [200, 10, 10]
    assert read_mask(cells[2]).dtype == bool and read_mask(cells[2]).tolist() == [[False, True]]
    assert np.array_equal(read_mask(cells[3], "rgb"), colors)
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it a quarter clockwise
    Image.fromarray(pairs[0][0]).save(file := io.BytesIO(), "PNG", exif=exif)
    (row,) = load_memory_validation([(Image.open(file), pairs[0][1])])["validation"]
    assert np.array_equal(np.asarray(read_image(row["image"])), np.rot90(pairs[0][0], -1))


def test_splits_and_columns_by_name(pairs: Pairs, files: list[tuple[str, str]], caplog: Any) -> None:
    whole = of_library(pairs)
    two = DatasetDict(train=whole.select([0, 1, 2]), validation=whole.select([3]), test=whole.select([4]))
    assert {name: len(split) for name, split in load_memory(two).items()} == {"train": 3, "validation": 1}
    found = load_memory(two, train="test", validation="train")
    assert {name: len(split) for name, split in found.items()} == {"train": 1, "validation": 3}
    assert {name: len(split) for name, split in load_memory({"train": files}).items()} == {"train": 4, "validation": 1}
    assert len(load_memory_validation(two)["validation"]) == 1 and not caplog.records
    assert len(load_memory(whole.train_test_split(0.4))["validation"]) == 2 and "split test" in caplog.text
    renamed = whole.rename_columns({"image": "a", "label": "b"}).add_column("name", list("vwxyz"))
    rows = load_memory_validation(renamed, image_column="a", mask_column="b", id_column="name")["validation"]
    assert rows["id"][:] == list("vwxyz")
    named = load_memory_validation(pandas.DataFrame(files, columns=["image", "mask"]))["validation"]
    assert named["id"][:] == [str(number) for number in range(COUNT)]  # as the files are called


IMAGE, MASK = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, ["int 3 is no dataset", "torch Dataset"]),
        ("photos", ["'photos' is no dataset", "images=… and masks=…"]),
        ([], ["has no rows"]),
        (iter([(IMAGE, MASK)]), ["no length", "list(…)"]),
        ([IMAGE], ["item 0 of the dataset is ndarray of shape (4, 4, 3)", "a pair (image, mask)"]),
        ([(IMAGE, MASK), (IMAGE, None)], ["train_000001: the mask is NoneType None"]),
        ([(IMAGE / 2, MASK)], ["train_000000: an array of shape (4, 4, 3) and type float64 is no image"]),
        ([(torch.full((3, 4, 4), 2.5), MASK)], ["train_000000", "2.5", "Undo the normalisation"]),
        ([("https://a.b/c.png", "m.png")], ["the address https://a.b/c.png"]),
        ([{"image": IMAGE, "depth": MASK}], ["data.mask_column: the item 0 has none of mask", "image, depth"]),
        ({"image": ["a"], "mask": ["b", "c"]}, ["image has 1, mask has 2"]),
        ({"a": [(IMAGE, MASK)], "b": [(IMAGE, MASK)]}, ["data.train", "it has a, b"]),
        (pandas.DataFrame({"image": ["a"]}), ["data.mask_column: the frame has none of", "it has image"]),
        (Dataset.from_dict({"image": [1.5], "mask": ["a"]}), ["the column image holds"]),
        (Dataset.from_dict({"image": ["a"], "mask": ["b"]}).with_transform(lambda rows: rows), ["with_format(None)"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_dataset_is_told_in_one_sentence(given: Any, told: list[str]) -> None:
    with pytest.raises(DataError) as raised:
        load_memory(given)
    assert not [words for words in told if words not in str(raised.value)], str(raised.value)
    assert "\n" not in str(raised.value)


def test_wrong_names_are_told() -> None:
    two = {"train": [(IMAGE, MASK)], "validation": [(IMAGE, MASK)]}
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, validation"):
        load_memory(two, validation="dev")
    with pytest.raises(DataError, match="has no splits"):
        load_memory([(IMAGE, MASK)], validation="val")
    with pytest.raises(DataError, match=r"no column 'picture'; it has image, mask"):
        load_memory({"image": ["a"], "mask": ["b"]}, image_column="picture")
