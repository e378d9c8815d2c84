"""Why a checkpoint does worse than it did: each fault that data may have is undone on a few images, and what then fits
again is the cause."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, LabelError
from ..evaluation import ConfusionMatrix, summarize
from ..figures import is_figure
from ..images import cell_name, read_image, read_mask
from ..labels import LabelSpace
from .predictions import Answer

#: an image and the size (H, W) of its mask to (H, W) train ids
Predict = Callable[[Image.Image, tuple[int, ...]], np.ndarray]

_FARTHEST = 16  # pixels that masks may have moved
_LOOKED_AT = 512  # pixels in the middle of an image, on which movement is searched
_GAINS = (1 / 3, 1 / 2, 2.0, 3.0)  # between them a model that learned with jitter follows
_FEWEST = 2  # images that a neighbour's mask has to fit
_LEAST_GAIN = 0.05  # of mean IoU
_GAIN_UNCOMPARED, _TIMES_UNCOMPARED = 0.1, 1.5  # where it is not known how good the checkpoint was
_SLACK, _SLACK_UNKNOWN = 0.05, 0.25  # below the stored mean IoU; the second as a share, where it has no interval


@dataclass(frozen=True)
class Stored:
    """What the checkpoint's own evaluation measured.

    Attributes:
        mean_iou: 0 to 1.
        low: lower end of its interval over images; None if there is none.
        images: that it was measured on; None if it is not known.
    """

    mean_iou: float
    low: float | None = None
    images: int | None = None

    @classmethod
    def of(cls, metrics: Mapping[str, Any] | None) -> Stored | None:
        """From what `metrics.json` holds; None if it has no mean IoU."""
        if metrics is None or not is_figure(metrics.get("mean_iou")):
            return None
        low, images = (metrics.get("mean_iou_interval") or [None])[0], metrics.get("num_images")
        return cls(float(metrics["mean_iou"]), low if is_figure(low) else None, images or None)

    def least(self, images: int) -> float:
        """The mean IoU that so many other images of the same kind should reach.

        An interval of N images is √(N / n) times as wide for n.
        """
        if self.low is None or self.images is None:
            return self.mean_iou - max(_SLACK, _SLACK_UNKNOWN * self.mean_iou)
        return self.mean_iou - max(_SLACK, (self.mean_iou - self.low) * math.sqrt(self.images / images))


@dataclass(frozen=True)
class Repair:
    """A fault, and what undoing it does to the mean IoU.

    Attributes:
        code, cure: of the finding.
        what: words after "mean IoU is … and … with".
    """

    code: str
    what: str
    cure: str
    before: float
    after: float

    def helps(self, stored: Stored | None) -> bool:
        """Whether it makes up for at least half of what is missing."""
        if stored is None:
            return self.after >= max(self.before + _GAIN_UNCOMPARED, _TIMES_UNCOMPARED * self.before)
        return self.after >= self.before + max(_LEAST_GAIN, (stored.mean_iou - self.before) / 2)


def find_repairs(predict: Predict, space: LabelSpace, rows: Any, answers: Sequence[Answer]) -> list[Repair]:
    """Every fault that is looked for, undone on the images of `answers`; most make nothing better.

    Args:
        predict: the checkpoint's answer to an image.
        space, rows: as for `predictions.probe`.
        answers: what it predicted.
    """
    return [
        *_mirrored(answers, space),
        *_neighbours(answers, space, rows),
        *_moved(answers, space),
        *_brightness(predict, space, rows, answers),
    ]


def mean_iou(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]] | Iterator[tuple[np.ndarray, np.ndarray]], space: LabelSpace
) -> float:
    """Of (prediction, truth) in train ids."""
    matrix = ConfusionMatrix(space.num_labels, space.ignore_index)
    for prediction, truth in pairs:
        matrix.update(prediction, truth.astype(np.int64))
    return float(summarize(matrix.matrix, space)["mean_iou"])


def _as_they_are(answers: Sequence[Answer], space: LabelSpace) -> float:
    return mean_iou([(answer.labels, answer.truth) for answer in answers], space)


def _mirrored(answers: Sequence[Answer], space: LabelSpace) -> list[Repair]:
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mirrored left to right": np.fliplr,
        "mirrored top to bottom": np.flipud,
        "turned by 180 degrees": lambda truth: truth[::-1, ::-1],
    }
    before = _as_they_are(answers, space)
    cure = "Masks and images lie differently: turn the masks back, and look at what wrote or read them."
    return [
        Repair(
            "masks-mirrored",
            f"masks {name}",
            cure,
            before,
            mean_iou([(answer.labels, np.ascontiguousarray(turn(answer.truth))) for answer in answers], space),
        )
        for name, turn in ways.items()
    ]


def _neighbours(answers: Sequence[Answer], space: LabelSpace, rows: Any) -> list[Repair]:
    found = []
    for step, name in ((1, "after"), (-1, "before")):
        fitting, others = [], []
        for answer in answers:
            truth = _truth(rows[(answer.place + step) % len(rows)], space)
            if truth is not None and truth.shape == answer.labels.shape:
                fitting.append(answer)
                others.append((answer.labels, truth))
        if len(fitting) >= _FEWEST:
            found.append(
                Repair(
                    "pairs-shifted",
                    f"each image held against the mask of the pair {name} it",
                    "Images stand beside masks of others: look at how pairs are made, by names (`data.image`, "
                    "`data.mask`), by the rows of a table, or where the files were exported.",
                    _as_they_are(fitting, space),
                    mean_iou(others, space),
                )
            )
    return found


def _moved(answers: Sequence[Answer], space: LabelSpace) -> list[Repair]:
    down, right = find_movement([(answer.labels, answer.truth) for answer in answers], space.num_labels)
    if not down and not right:
        return []

    def moved_back() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for answer in answers:
            height, width = answer.truth.shape
            yield (
                answer.labels[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)],
                answer.truth[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)],
            )

    ways = [f"{abs(down)} pixels {'up' if down > 0 else 'down'}"] if down else []
    ways += [f"{abs(right)} pixels to the {'left' if right > 0 else 'right'}"] if right else []
    return [
        Repair(
            "masks-moved",
            f"masks moved {' and '.join(ways)}",
            "Only one of image and mask was cropped, padded or shifted: find where, or move the masks back.",
            _as_they_are(answers, space),
            mean_iou(moved_back(), space),
        )
    ]


def find_movement(pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_labels: int) -> tuple[int, int]:
    """How far masks lie from what is predicted: (down, right) in pixels, up to 16 either way.

    Where most pixels of each class meet, by cross-correlation in the middle of the images. Classes weigh alike, however
    large they are.
    """
    reach = 2 * _FARTHEST + 1
    total = np.zeros((num_labels, reach, reach))
    sizes = np.zeros(num_labels)
    for prediction, truth in pairs:
        height, width = truth.shape
        top, left = max(0, height - _LOOKED_AT) // 2, max(0, width - _LOOKED_AT) // 2
        middle = slice(top, top + _LOOKED_AT), slice(left, left + _LOOKED_AT)
        prediction, truth = prediction[middle], truth[middle]
        padded = (truth.shape[0] + _FARTHEST, truth.shape[1] + _FARTHEST)
        for index in np.intersect1d(np.unique(prediction), np.unique(truth)).tolist():
            if index >= num_labels:
                continue
            spectra = [np.fft.rfft2((labels == index).astype(np.float32), padded) for labels in (prediction, truth)]
            meeting = np.fft.irfft2(np.conj(spectra[0]) * spectra[1], padded)
            around = np.arange(-_FARTHEST, _FARTHEST + 1)
            total[index] += meeting[np.ix_(around, around)]
            sizes[index] += (truth == index).sum()
    score = (total / np.maximum(sizes, 1)[:, None, None]).sum(axis=0)
    down, right = divmod(int(score.argmax()), reach)
    return down - _FARTHEST, right - _FARTHEST


def _brightness(predict: Predict, space: LabelSpace, rows: Any, answers: Sequence[Answer]) -> list[Repair]:
    before = _as_they_are(answers, space)
    found = []
    for gain in _GAINS:
        again = []
        for answer in answers:
            try:
                image = read_image(rows[answer.place]["image"])
            except DataError:
                continue
            table = (np.arange(256) * gain).round().clip(0, 255).astype(np.uint8)
            lit = Image.fromarray(table[np.asarray(image)])
            again.append((predict(lit, answer.truth.shape), answer.truth))
        bright = f"{gain:g} times as bright" if gain > 1 else f"1/{1 / gain:g} as bright"
        found.append(
            Repair(
                "brightness-differs",
                f"images {bright}",
                "The images are exposed or scaled otherwise than those that the model learned from: bring them to that "
                "range where they are written, or train with images like these.",
                before,
                mean_iou(again, space),
            )
        )
    return found


def _truth(row: Mapping[str, Any], space: LabelSpace) -> np.ndarray | None:
    try:
        return space.encode(read_mask(row["mask"], space.encoding), cell_name(row["mask"]))
    except (DataError, LabelError):
        return None
