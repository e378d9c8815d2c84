"""Datasets that hold tensors already, as image processors make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import DataError
from ..models.loss import classes_present


class TensorItems(Dataset[dict[str, Any]]):
    """A dataset of `pixel_values` and `labels`, its items checked and numbered.

    Args:
        dataset: has a length, and items that are mappings with `pixel_values` (3, H, W), normalised floats, and
            `labels` (h, w), train ids and void, as tensors, arrays or lists: items of
            `processor(image, segmentation_maps=mask)` without their first axis.
        name: what to call it in errors.
        num_labels: number of classes.
        ignore_index: the train id of void.
        same_size: whether labels have to be of their image's size, as in training. In an evaluation answers are
            measured at the size of the labels.

    Attributes:
        ids: the place of each item in the dataset, as text.
        num_skipped: 0.

    Raises:
        DataError: if the dataset has no length.
    """

    num_skipped = 0

    def __init__(self, dataset: Any, name: str, num_labels: int, ignore_index: int, same_size: bool) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{name}: found {type(dataset).__name__}, which has no length or no items by number; wanted a dataset "
                "with both, such as a torch Dataset or a list."
            )
        self.dataset, self.name = dataset, name
        self.num_labels, self.ignore_index, self.same_size = num_labels, ignore_index, same_size
        self.ids = [str(index) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`index` int, `pixel_values` (3, H, W) float32, `labels` (h, w) int32, `class_labels` (N,) int64, the classes
        present.

        Raises:
            DataError: naming the item, what was found and what is wanted.
        """
        item, where = self.dataset[index], f"{self.name}[{index}]"
        if not isinstance(item, Mapping) or "pixel_values" not in item or "labels" not in item:
            found = f"the keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
            raise DataError(
                f"{where}: found {found}, wanted a mapping with pixel_values and labels, as the image processor makes "
                "them: processor(image, segmentation_maps=mask)."
            )
        pixels, labels = _tensor(item["pixel_values"]), _tensor(item["labels"])
        if pixels.ndim != 3 or len(pixels) != 3 or not pixels.is_floating_point():
            raise DataError(
                f"{where}: pixel_values: found {_kind(pixels)}, wanted normalised floats of shape (3, H, W)"
                + ("; take the first of the processor's batch: [0]." if pixels.ndim == 4 else ".")
            )
        wanted = tuple(pixels.shape[1:]) if self.same_size else "(H, W)"
        if labels.ndim != 2 or labels.is_floating_point() or self.same_size and labels.shape != pixels.shape[1:]:
            raise DataError(f"{where}: labels: found {_kind(labels)}, wanted whole numbers of shape {wanted}.")
        labels = labels.to(torch.int32)
        (present,) = classes_present(labels[None], self.ignore_index)
        if len(present) and (present[0] < 0 or present[-1] >= self.num_labels):
            wrong = [value for value in present.tolist() if not 0 <= value < self.num_labels]
            raise DataError(
                f"{where}: labels: found {', '.join(map(str, wrong[:5]))}, wanted train ids 0 to "
                f"{self.num_labels - 1}, and {self.ignore_index} for void."
            )
        return {"index": index, "pixel_values": pixels.float(), "labels": labels, "class_labels": present}


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


__all__ = ["TensorItems"]
