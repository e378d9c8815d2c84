"""Running a checkpoint over a few images: what it predicts, how sure it is, and what other inputs would change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..errors import DataError, LabelError
from ..evaluation import ConfusionMatrix, summarize
from ..images import cell_name, read_image, read_mask
from ..inference import Segmenter, as_input, predict_scores
from ..labels import LabelSpace
from .survey import even_indices

#: name of the variant in which red and blue change places
SWAPPED = "red and blue exchanged"


class Answer(NamedTuple):
    """One image of a probe.

    Attributes:
        place: its row.
        labels, truth: (H, W) train ids, the latter with void.
    """

    place: int
    labels: np.ndarray
    truth: np.ndarray


@dataclass
class Probe:
    """What a few images showed.

    Attributes:
        images: images predicted.
        matrix: (C, C + 1) confusion, rows truth, by the checkpoint's own evaluation path.
        predicted: (C,) pixels predicted as each class, void in the truth or not.
        confidence: mean over pixels of the winning class's share of all classes' scores, 1/C to 1.
        object_peak: the highest probability of any query, in any image, to be a class at all; None without queries.
        finite: no score was NaN or infinite.
        under_zero: (C,) pixels predicted as each class where the mask says 0 and 0 is void.
        mean_iou: as predicted; `variants` holds that of other preparations of the same images.
        answers: what was predicted as the checkpoint does.
    """

    num_labels: int
    images: int = 0
    matrix: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    predicted: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    confidence: float = 0.0
    object_peak: float | None = None
    finite: bool = True
    under_zero: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    mean_iou: float = float("nan")
    variants: dict[str, float] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)


@torch.inference_mode()
def probe(
    model: nn.Module,
    processor: Any,
    space: LabelSpace,
    rows: Any,
    inference: Mapping[str, Any] | None = None,
    samples: int = 8,
) -> Probe:
    """Predict images spread evenly over a split, each once as the checkpoint does and once by each variant.

    Pairs that cannot be read are passed over: they are findings of other checks.

    Args:
        model: in evaluation mode, on its device.
        processor: the checkpoint's image processor.
        space: the checkpoint's label space.
        rows: pairs, as the sources give them.
        inference: `mode`, `window`, `stride`, … of `inference.predict_scores`.
        samples: images at most.
    """
    settings: dict[str, Any] = {k: v for k, v in dict(inference or {}).items() if v is not None}
    result = Probe(space.num_labels)
    count = space.num_labels
    result.predicted, result.under_zero = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    matrices: dict[str | None, ConfusionMatrix] = {}
    confidences = []
    zero_is_void = space.encoding == "index" and space.train_ids.get(0) == space.ignore_index
    with _query_peak(model, count) as peaks:
        for place in tqdm(even_indices(len(rows), samples).tolist(), "predicting", unit="image", disable=None):
            row = rows[place]
            try:
                image, stored = read_image(row["image"]), read_mask(row["mask"], space.encoding)
                truth = space.encode(stored, cell_name(row["mask"]))
            except (DataError, LabelError):
                continue
            if truth.shape != (image.height, image.width):
                continue
            for name, pixel_values in _inputs(processor, image, model).items():
                scores = predict_scores(model, pixel_values, **settings)
                if name is None:
                    peaks.settled = True
                    if not bool(torch.isfinite(scores).all()):
                        result.finite = False
                        return result
                    top = scores.max(dim=1).values / scores.sum(dim=1).clamp(min=1e-12)
                    confidences.append(float(top.mean()))
                labels = best_labels(scores, truth.shape)
                if name is None:
                    result.answers.append(Answer(place, labels.astype(truth.dtype), truth))
                    result.predicted += np.bincount(labels.ravel(), minlength=count)
                    if zero_is_void:
                        result.under_zero += np.bincount(labels[stored == 0], minlength=count)
                matrix = matrices.setdefault(name, ConfusionMatrix(count, space.ignore_index))
                matrix.update(labels, truth.astype(np.int64))
            result.images += 1
            peaks.settled = False
    if result.images:
        figures = {name: summarize(matrix.matrix, space)["mean_iou"] for name, matrix in matrices.items()}
        result.matrix = matrices[None].matrix.cpu().numpy()
        result.mean_iou = figures.pop(None)
        result.variants = {str(name): figure for name, figure in figures.items()}
        result.confidence = float(np.mean(confidences))
        result.object_peak = peaks.highest
    return result


@torch.inference_mode()
def predict_labels(segmenter: Segmenter, image: Image.Image, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) train ids that a checkpoint answers with, whatever its threshold."""
    model = segmenter.model
    pixel_values = as_input(segmenter.processor(images=image, return_tensors="pt")["pixel_values"], model)
    return best_labels(predict_scores(model, pixel_values, **segmenter.inference), size)


def best_labels(scores: torch.Tensor, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) train ids of (1, C, h, w) scores."""
    if tuple(scores.shape[-2:]) != tuple(size):
        scores = F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=False)
    return scores[0].argmax(dim=0).cpu().numpy()


def _inputs(processor: Any, image: Image.Image, model: nn.Module) -> dict[str | None, torch.Tensor]:
    """The image as the processor prepares it (key None), and prepared otherwise."""
    own = processor(images=image, return_tensors="pt")["pixel_values"]
    plain = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"].float()
    unit = plain / 255
    imagenet = _normalized(unit, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    variants: dict[str | None, torch.Tensor] = {
        SWAPPED: processor(images=_swapped(image), return_tensors="pt")["pixel_values"],
        "scaled to 0..1 and not normalised": unit,
        "left at 0..255": plain,
        "scaled to -1..1 (mean 0.5, std 0.5)": _normalized(unit, (0.5,) * 3, (0.5,) * 3),
        "normalised by ImageNet's mean and std": imagenet,
    }
    inputs: dict[str | None, torch.Tensor] = {None: own}
    inputs.update({name: x for name, x in variants.items() if not torch.allclose(x, own, atol=1e-2)})
    return {name: as_input(x, model) for name, x in inputs.items()}


def _normalized(unit: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (unit - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _swapped(image: Image.Image) -> Image.Image:
    return Image.merge("RGB", image.split()[::-1])


class _Peaks:
    """The highest probability of being a class that any query had, over the passes that count."""

    def __init__(self) -> None:
        self.highest: float | None = None
        self.settled = False  # true once an image's own pass is over, and variants follow


@contextmanager
def _query_peak(model: nn.Module, num_labels: int) -> Iterator[_Peaks]:
    peaks = _Peaks()

    def watch(module: nn.Module, arguments: Any, outputs: Any) -> None:
        logits = getattr(outputs, "class_queries_logits", None)
        if logits is not None and not peaks.settled and logits.shape[-1] == num_labels + 1:
            peak = float((1 - logits.float().softmax(dim=-1)[..., -1]).max())
            peaks.highest = peak if peaks.highest is None else max(peaks.highest, peak)

    handle = model.register_forward_hook(watch)
    try:
        yield peaks
    finally:
        handle.remove()
