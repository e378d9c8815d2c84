"""Samples to batches. Bytes travel between processes; floats and masks are made where the batch is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import DataError
from ..models.loss import class_masks


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A training batch, compact: 4 bytes a pixel (7 above 255 classes).

    Returns:
        `index` (B,) int64, first, because the Trainer takes a batch's size from the first entry; `pixel_values`
        (B, 3, H, W) uint8, or float32 where they are normalised already; `labels` (B, H, W) uint8 or int32 train ids;
        `class_labels` list of (N_i,) int64, the classes present, found by the workers so that nobody has to ask the
        device for them; `skipped`, a list of [id, reason], where the items have it; of a stream `id`, a list of str,
        and the last item's `position`.

    Raises:
        DataError: if images differ in size.
    """
    if len(sizes := {tuple(item["pixel_values"].shape[1:]) for item in items}) > 1:
        raise DataError(
            f"pixel_values: found images of {' and '.join(map(str, sorted(sizes)))} pixels in one batch, wanted one "
            "size. Crop or resize them in the dataset, or train with per_device_train_batch_size=1."
        )
    return {
        "index": torch.tensor([item["index"] for item in items], dtype=torch.int64),
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": torch.stack([item["labels"] for item in items]),
        "class_labels": [item["class_labels"] for item in items],
        **({"id": [item["id"] for item in items]} if "id" in items[0] else {}),
        **({"position": items[-1]["position"]} if "position" in items[0] else {}),
        **_skipped(items),
    }


def collate_eval(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An evaluation batch: images of any size side by side.

    Returns:
        `index` (B,) int64; `pixel_values` list of (3, H, W) float32; `labels` list of (H0, W0) train ids; `zero`, if
        the items have it, list of (H0, W0) bool; `skipped` as in `collate`.
    """
    lists = {name: [item[name] for item in items] for name in ("pixel_values", "labels", "zero") if name in items[0]}
    return {"index": torch.tensor([item["index"] for item in items], dtype=torch.int64), **lists, **_skipped(items)}


def _skipped(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if "skipped" not in items[0]:
        return {}
    # lists, since the Trainer makes anew what it moves to a device, and cannot make a named tuple
    return {"skipped": [list(one) for item in items for one in item["skipped"]]}


def expand_batch(batch: Mapping[str, Any], image_mean: Sequence[float], image_std: Sequence[float]) -> dict[str, Any]:
    """A batch of `collate` made ready for model and loss, on the device that it is on. Of images that are normalised
    already nothing is changed.

    Args:
        batch: what `collate` gave.
        image_mean: a value a channel, on the scale 0 to 1.
        image_std: likewise.

    Returns:
        `index` (B,); `pixel_values` (B, 3, H, W) float32, (x / 255 - mean) / std; `labels` (B, H, W) int64;
        `mask_labels` list of (N_i, H, W) bool and `class_labels` list of (N_i,) int64, N_i the classes in image i.
    """
    pixels, labels = batch["pixel_values"], batch["labels"]
    if not pixels.is_floating_point():
        mean = torch.tensor(image_mean, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(image_std, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
        pixels = pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
    return {
        "index": batch["index"],
        "pixel_values": pixels,
        "labels": labels.to(torch.int64),
        "mask_labels": [class_masks(m, c) for m, c in zip(labels, batch["class_labels"], strict=True)],
        "class_labels": list(batch["class_labels"]),
        **({"id": batch["id"]} if "id" in batch else {}),
    }
