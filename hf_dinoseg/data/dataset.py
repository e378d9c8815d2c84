"""Prepared rows to tensors: one torch dataset for training, one for evaluation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..errors import DataError
from ..images import MAX_PIXELS, cell_name, read_image, read_mask, read_upper
from ..labels import LabelSpace
from .label_maps import read_label_map
from .label_zero import zero_is_void, zero_mask
from .sampling import RareClassCrops, WeightedDraws
from .sources.mixture import WEIGHT
from .targets import OnBadSample, Skipped
from .transforms import ImageSource, TrainTransform, label_tensor

_RARE = 1  # keeps the draws of rare classes apart from those of crops


def sample_keys(ids: Iterable[str]) -> list[int]:
    """A number for each sample, made from its id alone. Random draws that start from it do not depend on the sample's
    place in the set, or on streaming. The n-th copy of an id has a number of its own."""
    seen: Counter[str] = Counter()
    keys = []
    for name in ids:
        keys.append(sample_key(name, seen[name]))
        seen[name] += 1
    return keys


def sample_key(name: str, copy: int = 0) -> int:
    """63 bits, as an int64 column holds them."""
    return int.from_bytes(hashlib.blake2b(f"{copy} {name}".encode(), digest_size=8).digest(), "big") >> 1


def training_item(
    transform: TrainTransform,
    image: ImageSource,
    label_map: np.ndarray,
    seed: Sequence[int],
    focus: int | None = None,
) -> dict[str, Any]:
    """One training sample. Every way of reading data ends here.

    Args:
        image: upright RGB, or what reads it down to a row.
        label_map: (H, W) train ids.
        seed: decides the augmentation.
        focus: a class that the crop is placed about.

    Returns:
        `pixel_values` (3, S, S) uint8, `labels` (S, S) uint8 or int32 train ids, `class_labels` (N,) int64, the classes
        present.
    """
    pixels, labels, classes = transform.sample(image, label_map, np.random.default_rng(seed), focus)
    return {"pixel_values": pixels, "labels": labels, "class_labels": torch.from_numpy(classes)}


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Training samples.

    What a sample of epoch e looks like follows from (seed, e, its id) alone. Hence a rerun, a resumed run and any
    number of workers draw the same crops. Item i is row i, unless rows have weights: then `sampling.WeightedDraws`
    says which.

    Args:
        dataset: prepared rows (`targets.prepare_targets`); a column `weight` says how often an epoch draws each.
        transform: what augments them.
        seed: 0 or more.
        max_pixels: larger images are refused.
        on_bad_sample: what to do about a file that could be read when the targets were prepared and no longer can:
            `error` raises, `skip` puts the next good sample in its place, with a crop of its own.
        rare: puts another row in the place of some, for a rare class that the crop is then placed about.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        transform: TrainTransform,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        on_bad_sample: OnBadSample = "error",
        rare: RareClassCrops | None = None,
    ) -> None:
        self.ids: list[str] = list(dataset["id"])
        self.draws = WeightedDraws(dataset[WEIGHT], seed) if WEIGHT in dataset.column_names else None
        self.keys = np.array(sample_keys(self.ids), dtype=np.int64)
        self.dataset = dataset.select_columns(["image", "label_map"])
        self.transform = transform
        self.seed = seed
        self.max_pixels = max_pixels
        self.on_bad_sample = on_bad_sample
        self.rare = rare
        # In shared memory: workers that persist from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch, or every epoch draws the same crops."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset) if self.draws is None else len(self.draws)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As `training_item`, with `index`, the sample's place in `ids`. Where samples may be skipped, `skipped` lists
        the samples (`Skipped`) that this one replaces.

        Raises:
            DataError: if the image cannot be read; under `skip` only if no image can.
        """
        epoch, draw = int(self._epoch), tuple[int, ...]()
        if self.draws is not None:
            index, draw = self.draws.row(index, epoch), (index,)  # a row drawn again is cut in another way
        focus = None
        if self.rare is not None:
            rng = np.random.default_rng((_RARE, self.seed, epoch, int(self.keys[index]), *draw))
            if (drawn := self.rare.draw(rng)) is not None:
                (index, focus), draw = drawn, (index, *draw)
        skipped: list[Skipped] = []
        for step in range(len(self.dataset)):
            place = (index + step) % len(self.dataset)
            try:
                item = self._item(place, (self.seed, epoch, int(self.keys[place]), step, *draw), focus)
            except DataError as error:
                if self.on_bad_sample == "error":
                    raise
                skipped.append(Skipped(self.ids[place], str(error)))
            else:
                return item | ({"skipped": skipped} if self.on_bad_sample == "skip" else {})
        raise DataError(f"none of the {len(self.ids)} training samples can be read any more; {skipped[0].reason}")

    def _item(self, place: int, seed: Sequence[int], focus: int | None) -> dict[str, Any]:
        row = self.dataset[place]
        label_map = read_label_map(row["label_map"])

        def read(rows: int) -> Image.Image:
            return read_upper(row["image"], rows, label_map.shape[::-1], self.max_pixels)

        return {"index": place, **training_item(self.transform, read, label_map, seed, focus)}


