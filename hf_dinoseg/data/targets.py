"""Rows of files to targets: a compact train-id label map a row, made once and cached; masks are cut from it on use.

What travels and is stored is always the (H, W) map, never N masks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import numpy as np
import pyarrow
from datasets import Dataset, Features, List, Value, concatenate_datasets

from ..errors import DataError, LabelError
from ..images import MAX_PIXELS, Cell, cell_name, read_mask, upright_size
from ..labels import LabelSpace
from .label_maps import encode_label_map
from .sources.columns import without_bars

logger = logging.getLogger(__name__)

OnBadSample = Literal["error", "skip"]

_VERSION = 3  # raise when the targets of the same files would come out otherwise, so that old caches are left alone

TARGET_FEATURES = Features(
    {
        "label_map": Value("binary"),
        "class_labels": List(Value("int64")),
        "pixel_counts": List(Value("int64")),
        "void_pixels": Value("int64"),
        "height": Value("int64"),
        "width": Value("int64"),
        "digest": Value("string"),  # of the label map
    }
)
_TOLD = 20  # bad samples that the log names
_FAULT = "fault"  # why a row cannot be used; the column is there only where such rows are to be skipped


class Skipped(NamedTuple):
    """A sample that was left out, and the error that it would have been."""

    id: str
    reason: str


def prepare_targets(
    dataset: Dataset,
    label_space: LabelSpace,
    num_proc: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_bad_sample: OnBadSample = "error",
) -> Dataset:
    """Reads every mask once and adds the columns that training and evaluation use.

    Added: `label_map` (the (H, W) train-id map, packed; see `label_maps.read_label_map`), `class_labels` (train ids
    present, ascending), `pixel_counts` (in the same order), `void_pixels`, `height`, `width`, `digest` (of the label
    map). Images are read to their end as well, so that a broken file is met now and not in the middle of a run.

    The result is cached in the datasets cache folder, under a fingerprint of the label space and of each file's path,
    size, and times of modification and of change: a mask that was edited is read again, also where its time of
    modification was kept. A cache file that is broken is made anew.

    Args:
        dataset: columns `id`, `image`, `mask` as the sources give them.
        num_proc: processes that share the work; None works in this one.
        max_pixels: a larger file is a bad one.
        on_bad_sample: `error` raises at the first bad sample; `skip` keeps every row and writes down what is wrong
            with it, for `drop_bad` to take out.

    Raises:
        DataError: if a file cannot be read, or the sizes of an image and its mask differ.
        LabelError: if a mask holds ids that the label space does not know. Both name the file.
    """
    text = json.dumps(label_space.to_dict(), sort_keys=True)
    skip = on_bad_sample == "skip"
    key = fingerprint(dataset, f"{text} {max_pixels} {on_bad_sample}", skip)
    cache_file = None
    if datasets.is_caching_enabled():
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_dinoseg"
        folder.mkdir(parents=True, exist_ok=True)
        cache_file = str(folder / f"targets-{key}.arrow")
    features = Features({**TARGET_FEATURES, _FAULT: Value("string")}) if skip else TARGET_FEATURES

    def read(from_cache: bool | None) -> Dataset:
        return dataset.map(
            _row_targets,
            input_columns=["image", "mask"],
            remove_columns=dataset.column_names,  # joined below: images stored as bytes are not copied to the cache
            fn_kwargs={"label_space": text, "max_pixels": max_pixels, "keep_bad": skip},
            features=features,
            num_proc=num_proc,
            cache_file_name=cache_file,
            load_from_cache_file=from_cache,
            new_fingerprint=key,
            desc="Reading masks",
        )

    try:
        targets = read(None)
        whole = len(targets) == len(dataset) and set(targets.column_names) == set(features)
    except (OSError, pyarrow.ArrowException):  # of a cache file that was cut off
        whole = False
    if not whole:
        logger.warning("The cached targets in %s are broken; masks are read again.", cache_file)
        targets = read(False)
    with without_bars():
        return concatenate_datasets([dataset, targets], axis=1)


def drop_bad(prepared: Dataset, split: str) -> tuple[Dataset, list[Skipped]]:
    """The good rows of what `prepare_targets` gave under `skip`, and the others' ids and reasons, which are logged.

    Args:
        prepared: returned as it is where it was not prepared under `skip`.
        split: its name, for messages.

    Raises:
        DataError: if no row is good.
    """
    if _FAULT not in prepared.column_names:
        return prepared, []
    faults = prepared.with_format(None)[_FAULT]
    good = [place for place, fault in enumerate(faults) if fault is None]
    ids = prepared["id"]
    skipped = [Skipped(ids[place], fault) for place, fault in enumerate(faults) if fault is not None]
    if not good:
        told = f"; the first: {skipped[0].reason}" if skipped else "."
        raise DataError(f"none of the {len(skipped)} {split} samples can be used{told}")
    if skipped:
        told = "".join(f"\n  {reason}" for _, reason in skipped[:_TOLD])
        more = f"\n  and {len(skipped) - _TOLD} more" if len(skipped) > _TOLD else ""
        logger.warning("%d of %d %s samples are bad and skipped:%s%s", len(skipped), len(faults), split, told, more)
        prepared = prepared.select(good)
    return prepared.remove_columns(_FAULT), skipped


def fingerprint(dataset: Dataset, settings: str = "", missing_may_be: bool = False) -> str:
    """Of the images and masks of rows: equal in every process for the same files and settings, and for no others."""
    digest = hashlib.blake2b(f"{_VERSION} {settings}".encode(), digest_size=8)
    for row in dataset.select_columns(["image", "mask"]):
        for cell in (row["image"], row["mask"]):
            if cell["bytes"] is not None:
                digest.update(hashlib.blake2b(cell["bytes"]).digest())
            else:
                try:
                    stat = os.stat(cell["path"])
                except OSError as error:
                    if missing_may_be:
                        digest.update(f"{cell['path']}\0missing\0".encode())
                        continue
                    raise DataError(f"{cell_name(cell)}: {error.strerror or error}.") from None
                # The time of change is set by the system at each change, whatever a program then writes as the time
                # of modification. On Windows it is that of creation.
                times = f"{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
                digest.update(f"{cell['path']}\0{stat.st_size}\0{times}\0".encode())
    return digest.hexdigest()


@lru_cache(maxsize=8)
def _label_space(text: str) -> LabelSpace:
    return LabelSpace.from_dict(json.loads(text))


def _row_targets(
    image: dict[str, Any], mask: dict[str, Any], label_space: str, max_pixels: int, keep_bad: bool
) -> dict[str, Any]:
    space = _label_space(label_space)
    try:
        label_map = read_target(mask, space, max_pixels)
        check_sizes(image, mask, upright_size(image, max_pixels), (label_map.shape[1], label_map.shape[0]))
    except (DataError, LabelError) as error:
        if not keep_bad:
            raise
        nothing: dict[str, Any] = {"label_map": None, "class_labels": [], "pixel_counts": []}
        numbers = dict.fromkeys(("void_pixels", "height", "width"), 0)
        return {**nothing, **numbers, "digest": "", _FAULT: str(error)}
    counts = np.bincount(label_map.ravel(), minlength=space.ignore_index + 1)
    void = int(counts[space.ignore_index])
    counts[space.ignore_index] = 0
    present = np.flatnonzero(counts)
    return {
        "label_map": encode_label_map(label_map),
        "class_labels": present.tolist(),
        "pixel_counts": counts[present].tolist(),
        "void_pixels": void,
        "height": label_map.shape[0],
        "width": label_map.shape[1],
        "digest": hashlib.blake2b(label_map.tobytes(), digest_size=8).hexdigest(),
        **({_FAULT: None} if keep_bad else {}),
    }


def sample_digests(prepared: Dataset) -> dict[str, str]:
    """Of each prepared row, by its id and in their order: size and content of its label map, in short."""
    columns = prepared.select_columns(["id", "height", "width", "digest"]).with_format(None)
    return {row["id"]: f"{row['width']}x{row['height']} {row['digest']}" for row in columns}


def class_counts(prepared: Dataset, num_labels: int, of: Literal["pixels", "masks"]) -> np.ndarray:
    """How often each class occurs in prepared rows: (num_labels,) int64, pixels or images that hold it."""
    counts = np.zeros(num_labels, np.int64)
    for row in prepared.select_columns(["class_labels", "pixel_counts"]):
        counts[row["class_labels"]] += row["pixel_counts"] if of == "pixels" else 1
    return counts


def read_target(mask: Cell, space: LabelSpace, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A mask file as its (H, W) uint8 or uint16 map of train ids.

    Raises:
        DataError: if it cannot be read.
        LabelError: if it holds ids that the label space does not know. Both name the file.
    """
    stored = read_mask(mask, space.encoding, max_pixels)
    try:
        return space.encode(stored, where=cell_name(mask))
    except LabelError as error:
        if cell_name(mask).lower().endswith((".jpg", ".jpeg")):
            raise LabelError(
                f"{error} The mask is a JPEG, which alters pixel values at every edge; masks are kept exact by PNG."
            ) from None
        raise


def check_sizes(image: Cell, mask: Cell, size: tuple[int, int], mask_size: tuple[int, int]) -> None:
    """
    Args:
        image, mask: the files, for the message.
        size, mask_size: (width, height) of each, upright.

    Raises:
        DataError: if they differ.
    """
    if size == mask_size:
        return
    hint = "Give each image the mask that was drawn on it, at the same size."
    if size == mask_size[::-1]:
        hint = (
            "The one is the other lying on its side: one of the two files is probably turned by an EXIF orientation "
            "tag that its partner lacks. Save both upright, without the tag."
        )
    raise DataError(
        f"{cell_name(image)} is {size[0]}×{size[1]} (width×height), its mask {cell_name(mask)} is "
        f"{mask_size[0]}×{mask_size[1]}. {hint}"
    )
