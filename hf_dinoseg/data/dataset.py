"""Prepared rows to tensors: one torch dataset for training, one for evaluation."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from ..labels import LabelSpace
from .augment import TrainTransform
from .draws import WeightedDraws
from .masks import cell_name, read_image, read_label_map, read_mask
from .sources.mixture import WEIGHT
from .targets import classes_present
from .zero import zero_is_void, zero_mask


def _label_tensor(label_map: np.ndarray) -> torch.Tensor:
    """(H, W) uint8, or int32 for maps of more than 255 classes: torch does little with uint16."""
    if label_map.dtype != np.uint8:
        label_map = label_map.astype(np.int32)
    return torch.from_numpy(label_map)


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Training samples.

    What item i of epoch e looks like follows from (seed, e, i) alone. Hence a rerun, a resumed run and any number of
    workers draw the same crops. Item i is row i, unless rows have weights: then `draws.WeightedDraws` says which.

    Args:
        dataset: prepared rows (`targets.prepare_targets`); a column `weight` says how often an epoch draws each.
        transform: what augments them.
        seed: 0 or more.
    """

    def __init__(self, dataset: datasets.Dataset, transform: TrainTransform, seed: int = 0) -> None:
        self.ids: list[str] = list(dataset["id"])
        self.draws = WeightedDraws(dataset[WEIGHT], seed) if WEIGHT in dataset.column_names else None
        self.dataset = dataset.select_columns(["image", "label_map"])
        self.transform = transform
        self.seed = seed
        # In shared memory: workers that persist from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch, or every epoch draws the same crops."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset) if self.draws is None else len(self.draws)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`index` int, the row's place in `ids`, `pixel_values` (3, S, S) uint8, `labels` (S, S) uint8 or int32 train
        ids, `class_labels` (N,) int64, the classes present."""
        epoch = int(self._epoch)
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.draws is not None:
            index = self.draws.row(index, epoch)
        row = self.dataset[index]
        pixels, labels = self.transform(read_image(row["image"]), read_label_map(row["label_map"]), rng)
        channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        label_map = _label_tensor(labels)
        return {
            "index": index,
            "pixel_values": torch.from_numpy(channels_first),
            "labels": label_map,
            "class_labels": classes_present(label_map, self.transform.ignore_index),
        }


class EvalDataset(Dataset[dict[str, Any]]):
    """Evaluation samples: the whole picture as the image processor gives it, the label map at its original size.

    Args:
        dataset: prepared rows (`targets.prepare_targets`).
        processor: a transformers image processor; called as `processor(images=picture, return_tensors="pt")`.
        label_space: where its id 0 is void, samples tell it from other void, for figures of the background.
    """

    def __init__(self, dataset: datasets.Dataset, processor: Any, label_space: LabelSpace | None = None) -> None:
        self.ids: list[str] = list(dataset["id"])
        self.zero_of = label_space if label_space is not None and zero_is_void(label_space) else None
        self.dataset = dataset.select_columns(["image", "label_map", *(["mask"] if self.zero_of else [])])
        self.processor = processor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`index` int, `pixel_values` (3, H, W) float32, `labels` (H0, W0) uint8 or int32 train ids; `zero` (H0, W0)
        bool, where the mask says 0, if 0 is void."""
        row = self.dataset[index]
        processed = self.processor(images=read_image(row["image"]), return_tensors="pt")
        item = {
            "index": index,
            "pixel_values": processed["pixel_values"][0],
            "labels": _label_tensor(read_label_map(row["label_map"])),
        }
        if self.zero_of is not None:
            mask = read_mask(row["mask"], self.zero_of.encoding)
            item["zero"] = torch.from_numpy(zero_mask(mask, self.zero_of, cell_name(row["mask"])))
        return item
