"""Which pictures the arguments of `dinoseg predict` stand for, and what their results are called."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Picture:
    """A picture to predict.

    Attributes:
        source: its path, or its URL.
        within: its name below the argument that it was found by: for a folder or a pattern, sub-folders are part of it.
    """

    source: str
    within: Path

    @property
    def is_url(self) -> bool:
        return _is_url(self.source)


def find_pictures(entries: Sequence[str]) -> tuple[list[Picture], list[str]]:
    """The pictures that arguments stand for, each once, in order; and a sentence for each that stands for none.

    A file named by itself is taken whatever its ending, and a URL whatever it leads to.
    """
    found: dict[str, Picture] = {}  # by resolved path, so that no file is done twice
    faults = []
    for entry in entries:
        if _is_url(entry):
            found.setdefault(entry, Picture(entry, _parts_of_url(entry)[-1]))
            continue
        path = Path(entry)
        if path.is_file():
            hits, base = [path], path.parent
        elif path.is_dir():
            hits, base = [p for p in sorted(path.rglob("*")) if _is_picture(p)], path
            if not hits:
                faults.append(f"{entry}: the folder holds no pictures ({', '.join(sorted(_ENDINGS))}).")
        else:
            hits = [p for p in map(Path, sorted(glob.glob(entry, recursive=True))) if _is_picture(p)]
            base = _fixed_part(entry)
            if not hits:
                faults.append(f"{entry}: there is no such file, folder or match.")
        for hit in hits:
            found.setdefault(str(hit.resolve()), Picture(str(hit), hit.relative_to(base)))
    return list(found.values()), faults


def name_results(pictures: Sequence[Picture]) -> list[Path]:
    """The name, without ending, of each picture's results below the output folder.

    Its name below the folder or pattern that it was found by, sub-folders included. Pictures that would share a name
    are told apart by all their folders from where those part (URLs: by the address), and in one folder (`a.jpg`,
    `a.png`) by their endings. Names that differ in case only count as one: some file systems think so.
    """
    paths = [os.path.abspath(p.source) for p in pictures if not p.is_url]
    root = os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else ""
    choices = []
    for picture in pictures:
        if picture.is_url:
            full = Path(*_parts_of_url(picture.source))
        else:
            full = Path(os.path.abspath(picture.source)).relative_to(root)
        choices.append([picture.within.with_name(picture.within.stem), full.with_name(full.stem), full])
    chosen = [0] * len(choices)
    while True:
        names = [options[i] for options, i in zip(choices, chosen, strict=True)]
        counts = Counter(str(name).lower() for name in names)
        clashing = [n for n, name in enumerate(names) if counts[str(name).lower()] > 1 and chosen[n] < 2]
        if not clashing:
            return names
        for n in clashing:
            chosen[n] += 1


def _is_url(entry: str) -> bool:
    return entry.lower().startswith(("http://", "https://"))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _ENDINGS and path.is_file()


def _fixed_part(pattern: str) -> Path:
    """The folders of a pattern that stand before anything that matches several."""
    parts = Path(pattern).parts
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:magic])


def _parts_of_url(url: str) -> list[Path]:
    """Host, folders and name of an address, as names that any file system takes."""
    address = urlsplit(url)
    path = PurePosixPath(unquote(address.path))
    folders, name = [part for part in path.parent.parts if part != "/"], path.name
    if address.query:
        name = f"{PurePosixPath(name).stem}-{address.query}{PurePosixPath(name).suffix}"
    cleaned = [re.sub(r"[^\w.,@+= -]+", "_", part).strip(". ")[-120:] for part in (address.netloc, *folders, name)]
    return [Path(part) for part in cleaned if part]


__all__ = ["Picture", "find_pictures", "name_results"]
