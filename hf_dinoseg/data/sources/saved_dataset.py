"""Datasets of the datasets library: on the Hub, in parquet files, in a folder of `save_to_disk`, in an image folder.

`StoredSplits` says how such a set is opened and which of its columns are meant; it serves data that is loaded and data
that is streamed alike.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from huggingface_hub import constants

from ...errors import DataError
from .columns import FEATURES, FILE, absolute_root, hold_out, some

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)

_REMOTE = ("hf://", "zip://")  # what a streamed cell's path may begin with


def load_stored(source: str, **fields: Any) -> DatasetDict:
    """Two splits of a stored dataset.

    Args:
        source: `hub`, `parquet`, `arrow` or `imagefolder`.
        fields: the others of `StoredSplits`.

    Returns:
        As `load_folder`, in the order of the dataset; cells hold bytes where it does.

    Raises:
        DataError: if it cannot be had, lacks a split or column, or if a cell's path leads out of it.
    """
    stored = StoredSplits(source, **fields)
    splits = stored.open()
    training = stored.rows(stored.pick(splits, "train"), "train")
    if not isinstance(stored.validation, str):
        return hold_out(training, stored.validation)
    validation = stored.rows(stored.pick(splits, "validation"), "validation")
    return DatasetDict({"train": training, "validation": validation})


@dataclass(frozen=True)
class StoredSplits:
    """Where a dataset is and what of it is used.

    Args:
        source: `hub`, or, on disk, `parquet`, `arrow` (`Dataset.save_to_disk`) or `imagefolder` (images beside a
            `metadata.csv` or `.jsonl` with columns `file_name` and `mask_file_name`). `memory`: it is loaded already,
            only `rows` is of use, and its files may lie anywhere.
        place: the repository, `owner/name`, or a folder.
        train: name of the split.
        validation: likewise; or a share of the training rows that is held out.
        image_column, mask_column: images, encoded bytes, or, for masks, arrays of ids.
        id_column: names of rows; None counts them.
        config, revision: of a repository.
    """

    source: str
    place: str
    train: str = "train"
    validation: str | float = "validation"
    image_column: str = "image"
    mask_column: str = "mask"
    id_column: str | None = None
    config: str | None = None
    revision: str | None = None

    def load_arguments(self) -> dict[str, Any]:
        """Arguments of `datasets.load_dataset`, to which `streaming=True` may be added. Code of others is never run:
        the library has given up dataset scripts.

        Raises:
            DataError: if the folder is missing, or the place is neither a folder nor `owner/name`.
        """
        if self.source == "hub":
            local = Path(self.place).expanduser()
            if not local.is_dir() and self.place.count("/") != 1:
                raise DataError(f"data.repo_id: {self.place} is neither owner/name on the Hub nor a folder.")
            path = os.path.abspath(local) if local.is_dir() else self.place
            return {"path": path, "name": self.config, "revision": self.revision}
        root = absolute_root(self.place)
        if self.source != "arrow":
            return {"path": self.source, "data_dir": str(root)}
        if (root / "dataset_dict.json").is_file():
            names = sorted(path.parent.name for path in root.glob("*/state.json"))
            return {"path": "arrow", "data_files": {name: str(root / name / "data-*.arrow") for name in names}}
        return {"path": "arrow", "data_files": {"train": str(root / "data-*.arrow")}}

    def open(self, streaming: bool = False) -> Mapping[str, Any]:
        """Every split, with the columns that it came with.

        Raises:
            DataError: if it cannot be had; the message says what to do.
        """
        arguments = self.load_arguments()
        try:
            if self.source == "arrow" and not streaming:  # as it lies there; `load_dataset` would copy it to the cache
                found = datasets.load_from_disk(str(absolute_root(self.place)))
            else:
                found = datasets.load_dataset(**arguments, streaming=streaming)
        except Exception as error:  # every transport, file and format error ends here, with one way out for the user
            raise DataError(self._cure(error)) from error
        return found if isinstance(found, dict) else {"train": found}

    def pick(self, splits: Mapping[str, AnyDataset], split: str) -> AnyDataset:
        """The split that is called `train` or `validation` here.

        Raises:
            DataError: naming the splits that there are.
        """
        name = self.train if split == "train" else str(self.validation)
        if name not in splits:
            cure = " To hold out a share of the training rows, write data.validation: 0.2." if len(splits) == 1 else ""
            raise DataError(f"data.{split}: {self.place} has no split {name!r}; it has {', '.join(splits)}.{cure}")
        return splits[name]

    def rows(self, split: AnyDataset, name: str) -> AnyDataset:
        """The columns `id`, `image`, `mask` of a split, loaded or streamed. Images are not opened.

        Args:
            split: as `open` gives it.
            name: `train` or `validation`; rows without a name are called `train_000012`.

        Raises:
            DataError: if a column is missing or holds something else; if a path leads out of the dataset, which for
                streamed rows is found on the way.
        """
        features = split.features or {}
        for field in ("image_column", "mask_column", "id_column"):
            column = getattr(self, field)
            if column is not None and column not in features:
                columns = ", ".join(f"{key} ({column_kind(feature)})" for key, feature in features.items())
                raise DataError(f"data.{field}: {self.place} has no column {column!r}; it has {columns}.")
        wanted = [self.image_column, self.mask_column, *([self.id_column] if self.id_column else [])]
        split = split.select_columns(wanted)
        for field in ("image_column", "mask_column"):
            split = self._as_files(split, field)
        split = self._named(split, name)
        self._check_names(split)
        roots = self._roots()
        if isinstance(split, IterableDataset):
            return split.map(_checked, fn_kwargs={"roots": roots, "place": self.place}, features=FEATURES)
        if self.source != "memory":  # whoever gives an object chose its files
            _check_paths(split, roots, self.place)
        if not len(split):
            raise DataError(f"data.{name}: the split of {self.place} has no rows.")
        return split.select_columns(list(FEATURES))

    def _as_files(self, split: AnyDataset, field: str) -> AnyDataset:
        column = getattr(self, field)
        feature = (split.features or {})[column]
        kind = column_kind(feature)
        if kind == "arrays" and field == "mask_column":
            features = Features({**(split.features or {}), column: FILE})
            keep = {} if isinstance(split, IterableDataset) else {"cache_file_name": _cache_file(split, column)}
            return split.map(_array_file, fn_kwargs={"column": column}, features=features, **keep)
        if kind not in ("images", "bytes"):
            cure = "Name a column of images."
            if kind == "text":
                cure = "If these are paths, list them in a CSV file and write source: table."
            raise DataError(f"data.{field}: {column} of {self.place} holds {kind}. {cure}")
        return split.cast_column(column, FILE)

    def _named(self, split: AnyDataset, name: str) -> AnyDataset:
        renamed = {self.image_column: "image", self.mask_column: "mask"}
        if self.id_column is not None:
            renamed[self.id_column] = "id"
        # in one step through names that no column has: `image` and `mask` may change places
        split = split.rename_columns({old: f"\0{new}" for old, new in renamed.items()})
        split = split.rename_columns({f"\0{new}": new for new in renamed.values()})
        if self.id_column is not None:
            return split.cast_column("id", Value("string"))
        if isinstance(split, IterableDataset):
            return split.map(_numbered, with_indices=True, fn_kwargs={"name": name}, features=FEATURES)
        return split.add_column("id", [_number(name, i) for i in range(len(split))])

    def _check_names(self, split: Dataset | IterableDataset) -> None:
        if self.id_column is None or isinstance(split, IterableDataset):
            return
        if twice := [name for name, n in Counter(split["id"]).items() if n > 1]:
            raise DataError(f"data.id_column: {self.id_column} of {self.place} repeats {some(map(str, twice))}.")

    def _roots(self) -> list[str]:
        """Where the files of this dataset may lie."""
        if self.source == "memory":
            return []
        if self.source != "hub" or Path(self.place).expanduser().is_dir():
            return [os.path.abspath(Path(self.place).expanduser())]
        config = datasets.config
        caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
        return [os.path.abspath(str(cache)) for cache in caches]

    def _cure(self, error: Exception) -> str:
        story, cause = "", error
        while cause is not None and len(story) < 5000:
            story += f"{type(cause).__name__}: {cause} | "
            cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        page = f"https://huggingface.co/datasets/{self.place}"
        if self.source != "hub":
            wanted = {
                "arrow": "The folder is to be one that `save_to_disk` wrote.",
                "parquet": "The folder is to hold parquet files with their split in the name: train-00000.parquet.",
                "imagefolder": "The folder is to hold train/metadata.csv with columns file_name and mask_file_name.",
            }
            return f"data.root: {self.place} cannot be read as {self.source} ({reason}). {wanted[self.source]}"
        if "gated dataset" in story or "GatedRepo" in story:
            cure = f"It is gated: accept its terms on {page}, then log in with `hf auth login`."
        elif "scripts are no longer supported" in story:
            cure = "It is made by a script of its own, and scripts are not run. Take a copy of it in parquet files."
        elif "BuilderConfig" in story or "onfig name is missing" in story:
            cure = "Write one of its configurations in data.config."
        elif any(sign in story for sign in ("Couldn't reach", "OfflineMode", "LocalEntryNotFound", "imeout")):
            cure = (
                "The Hub could not be reached and the dataset is not in the local cache: check the connection and "
                "that HF_HUB_OFFLINE is not set, or give a folder that holds a copy."
            )
        elif "DatasetNotFound" in story or "RepositoryNotFound" in story or "RevisionNotFound" in story:
            cure = f"Check the spelling and the revision; if it is private, log in with `hf auth login`. See {page}."
        else:
            cure = f"See {page}."
        return f"data.repo_id: {self.place} cannot be loaded ({reason}). {cure}"


def column_kind(feature: Any) -> str:
    """What a column holds, in words."""
    if isinstance(feature, datasets.Image):
        return "images"
    if isinstance(feature, dict):
        return "images" if set(feature) == {"bytes", "path"} else "records"
    if isinstance(feature, Value):
        names = {"string": "text", "large_string": "text", "binary": "bytes", "large_binary": "bytes"}
        return names.get(feature.dtype, f"{feature.dtype} numbers")
    if isinstance(feature, (datasets.List, datasets.LargeList, list, datasets.Array2D, datasets.Array3D)):
        return "arrays"
    return type(feature).__name__


def _array_file(row: dict[str, Any], column: str) -> dict[str, Any]:
    """An array of ids as the bytes of a `.npy` file, in the smallest type that holds them."""
    array = np.asarray(row[column])
    if array.dtype.kind == "i" and array.size and array.min() >= 0:
        array = array.astype(np.min_scalar_type(int(array.max())))
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return {column: {"path": None, "bytes": buffer.getvalue()}}


def _cache_file(split: Dataset, column: str) -> str | None:
    """Where the files of a column of arrays are kept; by default that would be among the user's own files."""
    if not datasets.is_caching_enabled():
        return None
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_dinoseg"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"arrays-{datasets.fingerprint.Hasher.hash((split._fingerprint, column))}.arrow")


