"""Datasets of the datasets library, written by it and read back, and what is said where that fails."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from PIL import Image

from hf_dinoseg.data import load_stored
from hf_dinoseg.data.sources import FEATURES, StoredSplits
from hf_dinoseg.errors import DataError
from hf_dinoseg.images import read_mask

IMAGE = datasets.Image()
COLUMNS = {"image_column": "photo", "mask_column": "annotation"}


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def made(count: int, start: int) -> Dataset:
    numbers = range(start, start + count)
    return Dataset.from_dict(
        {
            "photo": [{"bytes": png(i), "path": f"{i}.png"} for i in numbers],
            "annotation": [{"bytes": png(100 + i), "path": None} for i in numbers],
            "raw": [png(100 + i) for i in numbers],
            "ids": [np.full((2, 3), 100 + i).tolist() for i in numbers],
            "name": [f"eye {i}" for i in numbers],
            "age": list(numbers),
        },
        features=Features(
            {
                "photo": IMAGE,
                "annotation": IMAGE,
                "raw": Value("binary"),
                "ids": List(List(Value("int32"))),
                "name": Value("string"),
                "age": Value("int64"),
            }
        ),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two splits as parquet files, as an arrow folder and as an image folder."""
    root = tmp_path_factory.mktemp("stored")
    splits = DatasetDict({"train": made(3, 0), "test": made(2, 3)})
    (root / "parquet" / "data").mkdir(parents=True)
    for name, split in splits.items():
        split.to_parquet(root / "parquet" / "data" / f"{name}-00000-of-00001.parquet")
    splits.save_to_disk(root / "arrow")
    for name, start, count in (("train", 0, 3), ("test", 3, 2)):
        folder = root / "imagefolder" / name
        (folder / "masks").mkdir(parents=True)
        lines = ["file_name,mask_file_name"]
        for i in range(start, start + count):
            (folder / f"{i}.png").write_bytes(png(i))
            (folder / "masks" / f"{i}.png").write_bytes(png(100 + i))
            lines.append(f"{i}.png,masks/{i}.png")
        (folder / "metadata.csv").write_text("\n".join(lines))
    return root


def masks(rows: Any) -> list[int]:
    return [int(read_mask(row["mask"])[0, 0]) for row in rows]


def test_each_kind_gives_the_same_rows(written: Path) -> None:
    for source, fields in (("parquet", COLUMNS), ("arrow", COLUMNS), ("imagefolder", {})):
        data = load_stored(source, place=str(written / source), validation="test", **fields)
        for split in data.values():
            assert split.features == FEATURES and split.column_names == ["id", "image", "mask"], source
        assert data["train"]["id"][:] == ["train_000000", "train_000001", "train_000002"], source
        assert masks(data["train"]) == [100, 101, 102] and masks(data["validation"]) == [103, 104], source
        assert [int(read_mask(row["image"])[0, 0]) for row in data["train"]] == [0, 1, 2], source


def test_a_folder_that_is_laid_out_like_a_repository(written: Path) -> None:
    data = load_stored("hub", place=str(written / "parquet"), validation="test", id_column="name", **COLUMNS)
    assert data["validation"]["id"][:] == ["eye 3", "eye 4"] and masks(data["validation"]) == [103, 104]


def test_masks_may_be_encoded_bytes_and_columns_may_change_places(written: Path) -> None:
    place = str(written / "parquet")
    assert masks(
        load_stored("parquet", place=place, validation="test", image_column="photo", mask_column="raw")["train"]
    )
    data = load_stored("parquet", place=place, validation="test", image_column="annotation", mask_column="photo")
    assert masks(data["train"]) == [0, 1, 2]
    swapped = written.parent / f"{written.name}-swapped"
    made(2, 0).rename_columns({"photo": "mask", "annotation": "image"}).save_to_disk(swapped)
    data = load_stored("arrow", place=str(swapped), validation=0.5, image_column="mask", mask_column="image")
    assert sorted(masks(data["train"]) + masks(data["validation"])) == [100, 101]


def test_arrays_become_npy_files(written: Path) -> None:
    before = sorted((written / "arrow").rglob("*"))
    fields = {"validation": "test", "image_column": "photo", "mask_column": "ids"}
    data = load_stored("arrow", place=str(written / "arrow"), **fields)
    assert sorted((written / "arrow").rglob("*")) == before  # a folder of the user's is not written to
    arrays = [np.load(io.BytesIO(row["mask"]["bytes"]), allow_pickle=False) for row in data["train"]]
    assert [a.dtype for a in arrays] == [np.uint8] * 3
    assert [a.tolist() for a in arrays] == [np.full((2, 3), 100 + i).tolist() for i in range(3)]


def test_a_share_is_held_out_of_the_only_split(written: Path) -> None:
    only = written.parent / f"{written.name}-only"
    made(4, 0).save_to_disk(only)
    data = load_stored("arrow", place=str(only), validation=0.25, **COLUMNS)
    assert sorted(masks(data["train"]) + masks(data["validation"])) == [100, 101, 102, 103]
    with pytest.raises(DataError, match=r"has no split 'validation'; it has train\. To hold out .*validation: 0\.2"):
        load_stored("arrow", place=str(only), **COLUMNS)


