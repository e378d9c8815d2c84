"""Mean IoU as an `evaluate` metric that streams: `add_batch` counts and forgets, nothing is cached or downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from ..errors import InputError
from ..labels import LabelSpace
from .confusion import ConfusionMatrix
from .summary import summarize

LabelMap = np.ndarray | torch.Tensor


class MeanIoU(evaluate.Metric):
    """What `evaluate.load("mean_iou")` measures, with the interface of every `evaluate` metric.

    Label maps may differ in size from image to image. One confusion matrix is kept, and no map.

    `DinoSegTrainer` does not go through it: with several processes, the last batch is filled up with copies of images,
    which must not count twice. The trainer's processes therefore send counts with each image's index
    (`streamed.StreamedMetrics`), and an `evaluate.Metric` knows no index. The figures are those of one function,
    `summary.summarize`.

    Args:
        label_space: names and original ids of the classes, and the train id of void.
        kwargs: as for any `evaluate.Metric`.

    Example:
        >>> metric = MeanIoU(LabelSpace({0: "background", 1: "vessel"}, ignore=(255,)))
        >>> metric.add_batch(predictions=[np.array([[0, 1]])], references=[np.array([[0, 255]])])
        >>> metric.compute()["per_category_iou"]
        {'0 background': 1.0, '1 vessel': nan}
    """

    def __init__(self, label_space: LabelSpace, **kwargs: Any) -> None:
        self.label_space = label_space
        self._counts = self._empty()
        super().__init__(**kwargs)

    def _empty(self) -> ConfusionMatrix:
        return ConfusionMatrix(self.label_space.num_labels, self.label_space.ignore_index)

    def _info(self) -> evaluate.MetricInfo:
        label_maps = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description="Intersection over union of semantic segmentation, from one streamed confusion matrix.",
            citation="",
            inputs_description="predictions and references: (H, W) maps of train ids, void in the references only.",
            features=datasets.Features({"predictions": label_maps, "references": label_maps}),
        )

    def add(self, *, prediction: LabelMap, reference: LabelMap) -> None:
        """Count one image: two (H, W) maps of train ids."""
        self._counts.update(prediction, reference)

    def add_batch(self, *, predictions: Iterable[LabelMap], references: Iterable[LabelMap]) -> None:
        """Count several images, of any sizes."""
        for prediction, reference in zip(predictions, references, strict=True):
            self._counts.update(prediction, reference)

    def compute(
        self, *, predictions: Iterable[LabelMap] | None = None, references: Iterable[LabelMap] | None = None
    ) -> dict[str, Any]:
        """The figures of `metrics.summarize` over all that was added, and over what is given here; starts anew.

        Raises:
            ValueError: if only one of predictions and references is given.
        """
        if (predictions is None) != (references is None):
            raise InputError("compute takes predictions and references together, or neither.")
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        counts, self._counts = self._counts, self._empty()
        return summarize(counts.matrix, self.label_space)
