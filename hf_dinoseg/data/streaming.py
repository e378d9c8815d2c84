"""Training samples from a stream: rows are read as they are needed, and nothing is prepared before.

An epoch of the library would end at another step in each process. So a stream has no end: every reader (a loader's
worker in a process) goes through a share of the rows that is its own, again and again, and each time is called a pass.
In pass p of all readers every row occurs once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import datasets
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import DataError, LabelError
from ..images import MAX_PIXELS, read_image
from ..labels import LabelSpace
from .collate import collate
from .dataset import sample_key, sample_keys, training_item
from .sources.saved_dataset import StoredSplits
from .targets import OnBadSample, Skipped, check_sizes, read_target
from .transforms import TrainTransform

logger = logging.getLogger(__name__)

_KEY = "key"
_SHARDS_PER_READER = 8  # of rows that are there already: shuffling moves whole shards, too


def as_stream(rows: Dataset, readers: int) -> datasets.IterableDataset:
    """Rows of a source that are there already (paths, or bytes in memory), as a stream of equal shards.

    Args:
        rows: columns `id`, `image`, `mask`.
        readers: processes times workers.
    """
    keyed = rows.add_column(_KEY, sample_keys(rows["id"]))
    shards = readers * min(_SHARDS_PER_READER, len(rows) // readers)
    return keyed.to_iterable_dataset(num_shards=max(1, min(shards, len(rows))))


def open_stream(source: str, place: str, **fields: Any) -> tuple[datasets.IterableDataset, Dataset]:
    """A stored dataset (on the Hub, or parquet, arrow, imagefolder on disk) whose training split is not loaded.

    Args:
        source, place, fields: those of `sources.stored.StoredSplits`.

    Returns:
        The training split as a stream, and the validation split, read into memory. Columns `id`, `image`, `mask`.

    Raises:
        DataError: as `load_stored`; if validation is a share, since a stream cannot be divided.
    """
    stored = StoredSplits(source, place, **fields)
    if not isinstance(stored.validation, str):
        raise DataError(
            f"data.validation: {stored.validation} is a share of the training rows, and a stream cannot be divided. "
            "Name a split, or write data.streaming: false."
        )
    splits = stored.open(streaming=True)
    train, validation = (stored.rows(stored.pick(splits, name), name) for name in ("train", "validation"))
    return train, first_rows(validation)


def first_rows(stream: datasets.IterableDataset, count: int | None = None) -> Dataset:
    """The first rows of a stream, or all, in memory."""
    rows = list(stream if count is None else stream.take(count))
    if not rows:
        raise DataError("the stream has no rows.")
    return Dataset.from_list(rows, features=stream.features)


class StreamingSegmentationDataset(IterableDataset[dict[str, Any]]):
    """Training samples of a stream, without end, by the functions that `SegmentationDataset` uses.

    What a sample of pass p looks like follows from (seed, p, its id) alone, as it does there in epoch p. The order
    follows from (seed, p) and the number of readers. Processes get shards (files) of their own if their number divides
    the number of shards, and so do a process's workers; otherwise each reads all rows and keeps every n-th.

    Under `skip`, a sample that cannot be used is replaced by the next good one of the same reader, cut in another way:
    no batch gets smaller, and the places of all others stay.

    Args:
        rows: columns `id`, `image`, `mask`, as `as_stream` or `open_stream` give them. Rows of a dataset without a
            column of names are numbered as they come, so their ids depend on how the stream is divided.
        label_space: makes train ids of masks.
        transform: what augments them.
        seed: 0 or more.
        shuffle_buffer: rows that wait in memory to be drawn from; 1 keeps the order.
        rank, world_size: this process among all.
        max_pixels, on_bad_sample: as `prepare_targets`.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        label_space: LabelSpace,
        transform: TrainTransform,
        seed: int = 0,
        shuffle_buffer: int = 1000,
        rank: int = 0,
        world_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        self.rows = rows
        self.label_space = label_space
        self.transform = transform
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.rank, self.world_size = rank, world_size
        self.max_pixels = max_pixels
        self.on_bad_sample = on_bad_sample
        self.first_pass = 0
        self.places: dict[int, tuple[int, int]] = {}  # of each reader of this process: the pass, and rows done in it
        self.turn = 0  # which reader gives the next batch

    @property
    def passes(self) -> int:
        """How often the slowest reader of this process has gone through its share."""
        return min((done for done, _ in self.places.values()), default=self.first_pass)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields items as `training_item`, with `index` int (the row's place in this pass of this reader), `id`,
        `position` (the reader, its pass, rows done in it), and, under `skip`, `skipped`: a list of `Skipped`, the
        samples met before it that cannot be used.

        Raises:
            DataError, LabelError: naming the file; under `skip` only if a whole pass has no good sample.
        """
        worker = get_worker_info()
        readers = worker.num_workers if worker else 1
        # a loader asks worker 0 first; after a resume, it is not always its turn
        reader = ((worker.id if worker else 0) + self.turn) % readers
        number, done = self.places.get(reader, (self.first_pass, 0))
        waiting: list[tuple[int, int]] = []  # places whose own samples cannot be used
        skipped: list[Skipped] = []
        while True:
            good = 0
            for place, row in enumerate(islice(self._share(reader, readers, number), done, None), done + 1):
                waiting.append((number, place))
                try:
                    sample = self._read(row)
                except (DataError, LabelError) as error:
                    if self.on_bad_sample == "error":
                        raise
                    skipped.append(Skipped(row["id"], str(error)))
                    continue
                good += 1
                for step, (at, index) in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
                    item = training_item(self.transform, *sample, (self.seed, number, row[_KEY], step))
                    noted = {"skipped": skipped} if self.on_bad_sample == "skip" else {}
                    yield {"index": index - 1, **item, "id": row["id"], "position": (reader, at, index), **noted}
                    skipped = []
                waiting = []
            if not good and not done:
                reason = f"; the last: {skipped[-1].reason}" if skipped else ": its share of the rows is empty."
                raise DataError(f"a reader of the stream has not found one good sample in a whole pass{reason}")
            number, done = number + 1, 0

    def _share(self, reader: int, readers: int, number: int) -> Iterator[dict[str, Any]]:
        """The rows of one reader in one pass."""
        rows = self.rows
        if rows.num_shards % self.world_size == 0:
            rows = rows.shard(self.world_size, self.rank, contiguous=False)
        else:
            reader, readers = self.rank * readers + reader, self.world_size * readers
        if self.shuffle_buffer > 1:
            rows = rows.shuffle(seed=self.seed, buffer_size=self.shuffle_buffer)
        rows = split_dataset_by_node(rows, reader, readers)
        if self.shuffle_buffer > 1:
            rows.set_epoch(number)
        # in batches: iterated otherwise, the library would divide the rows among the workers once more
        for batch in rows.iter(batch_size=1):
            row = {name: values[0] for name, values in batch.items()}
            yield {_KEY: sample_key(row["id"]), **row}

    def _read(self, row: Mapping[str, Any]) -> tuple[Any, Any]:
        image = read_image(row["image"], self.max_pixels)
        label_map = read_target(row["mask"], self.label_space, self.max_pixels)
        check_sizes(row["image"], row["mask"], image.size, (label_map.shape[1], label_map.shape[0]))
        return image, label_map


class StreamLoader(DataLoader[dict[str, Any]]):
    """The batches of a run from a stream, on the device; knows where every reader is when it is asked between two.

    Args:
        dataset: the stream.
        batch_size: of this process.
        num_batches: in the whole run, those before a resume included.
        device: where batches are put; None leaves them.
        settings: others of `DataLoader`.
    """

    dataset: StreamingSegmentationDataset

    def __init__(
        self,
        dataset: StreamingSegmentationDataset,
        batch_size: int,
        num_batches: int,
        device: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(dataset, batch_size, collate_fn=collate, **settings)
        self.num_batches = num_batches
        self.device = device
        self._given = 0
        self._pass = -1  # that the last batch was of

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            reader, number, done = batch.pop("position")
            self.dataset.places[reader] = (number, done)
            if number > self._pass:
                self._pass = number
                # as torch's loaders do at an epoch's start: the model then draws the same numbers as without a stream
                torch.empty((), dtype=torch.int64).random_()
            self._given += 1
            self.dataset.turn = self._given % self._readers
            yield batch if self.device is None else send_to_device(batch, self.device, non_blocking=self.pin_memory)
            if self._given >= self.num_batches:
                return

    @property
    def _readers(self) -> int:
        return max(1, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, from which `load_state_dict` goes on behind the batch that was given last."""
        places = [list(self.dataset.places.get(i, (self.dataset.first_pass, 0))) for i in range(self._readers)]
        return {"world_size": self.dataset.world_size, "places": places, "given": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader was. With another number of readers no place means the same: then a new pass
        begins, and a warning says so."""
        places = [(int(number), int(done)) for number, done in state["places"]]
        self._given = int(state["given"])
        self._pass = max(number for number, _ in places)
        if (len(places), state["world_size"]) == (self._readers, self.dataset.world_size):
            self.dataset.places = dict(enumerate(places))
            self.dataset.turn = self._given % self._readers
            return
        self.dataset.first_pass, self.dataset.places = max(number for number, _ in places) + 1, {}
        self.dataset.turn = 0
        logger.warning(
            "The run was begun by %d processes with %d workers each and goes on with %d and %d: the stream is divided "
            "otherwise, and a new pass through it begins.",
            state["world_size"],
            len(places),
            self.dataset.world_size,
            self._readers,
        )
