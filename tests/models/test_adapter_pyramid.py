"""The simple pyramid as the Mask2Former head's adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from head_tester import TINY_VIT, HeadTester, tiny_model
from torch import nn
from torch.nn import functional as F

from hf_dinoseg.models import DinoSegConfig, DinoSegForSemanticSegmentation
from hf_dinoseg.models.adapter_pyramid import SimplePyramid


class TestMask2FormerOnAPyramid(HeadTester):
    fields: dict[str, Any] = {"head": "mask2former", "adapter": "pyramid"}
    stride = 4


def test_each_stride_is_what_the_paper_makes_of_the_last_layer() -> None:
    """Written out with plain functions: two deconvolutions, one, none, a max-pooling; then 1×1 and 3×3."""
    model = tiny_model(adapter="pyramid")
    adapter = model.head.adapter
    assert type(adapter) is SimplePyramid and model.config.backbone_config.out_indices == [4]

    def norm(maps: torch.Tensor, layer: nn.LayerNorm) -> torch.Tensor:
        mean, variance = maps.mean(1, keepdim=True), maps.var(1, keepdim=True, unbiased=False)
        scaled = (maps - mean) / (variance + 1e-6).sqrt()
        return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]

    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = model.backbone(images)
        (last,) = features.maps
        assert last.shape == (2, 32, 4, 6)
        up = adapter.rescale[0]
        finest = F.conv_transpose2d(last, up[0].weight, up[0].bias, stride=2)
        finest = F.conv_transpose2d(F.gelu(norm(finest, up[1])), up[3].weight, up[3].bias, stride=2)
        finer = F.conv_transpose2d(last, adapter.rescale[1].weight, adapter.rescale[1].bias, stride=2)
        expected = []
        for maps, project in zip((finest, finer, last, F.max_pool2d(last, 2)), adapter.project, strict=True):
            maps = norm(F.conv2d(maps, project[0].weight), project[1])
            expected.append(norm(F.conv2d(maps, project[2].weight, padding=1), project[3]))
        found = adapter(images, features)
    assert [tuple(level.shape[-2:]) for level in found] == [(64 // s, 96 // s) for s in adapter.strides]
    for level, wanted in zip(found, expected, strict=True):
        assert torch.allclose(level, wanted, atol=1e-4)


def test_patches_of_another_size_end_up_at_the_same_strides() -> None:
    dinov2 = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    model = tiny_model(backbone={**dinov2, "patch_size": 14, "image_size": 56, "mlp_ratio": 2}, adapter="pyramid")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        pyramid = model.head.adapter(images, model.backbone(images))
    assert [tuple(level.shape[-2:]) for level in pyramid] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_a_hierarchical_backbone_needs_no_adapter_of_either_kind() -> None:
    convnext = {"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    model = tiny_model(backbone=convnext, adapter="pyramid")
    assert model.head.adapter is None and len(model.config.out_layers or model.backbone.channels) == 4


def test_unknown_adapters_and_layers_that_it_does_not_read_are_refused() -> None:
    with pytest.raises(ValueError, match="choose vit_adapter or pyramid"):
        DinoSegConfig(backbone_config=TINY_VIT, adapter="fpn")
    with pytest.raises(ValueError, match="reads 1 different layers"):
        DinoSegConfig(backbone_config=TINY_VIT, adapter="pyramid", out_layers=[1, 2, 3, 4])
    vit = DinoSegForSemanticSegmentation.from_backbone(TINY_VIT, num_labels=2, hidden_dim=32)
    pyramid = DinoSegForSemanticSegmentation.from_backbone(TINY_VIT, num_labels=2, hidden_dim=32, adapter="pyramid")
    assert type(vit.head.adapter) is not type(pyramid.head.adapter)
