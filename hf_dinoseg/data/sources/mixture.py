"""Several sources as one."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import DatasetDict, concatenate_datasets

from ...errors import DataError
from .columns import without_bars

WEIGHT = "weight"


def mix(sources: Sequence[DatasetDict], weights: Sequence[float]) -> DatasetDict:
    """Sources with the same labels, one after the other.

    Args:
        sources: as any source gives them.
        weights: how often an epoch draws each training row of a source, on average: 2 is twice, 0.5 every other epoch.

    Returns:
        As any source. Where a weight is not 1, `train` has a float column `weight` too, which
        `SegmentationDataset` draws by. An id that two sources share begins with the number of the source: `2/aachen`.

    Raises:
        DataError: if an epoch would have no row.
    """
    with without_bars():
        return _mixed(sources, weights)


def _mixed(sources: Sequence[DatasetDict], weights: Sequence[float]) -> DatasetDict:
    splits = {}
    for split in ("train", "validation"):
        parts = [source[split] for source in sources]
        ids = [name for part in parts for name in part["id"]]
        if len(set(ids)) < len(ids):
            parts = [
                part.remove_columns("id").add_column("id", [f"{number}/{name}" for name in part["id"]])
                for number, part in enumerate(parts, 1)
            ]
            parts = [part.select_columns(["id", "image", "mask"]) for part in parts]
        if split == "train" and any(weight != 1 for weight in weights):
            if round(sum(w * len(part) for w, part in zip(weights, parts, strict=True))) < 1:
                raise DataError("data.sources: weights this small draw no image in an epoch; raise them.")
            parts = [
                part.add_column(WEIGHT, [float(weight)] * len(part))
                for part, weight in zip(parts, weights, strict=True)
            ]
        splits[split] = concatenate_datasets(parts)
    return DatasetDict(splits)
