"""Files of a checkpoint folder exchanged together: all of them or none, and in such a way that they can be put back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from ..errors import DinoSegError

_RECORD = "exchanged.json"  # beside what was kept: {path: hash of what was put in its place}


class ExchangeError(DinoSegError, ValueError):
    """Files that cannot be put back."""


def exchange(folder: Path, new: Path, kept: Path) -> Path:
    """Put files into a folder, and keep those that they replace.

    Args:
        folder: where they go.
        new: a folder on the same disk with the files, under the paths that they get in `folder`. It is emptied.
        kept: where what was there goes, into a folder of its own for each exchange: `before-1`, `before-2`, …

    Returns:
        That folder. If an error is raised instead, every file is as before.
    """
    names = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file()]
    kept.mkdir(parents=True, exist_ok=True)
    numbers = [number for number, _ in _exchanges(kept)]
    before = kept / f"before-{max(numbers, default=0) + 1}"
    unfinished = kept / f".{before.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        for name in names:
            if (folder / name).exists():
                (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / name, unfinished / name)
        record = {name.as_posix(): _hash(new / name) for name in names}
        (unfinished / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        unfinished.rename(before)  # what is kept is whole before anything is replaced
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, folder / name)
    except BaseException:  # an interrupt too
        shutil.rmtree(unfinished, ignore_errors=True)
        if before.exists():
            _restore(folder, before)
        _remove_if_empty(kept)
        raise
    return before


def put_back(folder: Path, kept: Path) -> list[str]:
    """Undo the last exchange that was not undone.

    Returns:
        The paths of the files, those that the exchange added among them: they are gone.

    Raises:
        ExchangeError: if there was none, or if a file was changed since.
    """
    found = _exchanges(kept)
    if not found:
        raise ExchangeError(f"{folder}: there is nothing to put back in {kept}.")
    before = found[-1][1]
    record = json.loads((before / _RECORD).read_text(encoding="utf-8"))
    changed = [name for name, written in record.items() if not _is_one_of(folder / name, before / name, written)]
    if changed:
        raise ExchangeError(
            f"{folder}: {', '.join(changed)} changed since, so what was there before does not belong to it any more. "
            f"Nothing was put back. The files are in {before}; copy by hand what you want of them."
        )
    _restore(folder, before)
    _remove_if_empty(kept)
    return sorted(record)


def _exchanges(kept: Path) -> list[tuple[int, Path]]:
    """(number, folder), the oldest first."""
    found = [(int(m[1]), path) for path in kept.glob("before-*") if (m := re.fullmatch(r"before-(\d+)", path.name))]
    return sorted(found)


def _restore(folder: Path, before: Path) -> None:
    for name in json.loads((before / _RECORD).read_text(encoding="utf-8")):
        if (before / name).exists():
            unfinished = folder / f"{name}.unfinished"
            shutil.copy2(before / name, unfinished)
            os.replace(unfinished, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(before)


def _is_one_of(path: Path, kept: Path, written: str) -> bool:
    """Whether a file is what was put in its place, or still what was there: an exchange may have been cut off."""
    if not path.exists():
        return not kept.exists()
    return _hash(path) in {written, _hash(kept) if kept.exists() else ""}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


__all__ = ["ExchangeError", "exchange", "put_back"]