class EvalDataset(Dataset[dict[str, Any]]):
    """Evaluation samples: the whole image as the image processor gives it, the label map at its original size.

    Args:
        dataset: prepared rows (`targets.prepare_targets`).
        processor: a transformers image processor; called as `processor(images=image, return_tensors="pt")`.
        label_space: where its id 0 is void, samples tell it from other void, for figures of the background.
        max_pixels: larger images are refused.
        on_bad_sample: what to do about a file that could be read when the targets were prepared and no longer can:
            `error` raises, `skip` gives an item that is counted and not measured.
        num_skipped: samples that were taken out before; reported with the metrics.
        processor_options: arguments of each call of the processor.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: Any,
        label_space: LabelSpace | None = None,
        max_pixels: int = MAX_PIXELS,
        on_bad_sample: OnBadSample = "error",
        num_skipped: int = 0,
        processor_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.processor_options = dict(processor_options or {})
        self.ids: list[str] = list(dataset["id"])
        self.zero_of = label_space if label_space is not None and zero_is_void(label_space) else None
        self.dataset = dataset.select_columns(["image", "label_map", *(["mask"] if self.zero_of else [])])
        self.processor = processor
        self.max_pixels = max_pixels
        self.on_bad_sample = on_bad_sample
        self.num_skipped = num_skipped

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`index` int, `pixel_values` (3, H, W) float32, `labels` (H0, W0) uint8 or int32 train ids; `zero` (H0, W0)
        bool, where the mask says 0, if 0 is void.

        Under `skip`, where the image cannot be read, `index` is -1 - index and the rest one meaningless pixel; and
        there is `skipped`, a list that holds the `Skipped` then.
        """
        row = self.dataset[index]
        noted: dict[str, Any] = {"skipped": []} if self.on_bad_sample == "skip" else {}
        try:
            image = read_image(row["image"], self.max_pixels)
            if self.zero_of is not None:
                mask = read_mask(row["mask"], self.zero_of.encoding, self.max_pixels)
                noted["zero"] = torch.from_numpy(zero_mask(mask, self.zero_of, cell_name(row["mask"])))
        except DataError as error:
            if self.on_bad_sample == "error":
                raise
            noted["skipped"].append(Skipped(self.ids[index], str(error)))
            if self.zero_of is not None:
                noted["zero"] = torch.zeros(1, 1, dtype=torch.bool)
            pixel = {"pixel_values": torch.zeros(3, 1, 1), "labels": torch.zeros(1, 1, dtype=torch.int32)}
            return {"index": -1 - index, **pixel, **noted}
        processed = self.processor(images=image, return_tensors="pt", **self.processor_options)
        return {
            "index": index,
            "pixel_values": processed["pixel_values"][0],
            "labels": label_tensor(read_label_map(row["label_map"])),
            **noted,
        }
