"""What every source yields: rows of `id`, `image` and `mask`, where image and mask stay files."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import datasets
from datasets import Dataset, DatasetDict, Features, Value

from ...errors import DataError

FILE = datasets.Image(decode=False)
FEATURES = Features({"id": Value("string"), "image": FILE, "mask": FILE})


def file_rows(ids: Sequence[str], images: Sequence[str], masks: Sequence[str]) -> Dataset:
    """Rows whose cells hold paths."""
    return Dataset.from_dict(
        {
            "id": list(ids),
            "image": [{"path": path, "bytes": None} for path in images],
            "mask": [{"path": path, "bytes": None} for path in masks],
        },
        features=FEATURES,
    )


def path_names(base: Path, images: Sequence[str]) -> list[str]:
    """Ids that are unique: the relative paths without their endings; an image that is listed again gets a number."""
    seen: Counter[str] = Counter()
    names = []
    for path in images:
        relative = os.path.relpath(path, base) if path.startswith(os.path.join(base, "")) else path
        name = PurePosixPath(relative.replace(os.sep, "/")).with_suffix("").as_posix()
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def hold_out(rows: Dataset, share: float) -> DatasetDict:
    """Divide rows: a share of them becomes `validation`, the others `train`.

    Which ones follows from a hash of their ids: the same on every machine and in any order, and scattered over rows
    that are sorted by place or patient.

    Args:
        share: between 0 and 1; each side gets one row at least.

    Raises:
        DataError: if there are fewer than two rows.
    """
    ids = list(rows["id"])
    if len(ids) < 2:
        raise DataError(f"data.validation: {len(ids)} images cannot be divided into two splits.")
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    order = sorted(range(len(ids)), key=lambda i: hashlib.blake2b(f"{ids[i]}\0{i}".encode()).digest())
    held = set(order[:count])
    return DatasetDict(
        {
            "train": rows.select([i for i in range(len(ids)) if i not in held]),
            "validation": rows.select(sorted(held)),
        }
    )


def place_inside(root: Path, name: str) -> str | None:
    """The absolute path of a relative name below a folder; None if the name leads out of it.

    Judged by the name alone: a symbolic link in the folder was put there by whoever owns it.
    """
    path = os.path.normpath(os.path.join(root, name.replace("\\", "/")))
    inside = path.startswith(os.path.join(root, "")) and "\0" not in name
    return path if inside else None


def one_form(name: str) -> str:
    """A name in one Unicode form. é is one character, or an e and an accent: macOS stores names in the second form,
    most others in the first. The two look the same and are not equal."""
    return unicodedata.normalize("NFC", name)


def as_on_disk(path: str | os.PathLike[str], listings: dict[str, dict[str, str]] | None = None) -> str:
    """A path in the Unicode form in which its folders and file are stored; as it is if there is nothing of that name.

    Args:
        listings: keeps what folders hold, so that each is listed once for many paths.
    """
    path = os.fspath(path)
    if path.isascii() or os.path.lexists(path):
        return path
    parent, name = os.path.split(path)
    if not name:
        return path
    parent = as_on_disk(parent, listings)
    listings = {} if listings is None else listings
    if parent not in listings:
        try:
            listings[parent] = {one_form(entry): entry for entry in os.listdir(parent or ".")}
        except OSError:  # there is no such folder
            listings[parent] = {}
    return os.path.join(parent, listings[parent].get(one_form(name), name))


def absolute_root(root: str | os.PathLike[str], field: str = "data.root") -> Path:
    """The folder as an absolute path.

    Raises:
        DataError: if it is not there.
    """
    base = Path(as_on_disk(os.path.abspath(Path(root).expanduser())))
    if not base.is_dir():
        raise DataError(f"{field}: there is no folder {base}. Write the folder that holds the images and masks.")
    return base


@contextmanager
def without_bars() -> Iterator[None]:
    """Within it datasets draws no bars: of work that takes no time, such as putting tables side by side."""
    drawn = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if drawn:
            datasets.enable_progress_bars()


def some(names: Iterable[str]) -> str:
    """The first five, and how many more there are."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
