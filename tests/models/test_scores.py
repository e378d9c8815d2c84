"""Queries to pixels, against the formula written out, and strips against no strips."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_dinoseg.models import DinoSegOutput, semantic_labels_and_scores, semantic_scores
from hf_dinoseg.models import scores as semantic


def outputs(height: int = 7, width: int = 9) -> DinoSegOutput:
    torch.manual_seed(0)
    return DinoSegOutput(
        class_queries_logits=torch.randn(2, 5, 4), masks_queries_logits=3 * torch.randn(2, 5, height, width)
    )


@pytest.mark.parametrize("size", [(7, 9), (28, 36), (13, 50), (3, 2), (7, 20), (1, 1)])
@pytest.mark.parametrize("strip", [1, 300, 1 << 24])
def test_scores_are_the_published_sum(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], strip: int) -> None:
    monkeypatch.setattr(semantic, "CACHED_VALUES", strip)
    given = outputs()
    masks = F.interpolate(given.masks_queries_logits, size=size, mode="bilinear", align_corners=False).sigmoid()
    classes = given.class_queries_logits.softmax(-1)[..., :3]
    expected = torch.einsum("bqc,bqhw->bchw", classes, masks)
    assert torch.allclose(semantic_scores(given, size), expected, atol=1e-5)
    labels, best = semantic_labels_and_scores(given, size)
    assert torch.allclose(best, expected.max(1).values, atol=1e-5)
    assert torch.equal(semantic_labels_and_scores(given, size)[0], labels)
    assert labels.dtype == torch.int64 and labels.shape == (2, *size)


def test_linear_logits_become_probabilities_once() -> None:
    logits = torch.randn(1, 3, 4, 4)
    scores = semantic_scores(DinoSegOutput(logits=logits), (8, 8))
    expected = F.interpolate(logits, size=(8, 8), mode="bilinear", align_corners=False).softmax(1)
    assert torch.allclose(scores, expected, atol=1e-6)


def test_half_precision_predictions_are_combined_in_float32() -> None:
    given = outputs()
    half = DinoSegOutput(**{k: v.bfloat16() for k, v in given.items()})
    full = DinoSegOutput(**{k: v.bfloat16().float() for k, v in given.items()})
    with torch.autocast("cpu", torch.bfloat16):
        scores = semantic_scores(half, (28, 36))
    assert scores.dtype == torch.float32 and torch.allclose(scores, semantic_scores(full, (28, 36)), atol=1e-5)
