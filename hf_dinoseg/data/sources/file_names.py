"""Files of a folder by their stems: the part of a name that an image shares with its mask."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ...errors import DataError
from ...images import files_below, image_endings, mask_endings
from .columns import as_on_disk, one_form, some

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


def spelt_as(names: Collection[str], stems: Iterable[str]) -> list[str]:
    """Stems in the Unicode form that `names` has of them; a stem that is not in `names` is unchanged.

    Images and masks from different systems may differ in that form, see `columns.one_form`.
    """
    spellings = {one_form(name): name for name in names}
    return [stem if stem in names else spellings.get(one_form(stem), stem) for stem in stems]


def rename_as(names: Collection[str], files: Mapping[str, str], field: str) -> dict[str, str]:
    """Files by their stems as `names` spells them, see `spelt_as`.

    Raises:
        DataError: if two of them come to share a stem.
    """
    renamed: dict[str, str] = {}
    for stem, path in zip(spelt_as(names, files), files.values(), strict=True):
        _add(renamed, stem, path, field)
    return renamed


def _in_folder(base: Path, field: str, place: str) -> dict[str, str]:
    folder = _existing(base, field, place)
    endings = mask_endings() if field == "mask" else image_endings()
    files: dict[str, str] = {}
    others: set[str] = set()
    for path in files_below(folder):
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
    pattern = _pattern(one_form("/".join(parts[fixed:])))
    files: dict[str, str] = {}
    others: list[str] = []
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if match := pattern.fullmatch(name) or pattern.fullmatch(one_form(name)):
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
    folder = Path(as_on_disk(base / name))
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        found = f" {folder.parent} holds the folders {some(beside)}." if beside else ""
        raise DataError(
            f"data.{field}: there is no folder {folder}.{found} Check data.root, data.{field} and the splits."
        )
    return folder


def _add(files: dict[str, str], stem: str, path: Path | str, field: str) -> None:
    if stem in files:
        raise DataError(
            f"data.{field}: {files[stem]} and {path} have the same stem {stem!r}, so it is not clear which of "
            "them is meant. Remove or rename one."
        )
    files[stem] = str(path)
