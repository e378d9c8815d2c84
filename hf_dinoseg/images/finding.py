"""Which files of a folder are images: one rule for datasets and for prediction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..errors import DataError
from .opening import FORMATS


def image_endings() -> set[str]:
    """Endings of the image files that are read, in lower case, with their dots."""
    Image.init()
    return {ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")}


def mask_endings() -> set[str]:
    """Endings of the mask files that are read: those of images, and of NumPy arrays."""
    return image_endings() | {".npy"}


def files_below(folder: Path, faults: list[str] | None = None) -> Iterator[Path]:
    """Every file below a folder, in order, links followed.

    Names that begin with a dot are passed over, files and folders: `._a.jpg` is what macOS stores beside `a.jpg` on
    file systems that are not its own, and it is no image.

    Args:
        folder: where to look.
        faults: gets a sentence for each folder that cannot be looked into; without it, the first is raised.

    Raises:
        DataError: naming a folder that cannot be looked into.
    """

    def tell(error: OSError) -> None:
        name = error.filename or folder
        if isinstance(error, PermissionError):
            text = f"{name}: the folder may not be read; permit reading it."
        else:
            text = f"{name}: the folder cannot be read ({error.strerror or error})."
        if faults is None:
            raise DataError(text)
        faults.append(text)

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=tell):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not _leads_back(os.path.join(parent, n)))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in, which has no end."""
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(folder))]) == target
