"""The published DINOv3 adapter and Mask2Former head, number for number."""

from __future__ import annotations

import pytest
import torch
from head_tester import relative_error
from reference_weights import SETTINGS, TINY_BACKBONE, expected_outputs, head_checkpoint
from torch import Tensor

from hf_dinoseg.hub.convert_names import convert_meta_m2f_state_dict
from hf_dinoseg.models import DinoSegForSemanticSegmentation, DinoSegOutput, semantic_labels_and_scores, semantic_scores


@pytest.fixture(scope="module")
def model() -> DinoSegForSemanticSegmentation:
    model = DinoSegForSemanticSegmentation.from_backbone(TINY_BACKBONE, **SETTINGS).eval()
    weights = convert_meta_m2f_state_dict(head_checkpoint(), model.state_dict())
    report = model.load_state_dict(weights, strict=False)
    assert report.unexpected_keys == [] and all(key.startswith("backbone.") for key in report.missing_keys)
    return model


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return expected_outputs()


@pytest.fixture(scope="module")
def output(model: DinoSegForSemanticSegmentation, expected: dict[str, Tensor]) -> DinoSegOutput:
    with torch.no_grad():
        return model(expected["pixel_values"], output_auxiliary=True)


def test_adapter(model: DinoSegForSemanticSegmentation, expected: dict[str, Tensor]) -> None:
    with torch.no_grad():
        pyramid = model.head.adapter(expected["pixel_values"], model.backbone(expected["pixel_values"]))
    for level, found in enumerate(pyramid, start=1):
        assert found.shape == expected[f"adapter_{level}"].shape
        assert relative_error(found, expected[f"adapter_{level}"]) < 1e-4


def test_final_prediction(output: DinoSegOutput, expected: dict[str, Tensor]) -> None:
    assert relative_error(output.class_queries_logits, expected["pred_logits"]) < 1e-4
    assert relative_error(output.masks_queries_logits, expected["pred_masks"]) < 1e-4


def test_auxiliary_predictions(output: DinoSegOutput, expected: dict[str, Tensor]) -> None:
    first, *_, last = output.auxiliary_predictions
    assert len(output.auxiliary_predictions) == 9
    assert relative_error(first["class_queries_logits"], expected["aux0_logits"]) < 1e-4
    assert relative_error(first["masks_queries_logits"][:, ::10], expected["aux0_masks"]) < 1e-4
    assert relative_error(last["class_queries_logits"], expected["aux8_logits"]) < 1e-4


def test_inference_without_auxiliary_predictions_is_the_same(
    model: DinoSegForSemanticSegmentation, output: DinoSegOutput, expected: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        lean = model(expected["pixel_values"])
    assert lean.auxiliary_predictions is None
    assert relative_error(lean.masks_queries_logits, output.masks_queries_logits) < 1e-5


def test_semantic_scores_and_map(output: DinoSegOutput, expected: dict[str, Tensor]) -> None:
    assert relative_error(semantic_scores(output, (128, 160)), expected["semantic_scores"]) < 1e-4
    assert torch.equal(semantic_labels_and_scores(output, (128, 160))[0], expected["semantic_map"].long())
