"""Datasets that are Python objects: of the datasets library, of torch, lists of pairs, columns, pandas frames."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from datasets.arrow_writer import ArrowWriter
from PIL import Image

from ...errors import DataError, InputError
from ...images.in_memory import image_bytes, mask_bytes
from .columns import FEATURES, FILE, file_rows, hold_out, path_names, some
from .saved_dataset import StoredSplits, column_kind

logger = logging.getLogger(__name__)

#: What columns are looked for under, in this order, where none is named.
IMAGE_NAMES = ("image", "images", "img", "pixel_values")
MASK_NAMES = (
    *("mask", "masks", "label", "labels", "annotation", "annotations", "label_map", "target"),
    *("segmentation_map", "segmentation_mask", "semantic_mask", "semantic_segmentation_mask"),
)
_VALIDATION_NAMES = ("validation", "val", "valid", "dev", "eval", "test")
_SHARE = 0.2  # of the rows, held out where nothing divides them
_PLACE = "the dataset"

#: Folders of what was encoded here. They are deleted when the process ends.
_folders: list[tempfile.TemporaryDirectory[str]] = []


def load_memory(
    dataset: Any,
    image_column: str | None = None,
    mask_column: str | None = None,
    id_column: str | None = None,
    train: str | None = None,
    validation: str | float | None = None,
) -> DatasetDict:
    """Two splits of a dataset that was given as an object.

    Args:
        dataset: one of these, or a mapping of splits to them, such as a `DatasetDict`:

            - a `datasets.Dataset`;
            - a torch `Dataset`, or any other object with a length and items, of (image, mask) or of mappings. It is
              read once, through to its end, so what it draws at random is drawn once;
            - a list of pairs (image, mask), or a mapping of two lists, `{"image": […], "mask": […]}`;
            - a pandas or polars frame.

            Images and masks are paths, the bytes of files, PIL images, arrays or tensors.
        image_column, mask_column: names of columns or keys; None looks for `IMAGE_NAMES` and `MASK_NAMES`.
        id_column: names of rows; None takes the images' paths, or counts.
        train: name of the split; None is `train`, or the only one.
        validation: likewise, None is `validation`, `val`, … or else a fifth of the training rows; or a share of these.

    Returns:
        As any source. Files stay where they are; other images and masks are kept as PNG in a folder for temporary
        files.

    Raises:
        DataError: if it is none of these; if a split or column is missing or holds something else.
    """
    columns = {"image_column": image_column, "mask_column": mask_column, "id_column": id_column}
    if not _is_splits(dataset):
        if isinstance(validation, str) or train is not None:
            raise DataError(
                "data.train, data.validation: the dataset has no splits; give a mapping such as {'train': …, "
                "'validation': …}, or validation=0.2 alone to hold out a share."
            )
        return hold_out(_rows(dataset, "train", columns), _SHARE if validation is None else validation)
    train = _split(dataset, "train", train, ("train", "training"))
    rows = _rows(dataset[train], "train", columns)
    if validation is None:
        validation = next((name for name in _VALIDATION_NAMES if name in dataset), None)
        if validation == "test":
            logger.warning("The dataset has no validation split; its split test is measured on in the place of one.")
    if validation is None or not isinstance(validation, str):
        return hold_out(rows, _SHARE if validation is None else validation)
    validation = _split(dataset, "validation", validation)
    return DatasetDict({"train": rows, "validation": _rows(dataset[validation], "validation", columns)})


def load_memory_validation(
    dataset: Any,
    image_column: str | None = None,
    mask_column: str | None = None,
    id_column: str | None = None,
    validation: str | None = None,
) -> DatasetDict:
    """The rows to measure on as the only split: all of a dataset without splits. Arguments and errors as
    `load_memory`."""
    columns = {"image_column": image_column, "mask_column": mask_column, "id_column": id_column}
    if _is_splits(dataset):
        dataset = dataset[_split(dataset, "validation", validation, _VALIDATION_NAMES)]
    return DatasetDict(validation=_rows(dataset, "validation", columns))


def load_memory_rows(dataset: Any, name: str) -> Dataset:
    """The rows of one split, in columns that are found by their usual names.

    Args:
        dataset: as of `load_memory`, without splits.
        name: what to call it in errors, and in the ids of rows without a name.

    Raises:
        DataError: as `load_memory`.
    """
    if _is_splits(dataset):
        raise DataError(f"{name}: a mapping of the splits {', '.join(map(str, dataset))}; give one of them.")
    return _rows(dataset, name, {})


def holds_images(dataset: Any) -> bool:
    """Whether a dataset holds images and masks, rather than tensors that an image processor made. Its first item is
    looked at."""
    if isinstance(dataset, Dataset):
        return dataset.format["type"] != "custom" and "pixel_values" not in dataset.column_names
    if isinstance(dataset, Mapping) or hasattr(dataset, "columns"):
        return True
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or not len(dataset):
        return False
    item = dataset[0]
    if isinstance(item, Mapping):
        return "pixel_values" not in item and bool(set(item) & set(IMAGE_NAMES)) and bool(set(item) & set(MASK_NAMES))
    return isinstance(item, (tuple, list)) and len(item) == 2


def kind_of(dataset: Any) -> str:
    """What a dataset is, in words for a recipe: `DatasetDict of train, validation`."""
    kind = f"{type(dataset).__module__.partition('.')[0]}.{type(dataset).__name__}".removeprefix("builtins.")
    return f"{kind} of {', '.join(map(str, dataset))}" if _is_splits(dataset) else kind


# ---------------------------------------------------------------------- splits and rows


def _is_splits(dataset: Any) -> bool:
    """Whether it is a mapping of splits, and not one of columns."""
    if not isinstance(dataset, Mapping):
        return False
    return not (set(dataset) & set(IMAGE_NAMES) and all(_is_list(column) for column in dataset.values()))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray, torch.Tensor))


def _split(dataset: Mapping[str, Any], split: str, name: str | None, names: Sequence[str] = ()) -> str:
    if name is None and len(dataset) == 1:
        return next(iter(dataset))
    found = next((n for n in ((name,) if name is not None else names) if n in dataset), None)
    if found is None:
        wanted = f"no split {name!r}" if name is not None else f"no split to take for {split}"
        held = ", ".join(map(str, dataset)) or "none"
        raise DataError(
            f"data.{split}: the dataset has {wanted}; it has {held}. Name one by {split}=…, or call two of them train "
            "and validation."
        )
    return found


def _rows(given: Any, split: str, columns: Mapping[str, str | None]) -> Dataset:
    if isinstance(given, (datasets.IterableDataset, torch.utils.data.IterableDataset, Iterator)):
        raise DataError(
            f"data.{split}: a {type(given).__name__} has no length, and training goes through the data many times. "
            "Give list(…) of it; what does not fit in memory is streamed by a recipe with data.streaming: true."
        )
    if isinstance(given, Dataset):
        return _of_library(given, split, columns)
    if hasattr(given, "columns") and not isinstance(given, Mapping):
        given = _records(given, columns)
    elif isinstance(given, Mapping):
        given = _zipped(given, columns)
    if isinstance(given, (str, bytes)) or not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise DataError(
            f"data.{split}: {_shown(given)} is no dataset; give a datasets.Dataset, a torch Dataset, a list of pairs "
            "(image, mask), a mapping of two lists or a pandas frame. Folders are named by images=… and masks=…."
        )
    count = len(given)
    if not count:
        raise DataError(f"data.{split}: the dataset has no rows.")
    return _gathered((_pair(given[place], place, columns) for place in range(count)), split)


Pair = tuple[Any, Any, Any]
"""Name or None, image, mask."""


def _of_library(given: Dataset, split: str, columns: Mapping[str, str | None]) -> Dataset:
    """A `datasets.Dataset`. Encoded images and masks stay where they lie; other columns are gathered."""
    if given.format["type"] == "custom":
        raise DataError(
            f"data.{split}: the dataset has a transform of its own (set_transform), and images and masks are augmented "
            "here together. Give the dataset without it: dataset.with_format(None)."
        )
    given = given.with_format(None)
    names = _columns(list(given.features), columns, split)
    kinds = {field: column_kind(given.features[name]) for field, name in names.items() if field != "id_column"}
    for field, kind in kinds.items():
        if kind not in ("images", "bytes", "text", "arrays"):
            raise DataError(
                f"data.{field}: the column {names[field]} holds {kind}; name one of images, masks or paths by "
                f"{field}=…. The columns: {', '.join(given.features)}."
            )
    direct = kinds["image_column"] in ("images", "bytes") and kinds["mask_column"] != "text"
    if direct:
        rows = StoredSplits("memory", _PLACE, **names).rows(given, split)
        for column in ("image", "mask"):
            empty = rows.data.column(column).is_null().to_numpy()
            chosen = empty if rows._indices is None else empty[rows._indices.column(0).to_numpy()]
            if chosen.any():
                raise DataError(f"data.{split}: {chosen.sum()} rows of the dataset hold no {column}; leave them out.")
        return rows
    for field, kind in kinds.items():
        if kind == "images":
            given = given.cast_column(names[field], FILE)
    picked = given.select_columns(list(names.values()))
    return _gathered((_pair(row, place, names) for place, row in enumerate(picked)), split)


def _records(frame: Any, columns: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """The rows of a frame, in the columns that are meant."""
    names = list(_columns([str(name) for name in frame.columns], columns, "frame").values())
    picked = frame[names]
    rows: list[dict[str, Any]] = picked.to_dicts() if hasattr(picked, "to_dicts") else picked.to_dict("records")
    return rows


def _zipped(given: Mapping[str, Any], columns: Mapping[str, str | None]) -> list[dict[str, Any]]:
    names = list(_columns(list(given), columns, "dataset").values())
    lengths = {name: len(given[name]) for name in names}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(f"data: the lists are of different lengths: {told}. Give one mask for each image.")
    return [dict(zip(names, row, strict=True)) for row in zip(*(given[name] for name in names), strict=True)]


def _columns(found: Sequence[str], columns: Mapping[str, str | None], where: str) -> dict[str, str]:
    """The columns that are meant, by `image_column`, `mask_column` and, if there is one, `id_column`."""
    names: dict[str, str] = {}
    for field, usual in (("image_column", IMAGE_NAMES), ("mask_column", MASK_NAMES), ("id_column", ())):
        wanted = columns.get(field)
        name = wanted if wanted in found else next((n for n in usual if n in found), None) if wanted is None else None
        if name is not None:
            names[field] = name
        elif wanted is not None or usual:
            told = f"no column {wanted!r}" if wanted is not None else f"none of {', '.join(usual[:4])}, …"
            raise DataError(
                f"data.{field}: the {where} has {told}; it has {', '.join(map(str, found))}. Name it by {field}=…."
            )
    return names


def _pair(item: Any, place: int, columns: Mapping[str, str | None]) -> Pair:
    if isinstance(item, Mapping):
        names = _columns(list(item), columns, f"item {place}")
        name = item[names["id_column"]] if "id_column" in names else None
        return name, item[names["image_column"]], item[names["mask_column"]]
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return None, item[0], item[1]
    raise DataError(
        f"data: item {place} of the dataset is {_shown(item)}; an item is a pair (image, mask), or a mapping such as "
        "{'image': …, 'mask': …}."
    )


# ---------------------------------------------------------------------- cells


def _gathered(pairs: Iterator[Pair], split: str) -> Dataset:
    """Rows of cells. As long as all cells are paths nothing is stored; else what is encoded goes to a file."""
    rows: list[dict[str, Any]] = []
    names: list[Any] = []

    def cells() -> Iterator[dict[str, Any]]:
        for place, (name, image, mask) in enumerate(pairs):
            called = f"{split}_{place:06d}" if name is None else str(name)
            names.append(name)
            yield {"id": called, "image": _cell(image, "image", called), "mask": _cell(mask, "mask", called)}

    rest = cells()
    for row in rest:
        rows.append(row)
        if row["image"]["bytes"] is not None or row["mask"]["bytes"] is not None:
            gathered = _stored(chain(rows, rest))
            break
    else:
        images, masks = ([row[column]["path"] for row in rows] for column in ("image", "mask"))
        if None in names:
            base = Path(os.path.commonpath([os.path.dirname(path) for path in images]))
            gathered = file_rows(path_names(base, images), images, masks)
        else:
            gathered = file_rows([row["id"] for row in rows], images, masks)
    ids = gathered["id"][:]
    if len(set(ids)) < len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        raise DataError(f"data.id_column: the dataset repeats {some(twice)}.")
    return gathered


def _stored(rows: Iterator[dict[str, Any]]) -> Dataset:
    """Rows in an Arrow file of their own, which is read as it is needed: images need not fit in memory."""
    parent = None
    if datasets.is_caching_enabled():
        parent = Path(datasets.config.HF_DATASETS_CACHE) / "hf_dinoseg"
        parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.TemporaryDirectory(prefix="memory-", dir=parent, ignore_cleanup_errors=True)
    _folders.append(folder)
    path = os.path.join(folder.name, "rows.arrow")
    with ArrowWriter(path=path, features=FEATURES, writer_batch_size=64) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    return Dataset.from_file(path)


def _cell(value: Any, column: str, name: str) -> dict[str, Any]:
    """The cell of an image or a mask."""
    if isinstance(value, Mapping) and {"path", "bytes"} <= set(value):
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, (str, os.PathLike)) and "://" not in (text := os.fspath(value)):
        return {"path": os.path.abspath(os.path.expanduser(text)), "bytes": None}
    if isinstance(value, str):
        raise DataError(f"{name}: the {column} is the address {value}; download the files and give their paths.")
    if isinstance(value, (bytes, bytearray)):
        return {"path": f"{name} ({column})", "bytes": bytes(value)}
    if isinstance(value, list):
        value = np.asarray(value)
        if column == "image" and value.dtype.kind in "iu" and value.size and 0 <= value.min() <= value.max() <= 255:
            value = value.astype(np.uint8)
    if not isinstance(value, (Image.Image, np.ndarray, torch.Tensor)):
        raise DataError(
            f"{name}: the {column} is {_shown(value)}; give a path, the bytes of a file, a PIL image, an array or a "
            "tensor."
        )
    if isinstance(value, np.ndarray) and value.dtype.kind not in "buif":
        raise DataError(f"{name}: the {column} is an array of {value.dtype}; give numbers.")
    try:
        data = image_bytes(value) if column == "image" else mask_bytes(value)
    except InputError as error:
        raise DataError(f"{name}: {error}") from error
    return {"path": f"{name} ({column})", "bytes": data}


def _shown(value: Any) -> str:
    """A thing in a few words: its type, and what it is if that is short."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    kind = type(value).__name__
    if isinstance(value, (tuple, list)):
        return f"a {kind} of {len(value)}"
    return f"{kind} {value!r}" if len(repr(value)) <= 60 else kind