def _number(name: str, index: int) -> str:
    return f"{name}_{index:06d}"


def _numbered(row: dict[str, Any], index: int, name: str) -> dict[str, Any]:
    return {"id": _number(name, index), **row}


def _check_paths(split: Dataset, roots: list[str], place: str) -> None:
    for column in ("image", "mask"):
        for chunk in split.data.column(column).chunks:
            without_bytes = pc.is_null(pc.struct_field(chunk, "bytes"))
            for path in pc.struct_field(chunk, "path").filter(without_bytes).to_pylist():
                _check_path(path, roots, place)


def _checked(row: dict[str, Any], roots: list[str], place: str) -> dict[str, Any]:
    for column in ("image", "mask"):
        if row[column]["bytes"] is None and not str(row[column]["path"]).startswith(_REMOTE):
            _check_path(row[column]["path"], roots, place)
    return row


def _check_path(path: str | None, roots: list[str], place: str) -> None:
    if path is None:
        raise DataError(f"{place}: a row holds neither an image nor a path where one is expected. Remove the row.")
    normal = os.path.normpath(path)
    if not os.path.isabs(normal) or not any(normal.startswith(os.path.join(root, "")) for root in roots):
        raise DataError(
            f"{place}: a row points at the file {path}, which is outside of the dataset, and outside files are not "
            "opened. Store the images in it (`Dataset.to_parquet` does), or list absolute paths by source: table."
        )
