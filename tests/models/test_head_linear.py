"""Linear head."""

from __future__ import annotations

import pytest
import torch
from head_tester import HeadTester, relative_error, tiny_model
from torch.nn import functional as F


class TestLinearHead(HeadTester):
    fields = {"head": "linear"}
    stride = 16


class TestLinearHeadOnFourLayers(HeadTester):
    fields = {"head": "linear", "out_layers": [1, 2, 3, 4]}
    stride = 16


@pytest.mark.parametrize("layers", [[4], [1, 2, 3, 4]])
def test_scores_are_normalised_features_times_a_matrix(layers: list[int]) -> None:
    model = tiny_model(head="linear", out_layers=layers)
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        hidden = model.backbone.model(images, output_hidden_states=True).hidden_states
        tokens = torch.cat([model.backbone.model.norm(hidden[layer])[:, 3:] for layer in layers], dim=-1)
        norm, classify = model.head.norm, model.head.classify
        scaled = (tokens - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        expected = F.linear(scaled, classify.weight.flatten(1), classify.bias).transpose(1, 2).unflatten(2, (2, 3))
        assert relative_error(model(images).logits, expected) < 1e-5
