"""Which images the arguments of `dinoseg predict` stand for, and what their results are called."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ..addresses import is_url, without_secrets


@dataclass(frozen=True)
class Image:
    """An image to predict.

    Attributes:
        source: its path, or its URL.
        within: its name below the argument that it was found by: for a folder or a pattern, sub-folders are part of it.
    """

    source: str
    within: Path

    @property
    def is_url(self) -> bool:
        return is_url(self.source)

    @property
    def name(self) -> str:
        """What to call it in a message: its address without secrets."""
        return without_secrets(self.source) if self.is_url else self.source


def find_images(entries: Sequence[str]) -> tuple[list[Image], list[str]]:
    """The images that arguments stand for, each once, in order; and a sentence for each that stands for none.

    A file named by itself is taken whatever its name, and a URL whatever it leads to. Of a folder or a pattern, images
    are taken whose names do not begin with a dot.
    """
    from ..images import files_below, image_endings  # numpy, which `--help` does without

    found: dict[str, Image] = {}  # by resolved path, so that no file is done twice
    faults: list[str] = []
    endings = image_endings()
    for entry in entries:
        if is_url(entry):
            found.setdefault(entry, Image(entry, _parts_of_url(entry)[-1]))
            continue
        path = Path(entry)
        if path.is_file():
            hits, base = [path], path.parent
        elif path.is_dir():
            told = len(faults)
            hits, base = [p for p in files_below(path, faults) if p.suffix.lower() in endings], path
            if not hits and len(faults) == told:
                faults.append(f"{entry}: the folder holds no images.")
        else:
            matches = [p for p in map(Path, sorted(glob.glob(entry, recursive=True))) if p.is_file()]
            hits = [p for p in matches if p.suffix.lower() in endings and not p.name.startswith(".")]
            base = _fixed_part(entry)
            if not hits:
                faults.append(f"{entry}: there is no such file, folder or match.")
        for hit in hits:
            found.setdefault(str(hit.resolve()), Image(str(hit), hit.relative_to(base)))
    return list(found.values()), faults


def name_results(images: Sequence[Image]) -> list[Path]:
    """The name, without ending, of each image's results below the output folder.

    Its name below the folder or pattern that it was found by, sub-folders included. Images that would share a name get
    the names of their folders too, from the first that differs (URLs: the address), and in one folder (`a.jpg`,
    `a.png`) by their endings. Names that differ in case only count as one: some file systems think so.
    """
    paths = [os.path.abspath(p.source) for p in images if not p.is_url]
    root = os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else ""
    choices = []
    for image in images:
        if image.is_url:
            full = Path(*_parts_of_url(image.source))
        else:
            full = Path(os.path.abspath(image.source)).relative_to(root)
        choices.append([image.within.with_name(image.within.stem), full.with_name(full.stem), full])
    chosen = [0] * len(choices)
    while True:
        names = [options[i] for options, i in zip(choices, chosen, strict=True)]
        counts = Counter(str(name).lower() for name in names)
        clashing = [n for n, name in enumerate(names) if counts[str(name).lower()] > 1 and chosen[n] < 2]
        if not clashing:
            return names
        for n in clashing:
            chosen[n] += 1


def _fixed_part(pattern: str) -> Path:
    """The folders of a pattern that stand before anything that matches several."""
    parts = Path(pattern).parts
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:magic])


def _parts_of_url(url: str) -> list[Path]:
    """Host, folders and name of an address, as names that any file system takes."""
    address = urlsplit(without_secrets(url))
    path = PurePosixPath(unquote(address.path))
    folders, name = [part for part in path.parent.parts if part != "/"], path.name
    if address.query:
        name = f"{PurePosixPath(name).stem}-{address.query}{PurePosixPath(name).suffix}"
    cleaned = [re.sub(r"[^\w.,@+= -]+", "_", part).strip(". ")[-120:] for part in (address.netloc, *folders, name)]
    return [Path(part) for part in cleaned if part]


__all__ = ["Image", "find_images", "name_results"]
