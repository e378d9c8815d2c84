"""The start of training, and positions in half precision."""

from __future__ import annotations

import math

import torch
from head_tester import TINY_HEAD, TINY_VIT

from hf_dinoseg.models import DinoSegForSemanticSegmentation
from hf_dinoseg.models.deformable_attention import DeformableAttention


def test_heads_start_in_different_directions_and_points_at_growing_distance() -> None:
    attention = DeformableAttention(32, num_heads=8, num_levels=2, num_points=3)
    attention.init_weights()
    offsets = attention.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    assert torch.allclose(offsets.abs().amax(-1), torch.tensor([1.0, 2.0, 3.0]).expand(8, 2, 3))
    angles = torch.atan2(offsets[:, 0, 0, 1], offsets[:, 0, 0, 0]) % (2 * math.pi)
    assert torch.allclose(angles, torch.arange(8) * math.pi / 4, atol=1e-5)
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()


def test_a_new_model_starts_with_that_scheme() -> None:
    model = DinoSegForSemanticSegmentation.from_backbone(TINY_VIT, **TINY_HEAD)
    for attention in (m for m in model.modules() if isinstance(m, DeformableAttention)):
        assert not attention.sampling_offsets.weight.any()
        assert attention.sampling_offsets.bias.abs().max() == 4
        bound = math.sqrt(6 / sum(attention.value_proj.weight.shape))
        assert 0.8 * bound < attention.value_proj.weight.abs().max() <= bound


def test_positions_stay_in_float32_under_bf16_autocast() -> None:
    """With bf16 coordinates, 1/8 pixel at column 50 would be lost."""
    attention = DeformableAttention(4, num_heads=1, num_levels=1, num_points=1)
    with torch.no_grad():
        for layer in (attention.sampling_offsets, attention.attention_weights):
            layer.weight.zero_()
            layer.bias.zero_()
        for layer in (attention.value_proj, attention.output_proj):
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
        ramp = (torch.arange(64.0) - 50).view(1, 64, 1).expand(1, 64, 4)
        reference = torch.tensor([[(50.125 + 0.5) / 64, 0.5]])
        with torch.autocast("cpu", torch.bfloat16):
            found = attention(torch.zeros(1, 1, 4), reference, ramp, [(1, 64)])
    assert found.float().mean().item() == 0.125
