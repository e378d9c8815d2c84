"""The evaluate metric against the definition of evaluate's published mean_iou, written out here with NumPy."""

from __future__ import annotations

import evaluate
import numpy as np
import pytest

from hf_dinoseg.evaluation.mean_iou import MeanIoU
from hf_dinoseg.labels import LabelSpace

SPACE = LabelSpace({3: "a", 5: "b", 9: "c", 11: "never"}, ignore=(255,))


def _maps(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    sizes = [(7, 5), (4, 9), (1, 1)]
    truths = [rng.choice([0, 1, 2, 255], size) for size in sizes]
    return [rng.integers(0, 3, size) for size in sizes], truths


def _published(predictions: list[np.ndarray], references: list[np.ndarray], num_labels: int) -> dict[str, np.ndarray]:
    """Pixels of truth 255 dropped, then areas summed over images, then ratios with NaN left out of the means."""
    overlap, predicted, labelled = (np.zeros(num_labels) for _ in range(3))
    for prediction, reference in zip(predictions, references, strict=True):
        valid = reference != 255
        for c in range(num_labels):
            overlap[c] += ((prediction == c) & (reference == c) & valid).sum()
            predicted[c] += ((prediction == c) & valid).sum()
            labelled[c] += ((reference == c) & valid).sum()
    with np.errstate(invalid="ignore"):
        iou, accuracy = overlap / (predicted + labelled - overlap), overlap / labelled
    return {
        "mean_iou": np.nanmean(iou),
        "mean_accuracy": np.nanmean(accuracy),
        "overall_accuracy": overlap.sum() / labelled.sum(),
        "per_category_iou": iou,
    }


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_published_definition_batch_by_batch(seed: int, tmp_path) -> None:
    predictions, references = _maps(seed)
    metric = MeanIoU(SPACE, cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions[:2], references=references[:2])
    metric.add(prediction=predictions[2], reference=references[2])
    result, expected = metric.compute(), _published(predictions, references, 4)
    for key in ("mean_iou", "mean_accuracy", "overall_accuracy"):
        assert result[key] == pytest.approx(expected[key])
    np.testing.assert_allclose(list(result["per_category_iou"].values()), expected["per_category_iou"])
    assert list(result["per_category_iou"]) == ["3 a", "5 b", "9 c", "11 never"]


def test_computing_starts_anew_and_half_an_input_is_refused(tmp_path) -> None:
    metric = MeanIoU(SPACE, cache_dir=str(tmp_path))
    first = metric.compute(predictions=[np.array([[0, 1]])], references=[np.array([[0, 0]])])
    second = metric.compute(predictions=[np.array([[0, 0]])], references=[np.array([[0, 0]])])
    assert (first["overall_accuracy"], second["overall_accuracy"]) == (0.5, 1.0)
    with pytest.raises(ValueError, match="together"):
        metric.compute(predictions=[np.array([[0]])])


def test_it_combines_with_others_as_evaluate_metrics_do(tmp_path) -> None:
    both = evaluate.combine([MeanIoU(SPACE, cache_dir=str(tmp_path)), MeanIoU(SPACE, cache_dir=str(tmp_path))])
    both.add_batch(predictions=[np.array([[0, 1]])], references=[np.array([[0, 0]])])
    result = both.compute()
    assert {value for key, value in result.items() if key.endswith("overall_accuracy")} == {0.5}
