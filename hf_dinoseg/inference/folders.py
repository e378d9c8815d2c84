"""Images in files, through a segmenter, into files.

Three things happen at once: threads read, decode and normalise images; the caller's thread keeps the model busy;
threads write. What is on its way is bounded by number and by size (`_Room`), so memory does not grow with the number
of files. An image holds its place from before it is decoded until its results are written.

On a processor this is no faster than a plain loop, of whose time the model takes 98 % (the linear head on ViT-S,
benchmarks/bench_predict.py). It keeps memory bounded and lets an error cost one image only. On accelerators, for which
the threads and batches are meant, it has not been measured.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from ..addresses import is_url, without_secrets
from ..errors import InputError, NoSuchFileError
from ..images import MAX_FOREIGN_PIXELS, dropped_parts, has_strips, image_size
from . import large_images as large
from .download import download
from .predict import pixels_at_once as most_pixels
from .segmenter import Answer, Prepared, Segmenter, too_large
from .write import Format, Writing, write_result

logger = logging.getLogger(__name__)

_MOST_THREADS = 8
_MOST_BYTES = 1 << 30  # of images on their way, unless one alone has more
_BYTES_PER_PIXEL = 32  # image 3, normalised 12, train ids 8, score 4, and what drawing takes


@dataclass(frozen=True)
class Job:
    """One image and what is to become of it.

    Attributes:
        source: a path, or a URL.
        files: where each form goes.
        there: forms that are there already and are left alone.
        called: what files about several images call it.
        how: settings of the forms.
    """

    source: str
    files: Mapping[Format, Path]
    there: frozenset[Format] = frozenset()
    called: str = ""
    how: Writing = Writing()

    @property
    def name(self) -> str:
        """What to call the image: its path, or its address without secrets."""
        return without_secrets(self.source) if is_url(self.source) else self.source

    @property
    def missing(self) -> dict[Format, Path]:
        return {form: path for form, path in self.files.items() if form not in self.there}


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        number: its place among the jobs.
        written: the files.
        error: why there are none, with the image's name; None if all went well.
    """

    number: int
    job: Job
    written: Mapping[Format, Path] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class _Item:
    """An image on its way: decoded, or (`prepared` is None) one for strips, lying at `path`."""

    number: int
    job: Job
    size: int
    path: Path
    prepared: Prepared | None


def segment_files(
    segmenter: Segmenter, jobs: Sequence[Job], threads: int | None = None, pixels_at_once: int | None = None
) -> Iterator[Outcome]:
    """Segment images and write the results; an error costs its own image only.

    Args:
        jobs: their files must all differ.
        threads: that read, and as many that write; one for each processor, at most 8, if None.
        pixels_at_once: images of one size are shown to the model together up to so many pixels. None for a batch of
            windows on an accelerator and for one image at a time on a processor, where batches gain nothing.

    Yields:
        an outcome for each job, as they are done.
    """
    threads = threads or min(_MOST_THREADS, os.cpu_count() or 1)
    if pixels_at_once is None:
        device = next(segmenter.model.parameters()).device
        pixels_at_once = most_pixels(device, segmenter.batch_size, segmenter.window)
    events: SimpleQueue[_Item | tuple[_Item | None, Outcome]] = SimpleQueue()
    waiting: dict[object, list[_Item]] = {}  # by size, the oldest first
    with TemporaryDirectory(prefix="dinoseg-", ignore_cleanup_errors=True) as fetched:
        room = _Room(2 * threads + 2 * max(1, segmenter.batch_size if pixels_at_once else 1), _MOST_BYTES)
        todo = _Shared(enumerate(jobs))
        for _ in range(min(threads, len(jobs))):
            reader = _Reader(segmenter, todo, room, Path(fetched), events)
            threading.Thread(target=reader.run, name="dinoseg-reader", daemon=True).start()
        writers = ThreadPoolExecutor(threads, thread_name_prefix="dinoseg-writer")
        try:
            left = len(jobs)
            while left:
                try:
                    event = events.get(block=not waiting)
                except Empty:  # the model does not wait for a batch to become full
                    _predict(segmenter, waiting.pop(next(iter(waiting))), writers, events)
                    continue
                if isinstance(event, tuple):
                    item, outcome = event
                    if item is not None:
                        room.leave(item.size)
                    left -= 1
                    yield outcome
                elif event.prepared is None:
                    events.put((event, _by_strips(segmenter, event)))
                else:
                    size = (event.prepared.pixel_values.shape, event.prepared.image.size)
                    waiting.setdefault(size, []).append(event)
                    if (len(waiting[size]) + 1) * event.prepared.pixel_values[0, 0].numel() > pixels_at_once:
                        _predict(segmenter, waiting.pop(size), writers, events)
        finally:
            todo.close()
            room.close()
            writers.shutdown(wait=True, cancel_futures=True)


