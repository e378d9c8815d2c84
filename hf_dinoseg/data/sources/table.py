"""CSV and JSON Lines files that list the paths of images and masks."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets import Dataset, DatasetDict

from ...errors import DataError
from .columns import absolute_root, as_on_disk, file_rows, hold_out, path_names, place_inside, some

_SPLIT = "{split}"
_DELIMITERS = {".csv": ",;\t", ".tsv": "\t", ".txt": "\t,;"}
_JSON_LINES = (".jsonl", ".ndjson")

Row = tuple[int, dict[str, str]]
"""Line of the file, from 1, and the texts of its columns."""


def load_table(
    file: str,
    train: str | None,
    validation: str | float,
    root: str | None = None,
    image_column: str = "image",
    mask_column: str = "mask",
    id_column: str | None = None,
    split_column: str | None = None,
) -> DatasetDict:
    """Pairs listed in a file.

    A relative path must stay below `root`; an absolute one is taken as it is, since whoever wrote the table named that
    very file. Names that differ only in how Unicode writes an accent are the same.

    Args:
        file: `.csv` (commas, semicolons or tabs, names of the columns in the first line), `.tsv`, or `.jsonl` (an
            object a line). With `{split}` in it, a file a split.
        train: what stands for `{split}`, or in `split_column`; None for all rows.
        validation: likewise; or the share of the training rows that is held out instead, between 0 and 1.
        root: the folder that paths start from; None for the folder of the file.
        image_column, mask_column: columns of paths.
        id_column: column of ids; None takes the image paths without their endings.
        split_column: column that divides the rows of one file.

    Returns:
        As `load_folder`, in the order of the file.

    Raises:
        DataError: if a file or column is missing, a cell is empty, a path leads out of `root`, or an id occurs twice.
    """

    def read(split: str, name: str | None) -> Dataset:
        path = Path(as_on_disk(os.path.abspath(Path(file.replace(_SPLIT, str(name))).expanduser())))
        rows = list(_read(path))
        for column in filter(None, (image_column, mask_column, id_column, split_column)):
            _check_column(rows, column, path)
        if split_column is not None:
            found = Counter(row[split_column] for _, row in rows)
            rows = [(line, row) for line, row in rows if row[split_column] == name]
            if not rows:
                held = some(f"{value!r} ({n} rows)" for value, n in found.most_common())
                raise DataError(f"data.{split}: no row of {path} has {split_column} {name!r}; it holds {held}.")
        base = absolute_root(root) if root is not None else path.parent
        listings: dict[str, dict[str, str]] = {}
        cells = {
            column: [
                as_on_disk(_place(base, row[column], f"{path}, line {line}, {column}"), listings) for line, row in rows
            ]
            for column in (image_column, mask_column)
        }
        _check_root(cells[image_column], base, path)
        if id_column is not None:
            ids = [row[id_column] for _, row in rows]
            if twice := [name for name, n in Counter(ids).items() if n > 1]:
                raise DataError(f"data.id_column: {path} holds in {id_column} more than once: {some(twice)}.")
        else:
            ids = path_names(base, cells[image_column])
        return file_rows(ids, cells[image_column], cells[mask_column])

    training = read("train", train)
    if not isinstance(validation, str):
        return hold_out(training, validation)
    return DatasetDict({"train": training, "validation": read("validation", validation)})


def _read(path: Path) -> Iterator[Row]:
    kind = path.suffix.lower()
    if kind not in (*_DELIMITERS, *_JSON_LINES):
        raise DataError(f"data.file: {path} is none of {', '.join((*_DELIMITERS, *_JSON_LINES))}.")
    if not path.is_file():
        raise DataError(f"data.file: there is no file {path}.")
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            rows = list(_json_lines(lines, path) if kind in _JSON_LINES else _csv(lines, _DELIMITERS[kind]))
    except UnicodeDecodeError:
        raise DataError(f"data.file: {path} is not UTF-8 text. Save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"data.file: {path} cannot be read as CSV ({error}).") from None
    if not rows:
        raise DataError(f"data.file: {path} lists nothing below its first line, which names the columns.")
    yield from rows


def _csv(lines: Iterable[str], delimiters: str) -> Iterator[Row]:
    iterator = iter(lines)
    head = next(iterator, "")
    delimiter = max(delimiters, key=head.count)
    names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    reader = csv.reader(iterator, delimiter=delimiter)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            padded = [*cells, *[""] * (len(names) - len(cells))]
            yield reader.line_num + 1, {k: v.strip() for k, v in zip(names, padded, strict=False)}


def _json_lines(lines: Iterable[str], path: Path) -> Iterator[Row]:
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f'data.file: {path}, line {number} is no JSON object; write {{"image": "…", "mask": "…"}}.')
        yield number, {k: v if isinstance(v, str) else "" if v is None else str(v) for k, v in row.items()}


def _check_column(rows: list[Row], column: str, path: Path) -> None:
    if empty := [line for line, row in rows if not row.get(column)]:
        if len(empty) == len(rows):
            names = ", ".join(dict.fromkeys(name for _, row in rows[:100] for name in row))
            raise DataError(f"{path} has no column {column!r}; it has {names}. Name its columns in data.*_column.")
        raise DataError(f"{path}: {column} is empty in {len(empty)} rows, on line {some(map(str, empty))}.")


def _place(base: Path, name: str, where: str) -> str:
    if "://" in name:
        raise DataError(f"{where}: {name} is an address; download the files and list their paths.")
    if os.path.isabs(name) and "\0" not in name:
        return os.path.normpath(name)
    if (path := place_inside(base, name)) is None:
        raise DataError(
            f"{where}: {name} leads out of {base}. Set data.root to the folder that holds all files, or list absolute "
            "paths."
        )
    return path


def _check_root(images: list[str], base: Path, path: Path) -> None:
    """All but certain to be a wrong root where not one of the first images is there; single ones the doctor names."""
    if not any(map(os.path.exists, images[:20])):
        raise DataError(
            f"data.root: {path} lists {some(images[:20])}, and none of these is there. Paths start from {base}; set "
            "data.root if they start elsewhere."
        )
