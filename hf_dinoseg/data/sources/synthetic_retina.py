"""Images that need no download: drawn from a seed."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, DatasetDict

from ...errors import DataError
from ..synthetic import draw_fundus, encode_pair
from .columns import FEATURES


def load_synthetic_retina(
    num_train: int = 160, num_validation: int = 32, size: int = 256, seed: int = 0
) -> DatasetDict:
    """Fundus-like images drawn by `synthetic.py`, stored as encoded files (JPEG images, PNG masks).

    A split's i-th image depends on `seed`, `size` and i alone, and no image is in both splits.

    Args:
        num_train: images to train on.
        num_validation: images to validate on.
        size: side of the square images, pixels.
        seed: 0 or more; another seed draws other eyes.

    Returns:
        As `load_folder`; ids 0 background, 1 artery, 2 vein, 3 disc.
    """
    splits = {}
    for offset, (split, count) in enumerate((("train", num_train), ("validation", num_validation))):
        if count < 1:
            raise DataError(f"data: synthetic-retina is to draw {count} images for {split}; it draws 1 or more.")
        rows: list[dict[str, Any]] = []
        for i in range(count):
            image, mask = encode_pair(*draw_fundus(2 * i + offset, seed, size))
            name = f"{split}_{i:05d}"
            rows.append(
                {
                    "id": name,
                    "image": {"path": f"{name}.jpg", "bytes": image},
                    "mask": {"path": f"{name}.png", "bytes": mask},
                }
            )
        splits[split] = Dataset.from_list(rows, features=FEATURES)
    return DatasetDict(splits)