class _Room:
    """Bounds the images on their way, by number and by bytes. An image that exceeds the bytes alone goes by itself."""

    def __init__(self, images: int, size: int) -> None:
        self._images, self._size = images, size
        self._inside, self._used, self._closed = 0, 0, False
        self._change = threading.Condition()

    def enter(self, size: int) -> bool:
        """Wait for a place; False if there will be none."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._fits(size))
            self._inside += 1
            self._used += size
            return not self._closed

    def leave(self, size: int) -> None:
        with self._change:
            self._inside -= 1
            self._used -= size
            self._change.notify_all()

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _fits(self, size: int) -> bool:
        return self._inside == 0 or (self._inside < self._images and self._used + size <= self._size)


class _Shared:
    """Jobs that several threads take from."""

    def __init__(self, jobs: Iterator[tuple[int, Job]]) -> None:
        self._jobs: Iterator[tuple[int, Job]] = jobs
        self._lock = threading.Lock()

    def take(self) -> tuple[int, Job] | None:
        with self._lock:
            return next(self._jobs, None)

    def close(self) -> None:
        with self._lock:
            self._jobs = iter(())


class _Reader:
    """What a reading thread does: job after job, to an item or to an outcome that says why not."""

    def __init__(self, segmenter: Segmenter, todo: _Shared, room: _Room, fetched: Path, events: SimpleQueue) -> None:
        self.segmenter, self.todo, self.room, self.fetched, self.events = segmenter, todo, room, fetched, events

    def run(self) -> None:
        while (taken := self.todo.take()) is not None:
            number, job = taken
            path = self.fetched / f"{number}{Path(urlsplit(job.source).path).suffix}" if is_url(job.source) else None
            try:
                if path is not None:
                    download(job.source, path)
                event = self._read(number, job, path or Path(job.source))
                if event is None:
                    return
            except Exception as error:
                event = (None, _failed(number, job, error, path))
            if path is not None and (isinstance(event, tuple) or event.prepared is not None):
                path.unlink(missing_ok=True)
            self.events.put(event)

    def _read(self, number: int, job: Job, path: Path) -> _Item | tuple[None, Outcome] | None:
        if not path.is_file():
            raise NoSuchFileError(f"{path}: there is no such file.")
        width, height = image_size(path)
        fetched = is_url(job.source)
        if fetched and width * height > MAX_FOREIGN_PIXELS and not has_strips(path):
            raise too_large(job.name, width * height, MAX_FOREIGN_PIXELS)
        if more := dropped_parts(path):
            logger.warning("%s: only its first page and three bands are read, not %s.", job.name, more)
        if width * height > (MAX_FOREIGN_PIXELS if fetched else large.LARGE_PIXELS):
            if "ids" not in job.files:
                raise InputError(f"{job.name} has {width}×{height} pixels; of an image that large there are only ids.")
            if "ids" not in job.missing:
                return None, Outcome(number, job)
            size = 4 * width * height
            return _Item(number, job, size, path, None) if self.room.enter(size) else None
        scores = 8 * self.segmenter.label_space.num_labels if "probabilities" in job.missing else 0
        size = width * height * (_BYTES_PER_PIXEL + scores)
        if not self.room.enter(size):
            return None
        try:
            return _Item(number, job, size, path, self.segmenter.prepare(path))
        except BaseException:
            self.room.leave(size)
            raise


def _predict(segmenter: Segmenter, items: list[_Item], writers: ThreadPoolExecutor, events: SimpleQueue) -> None:
    """Show the model some images of one size, and have the answers written."""
    prepared = [item.prepared for item in items if item.prepared is not None]
    try:
        answers = segmenter.answer(prepared, any("probabilities" in item.job.missing for item in items))
    except Exception as error:
        if len(items) == 1:
            events.put((items[0], _failed(items[0].number, items[0].job, error)))
            return
        logger.debug("%d images at once failed; they are tried one by one", len(items), exc_info=True)
        for item in items:
            _predict(segmenter, [item], writers, events)
        return
    for item, answer in zip(items, answers, strict=True):
        writers.submit(_write, segmenter, item, answer, events)


def _write(segmenter: Segmenter, item: _Item, answer: Answer, events: SimpleQueue) -> None:
    try:
        assert item.prepared is not None
        result = segmenter.result(item.prepared.image, answer)
        job, note = item.job, segmenter.background.caption(segmenter.label_space)
        for form, path in job.missing.items():
            write_result(result, form, path, job.name, job.called, note, job.how)
        outcome = Outcome(item.number, item.job, item.job.missing)
    except Exception as error:
        outcome = _failed(item.number, item.job, error)
    events.put((item, outcome))


def _by_strips(segmenter: Segmenter, item: _Item) -> Outcome:
    try:
        large.segment_large(segmenter, item.path, item.job.files["ids"], transparent=item.job.how.transparent)
        return Outcome(item.number, item.job, {"ids": item.job.files["ids"]})
    except Exception as error:
        return _failed(item.number, item.job, error, item.path)
    finally:
        if is_url(item.job.source):
            item.path.unlink(missing_ok=True)


def _failed(number: int, job: Job, error: Exception, path: Path | None = None) -> Outcome:
    """The outcome that tells of an error and names the image, a fetched one by its address."""
    logger.debug("%s failed", job.name, exc_info=error)
    text = str(error) or type(error).__name__
    if path is not None and job.name not in text:
        text = text.replace(str(path), job.name)
    return Outcome(number, job, error=text if job.name in text else f"{job.name}: {text}")


__all__ = ["Job", "Outcome", "segment_files"]
