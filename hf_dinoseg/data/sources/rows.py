"""What every source yields: rows of `id`, `image` and `mask`, where image and mask stay files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import datasets
from datasets import Dataset, Features, Value

_FILE = datasets.Image(decode=False)
FEATURES = Features({"id": Value("string"), "image": _FILE, "mask": _FILE})


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


def some(names: Iterable[str]) -> str:
    """The first five, and how many more there are."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
