"""Pictures that stand in training and in validation."""

from __future__ import annotations

import time
from typing import Any

from ..data.masks import cell_name
from .files import byte_size, digest


def duplicates(train: Any, validation: Any, seconds: float | None = None) -> list[tuple[str, str]]:
    """(training, validation) names of pictures whose files are the same byte for byte.

    Only files of equal size are opened.
    """
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    sizes: dict[int, list[int]] = {}
    for place in range(len(train)):
        if time.monotonic() > deadline:
            break
        if size := byte_size(train[place]["image"]):
            sizes.setdefault(size, []).append(place)
    known: dict[int, dict[bytes, str]] = {}
    found = []
    for row in (validation[place] for place in range(len(validation))):
        if time.monotonic() > deadline:
            break
        size = byte_size(row["image"])
        if not size or size not in sizes:
            continue
        if size not in known:
            cells = (train[place]["image"] for place in sizes[size])
            known[size] = {key: cell_name(cell) for cell in cells if (key := digest(cell)) is not None}
        key = digest(row["image"])
        if key is not None and key in known[size]:
            found.append((known[size][key], cell_name(row["image"])))
    return found
