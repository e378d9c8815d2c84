"""Files of a folder by their stems: what is left of a name when all that images and masks differ in is taken away."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ...errors import DataError
from ...images import FORMATS
from .columns import some

STEM = "{stem}"


def files_by_stem(base: Path, field: str, place: str) -> dict[str, str]:
    """`{stem: absolute path}` of the files that a recipe's `data.image` or `data.mask` means.

    Args:
        base: the folder that `place` is relative to.
        field: `image` or `mask`.
        place: a folder, whose images are taken at any depth, the stem being the relative path without its ending;
            or a template of names with `{stem}`, which stands for one character or more, `/` among them. `*` stands
            for anything but `/`.

    Raises:
        DataError: if there is no such folder or file, or if two files share a stem.

    Example:
        `{stem}_manual1.gif` finds `21_manual1.gif` under the stem `21`.
    """
    return _fitting(base, field, place) if STEM in place else _in_folder(base, field, place)


def image_endings(field: str = "image") -> set[str]:
    """Endings of files that can be read, in lower case, with their dots: masks may be NumPy arrays too."""
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")}
    return endings | {".npy"} if field == "mask" else endings


def _in_folder(base: Path, field: str, place: str) -> dict[str, str]:
    folder = _existing(base, field, place)
    endings = image_endings(field)
    files: dict[str, str] = {}
    others: set[str] = set()
    for path in _walk(folder):
        if path.suffix.lower() not in endings:
            others.add(path.suffix or path.name)
            continue
        _add(files, path.relative_to(folder).with_suffix("").as_posix(), path, field)
    if not files:
        seen = f" It holds files of other types: {some(sorted(others))}." if others else " It is empty."
        raise DataError(f"data.{field}: no image files in {folder}.{seen}")
    return files


def _fitting(base: Path, field: str, template: str) -> dict[str, str]:
    parts = template.split("/")
    fixed = next(i for i, part in enumerate(parts) if STEM in part or "*" in part)
    folder = _existing(base, field, "/".join(parts[:fixed]))
    pattern = _pattern("/".join(parts[fixed:]))
    files: dict[str, str] = {}
    others: list[str] = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if match := pattern.fullmatch(name):
            _add(files, match["stem"], path, field)
        elif len(others) < 100:
            others.append(name)
    if not files:
        seen = f"It holds {some(others)}" if others else "It is empty"
        raise DataError(
            f"data.{field}: no file in {folder} is named like {'/'.join(parts[fixed:])}. {seen}. {{stem}} stands for "
            "what an image and its mask have in common, * for anything else."
        )
    return files


def _pattern(template: str) -> re.Pattern[str]:
    text, seen = "", False
    for token in re.split(r"(\{stem\}|\*)", template):
        if token == STEM:
            text += "(?P=stem)" if seen else "(?P<stem>.+)"
            seen = True
        else:
            text += "[^/]*" if token == "*" else re.escape(token)
    return re.compile(text, re.DOTALL)


def _existing(base: Path, field: str, name: str) -> Path:
    folder = base / name
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        found = f" {folder.parent} holds the folders {some(beside)}." if beside else ""
        raise DataError(
            f"data.{field}: there is no folder {folder}.{found} Check data.root, data.{field} and the splits."
        )
    return folder


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, in order; names that begin with a dot are passed over."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _add(files: dict[str, str], stem: str, path: Path, field: str) -> None:
    if stem in files:
        raise DataError(
            f"data.{field}: {files[stem]} and {path} have the same stem {stem!r}, so it is not clear which of "
            "them is meant. Remove or rename one."
        )
    files[stem] = str(path)