@pytest.mark.parametrize("source", ["parquet", "arrow", "imagefolder", "hub"])
def test_streamed_rows_are_the_loaded_ones(written: Path, source: str) -> None:
    fields: dict[str, Any] = {} if source == "imagefolder" else COLUMNS
    place = str(written / ("parquet" if source == "hub" else source))
    stored = StoredSplits(source, place, validation="test", **fields)
    loaded = load_stored(source, place=place, validation="test", **fields)
    streamed = stored.open(streaming=True)
    for name in ("train", "validation"):
        rows = list(stored.rows(stored.pick(streamed, name), name))
        assert [sorted(row) for row in rows] == [["id", "image", "mask"]] * len(rows)
        assert [row["id"] for row in rows] == loaded[name]["id"][:]
        assert masks(rows) == masks(loaded[name])


def test_the_streamed_mask_array_too(written: Path) -> None:
    stored = StoredSplits("parquet", str(written / "parquet"), "train", "test", "photo", "ids", "name")
    rows = list(stored.rows(stored.pick(stored.open(streaming=True), "train"), "train"))
    assert [row["id"] for row in rows] == ["eye 0", "eye 1", "eye 2"]
    assert np.load(io.BytesIO(rows[2]["mask"]["bytes"]), allow_pickle=False).tolist() == [[102] * 3] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"mask_column": "mask"},
            r"data\.mask_column: .* no column 'mask'; it has photo \(images\), .*name \(text\)",
        ),
        ({"id_column": "nr"}, r"data\.id_column: .* no column 'nr'"),
        ({"mask_column": "name"}, r"data\.mask_column: name of .* holds text\. If these are paths, .* source: table"),
        ({"mask_column": "age"}, r"holds int64 numbers\. Name a column of images"),
        ({"image_column": "ids"}, r"data\.image_column: ids of .* holds arrays\."),
        ({"train": "training"}, r"data\.train: .* has no split 'training'; it has train, test\."),
    ],
)
def test_wrong_columns_and_splits_are_told_with_what_is_there(
    written: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_stored("arrow", **{"place": str(written / "arrow"), "validation": "test", **COLUMNS, **fields})


def test_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    rows = made(2, 0)
    rows.remove_columns("name").add_column("name", ["x", "x"]).save_to_disk(tmp_path / "twice")
    with pytest.raises(DataError, match=r"data\.id_column: name of .* repeats x"):
        load_stored("arrow", place=str(tmp_path / "twice"), validation=0.5, id_column="name", **COLUMNS)


@pytest.mark.parametrize("path", ["/etc/hostname", "SIBLING", "../secret.png", "file:///etc/hostname"])
def test_a_stored_path_never_leads_out_of_the_data_set(tmp_path: Path, path: str) -> None:
    """A parquet file of a stranger may name any file of this machine in place of an image."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set-secret").mkdir()
    (tmp_path / "set-secret" / "secret.png").write_bytes(png(1))
    path = path.replace("SIBLING", str(tmp_path / "set-secret" / "secret.png"))
    cells = [{"bytes": png(0), "path": "a.png"}, {"bytes": None, "path": path}]
    rows = Dataset.from_dict(
        {"photo": cells, "annotation": cells}, features=Features(dict.fromkeys(COLUMNS.values(), IMAGE))
    )
    import pyarrow.parquet

    pyarrow.parquet.write_table(rows.data.table, tmp_path / "set" / "train.parquet")  # `to_parquet` would read the file
    message = "which is outside of the dataset, and outside files are not opened"
    with pytest.raises(DataError, match=message):
        load_stored("parquet", place=str(tmp_path / "set"), validation=0.5, **COLUMNS)
    stored = StoredSplits("parquet", str(tmp_path / "set"), **COLUMNS)
    with pytest.raises(DataError, match=message):
        list(stored.rows(stored.open(streaming=True)["train"], "train"))


def test_a_stored_path_within_the_data_set_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(7))
    cell = {"bytes": None, "path": str(tmp_path / "a.png")}
    rows = Dataset.from_dict({"photo": [cell] * 2, "annotation": [cell] * 2}).cast(
        Features(dict.fromkeys(COLUMNS.values(), datasets.Image(decode=False)))
    )
    import pyarrow.parquet

    pyarrow.parquet.write_table(rows.data.table, tmp_path / "train.parquet")
    assert masks(load_stored("parquet", place=str(tmp_path), validation=0.5, **COLUMNS)["train"]) == [7]


def test_what_cannot_be_had_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"data\.root: there is no folder .*none"):
        load_stored("parquet", place=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"data\.root: .* cannot be read as parquet .* hold parquet files"):
        load_stored("parquet", place=str(tmp_path))
    with pytest.raises(DataError, match=r"data\.root: .* cannot be read as arrow .* `save_to_disk` wrote"):
        load_stored("arrow", place=str(tmp_path))
    with pytest.raises(DataError, match=r"data\.repo_id: parquet is neither owner/name on the Hub nor a folder"):
        load_stored("hub", place="parquet")
    with pytest.raises(DataError, match=r"data\.repo_id: nobody/none cannot .* could not be reached .*HF_HUB_OFFLINE"):
        load_stored("hub", place="nobody/none")


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."),
            r"It is gated: accept its terms on https://huggingface\.co/datasets/a/b, then log in with `hf auth login`",
        ),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "Check the spelling"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (ConnectTimeout)"), "The Hub could not be reached"),
        (ValueError("Config name is missing. Please pick one among: ['x', 'y']"), r"x.*data\.config"),
    ],
)
def test_errors_of_the_hub_have_a_cure(monkeypatch: pytest.MonkeyPatch, error: Exception, cure: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=cure):
        load_stored("hub", place="a/b")


def test_scripts_of_others_are_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="a script of its own, and scripts are not run"):
        load_stored("hub", place=str(folder))
    assert not (tmp_path / "ran").exists()
    shutil.rmtree(folder)
