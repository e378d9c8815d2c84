"""Generated data in the place of a recipe's: the same layout, names, encoding and ids, a few small images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, Features, Value
from PIL import Image

from ..data.sources import SHAPES
from ..labels import LabelSpace

#: width, height
IMAGE_SIZE = (88, 72)

_BLOCK = 12  # side of the blocks that masks are made of, in pixels
_STEMS = {"train": ("one", "two"), "validation": ("three",)}
_SPLIT = "{split}"


def mimic_source(fields: Mapping[str, Any], labels: LabelSpace, folder: Path) -> dict[str, Any]:
    """Write generated data laid out as the recipe says, and say where it is.

    Names on disk are those of the recipe; what is in an image file is PNG, whatever its name. Stored datasets, the
    Hub's among them, become a folder of `save_to_disk` with the same columns and splits; annotations of shapes become
    one too, of masks.

    Args:
        fields: `recipe.data.source_fields()`.
        labels: the images' masks hold its ids, void and merged ones among them.
        folder: where to write; need not be there.

    Returns:
        The fields, with places below `folder`.
    """
    source = fields["source"]
    if source == "mixture":
        entries = [
            {**mimic_source(_without(entry, "weight"), labels, folder / str(number)), "weight": max(1, entry["weight"])}
            for number, entry in enumerate(fields["sources"])
        ]
        return {"source": "mixture", "sources": entries}
    if source == "memory":  # nothing says how it is laid out
        places = {"image": "images/{split}", "mask": "masks/{split}", "train": "train", "validation": "val"}
        fields, source = {"source": "folder", **places}, "folder"
    if source == "synthetic-retina":
        return {**fields, "num_train": 2, "num_validation": 1, "size": _BLOCK * 6}
    folder.mkdir(parents=True)
    if source == "voc":
        folds = {"image": "JPEGImages", "mask": "SegmentationClass"}
        return _folder({**fields, **folds, "source": "folder"}, labels, folder)
    if source in SHAPES:
        columns = {"image_column": "image", "mask_column": "mask", "id_column": None}
        named = {name: fields[name] or "train" for name in ("train", "validation")}
        return _stored({**columns, **named}, labels, folder)
    if source == "folder":
        return _folder(fields, labels, folder)
    return _table(fields, labels, folder) if source == "table" else _stored(fields, labels, folder)


def draw_mask(labels: LabelSpace, seed: int) -> np.ndarray:
    """(H, W) or, of colours, (H, W, 3): blocks of values that may stand in a mask, drawn evenly."""
    rng = np.random.default_rng(seed)
    rows, columns = (-(-side // _BLOCK) for side in reversed(IMAGE_SIZE))
    if labels.encoding == "rgb":
        values = np.array([color for i, color in labels.colors.items() if i in labels.train_ids], np.uint8)
    elif labels.encoding == "binary":
        values = np.array([value for i, value in ((0, 0), (1, 255)) if i in labels.train_ids], np.uint8)
    else:
        ids = sorted(labels.train_ids)
        values = np.array(ids, np.int32 if ids[0] < 0 or ids[-1] > 65535 else np.min_scalar_type(ids[-1]))
    blocks = values[rng.permutation(np.arange(rows * columns) % len(values)).reshape(rows, columns)]
    return blocks.repeat(_BLOCK, 0).repeat(_BLOCK, 1)[: IMAGE_SIZE[1], : IMAGE_SIZE[0]]


def _pair(labels: LabelSpace, stem: str) -> tuple[bytes, np.ndarray]:
    seed = sum(map(ord, stem))
    noise = np.random.default_rng(seed).integers(0, 256, (*reversed(IMAGE_SIZE), 3), dtype=np.uint8)
    return _encoded(noise), draw_mask(labels, seed)


def _encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "TIFF" if pixels.dtype == np.int32 else "PNG")
    return file.getvalue()


def _write(path: Path, image: bytes | np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    elif path.suffix.lower() == ".npy":
        np.save(path, image, allow_pickle=False)
    else:
        path.write_bytes(_encoded(image))


def _folder(fields: Mapping[str, Any], labels: LabelSpace, folder: Path) -> dict[str, Any]:
    places = {name: _below(fields[name]) for name in ("image", "mask")}
    divided, held_out = _SPLIT in fields["image"], not isinstance(fields["validation"], str)
    names = {"train": fields["train"], "validation": fields["validation"]}
    for split, stems in _STEMS.items():
        name = _below(str(names["train"] if held_out else names[split]))
        if divided and not held_out:
            names[split] = name
        for stem in stems:
            image, mask = _pair(labels, stem)
            _write(folder / _named(places["image"], name, stem), image)
            _write(folder / _named(places["mask"], name, stem), mask)
    if not divided:
        for split, stems in _STEMS.items():
            if isinstance(names[split], str):
                names[split] = f"{split}.txt"
                listed = [stem for all_stems in _STEMS.values() for stem in all_stems] if held_out else stems
                (folder / f"{split}.txt").write_text("\n".join(listed), encoding="utf-8")
    return {**fields, **places, **names, "root": str(folder)}


def _named(place: str, split: str, stem: str) -> str:
    template = place if "{stem}" in place else f"{place}/{{stem}}.png"
    path = template.replace(_SPLIT, split).replace("{stem}", stem)
    return (path.removesuffix("*") + "png" if path.endswith(".*") else path).replace("*", "x")


def _table(fields: Mapping[str, Any], labels: LabelSpace, folder: Path) -> dict[str, Any]:
    rows: dict[str, list[dict[str, str]]] = {}
    held_out = not isinstance(fields["validation"], str)
    for split, stems in _STEMS.items():
        name = fields["train"] if held_out else fields[split]
        for stem in stems:
            image, mask = _pair(labels, stem)
            _write(folder / f"{stem}.png", image)
            _write(folder / f"{stem}_mask.png", mask)
            row = {fields["image_column"]: f"{stem}.png", fields["mask_column"]: f"{stem}_mask.png"}
            if fields["id_column"] is not None:
                row[fields["id_column"]] = stem
            if fields["split_column"] is not None:
                row[fields["split_column"]] = name
            rows.setdefault(str(name) if _SPLIT in fields["file"] else "", []).append(row)
    ending = Path(fields["file"]).suffix
    for name, listed in rows.items():
        _write_table(folder / f"pairs_{_below(name)}{ending}", listed)
    file = folder / f"pairs_{_SPLIT if _SPLIT in fields['file'] else ''}{ending}"
    return {**fields, "file": str(file), "root": str(folder)}


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix.lower() == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def _stored(fields: Mapping[str, Any], labels: LabelSpace, folder: Path) -> dict[str, Any]:
    columns: dict[str, Any] = {fields["image_column"]: datasets.Image(), fields["mask_column"]: datasets.Image()}
    if fields["id_column"] is not None:
        columns[fields["id_column"]] = Value("string")

    def split(stems: tuple[str, ...]) -> Dataset:
        pairs = [_pair(labels, stem) for stem in stems]
        cells = [[{"path": None, "bytes": image} for image, _ in pairs]]
        cells += [[{"path": None, "bytes": _encoded(mask)} for _, mask in pairs]]
        rows = dict(zip(columns, [*cells, list(stems)], strict=False))
        return Dataset.from_dict(rows, features=Features(columns))

    if isinstance(fields["validation"], str):
        splits = {fields[name]: split(stems) for name, stems in _STEMS.items()}
    else:
        splits = {fields["train"]: split(tuple(stem for stems in _STEMS.values() for stem in stems))}
    DatasetDict(splits).save_to_disk(folder)
    return {**_without(fields, "repo_id", "config", "revision"), "source": "arrow", "root": str(folder)}


def _below(name: str) -> str:
    """A name that stays below the folder that it is joined to."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in names}
