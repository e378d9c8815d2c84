"""Sampling against transformers' plain version, and the start of training."""

from __future__ import annotations

import math

import torch
from head_tester import TINY_HEAD, TINY_VIT, relative_error
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from hf_dinoseg.models import DinoSegForSemanticSegmentation
from hf_dinoseg.models.deformable_attention import DeformableAttention
from hf_dinoseg.models.deformable_sampling import sample_and_sum, sample_grids_and_sum

SHAPES = [(3, 5), (6, 10), (1, 1)]


def test_sampling_and_its_gradients_equal_grid_sampling() -> None:
    """Points inside, on the border and far outside the maps; two images, three heads, three levels."""
    torch.manual_seed(0)
    value = torch.randn(2, 76, 3, 8)
    locations = torch.rand(2, 11, 3, 3, 4, 2) * 1.6 - 0.3
    locations[0, 0] = 0.0
    locations[0, 1] = 1.0
    locations[0, 2] = 50.0
    weights = torch.randn(2, 11, 3, 3, 4).flatten(-2).softmax(-1).view(2, 11, 3, 3, 4)
    target = torch.randn(2, 11, 24)
    results = []
    for ours in (True, False):
        leaves = [t.clone().requires_grad_() for t in (value, locations, weights)]
        v, where, w = leaves
        if ours:
            size = torch.tensor([(width, height) for height, width in SHAPES], dtype=torch.float32)[:, None]
            x, y = (where * size).unbind(-1)
            out = sample_and_sum(v, SHAPES, x, y, w)
        else:
            out = multi_scale_deformable_attention(v, SHAPES, where, w)
        (out * target).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        assert relative_error(found, expected) < 1e-5


def test_sampling_without_gradient_is_the_same() -> None:
    torch.manual_seed(0)
    arguments = torch.randn(1, 15, 2, 4), [(3, 5)], *(torch.rand(3, 1, 7, 2, 1, 4) * 3).unbind(0)
    with torch.no_grad():
        plain = sample_and_sum(*arguments)
    arguments[0].requires_grad_()
    assert torch.equal(sample_and_sum(*arguments).detach(), plain)


def test_a_position_that_is_no_number_yields_no_number_instead_of_a_crash() -> None:
    x = torch.full((1, 1, 1, 1, 1), math.nan)
    out = sample_and_sum(torch.ones(1, 15, 1, 4), [(3, 5)], x, torch.ones_like(x), torch.ones_like(x))
    assert out.isnan().all()


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


def test_the_operators_of_an_exported_graph_sample_alike() -> None:
    torch.manual_seed(0)
    x, y = (torch.rand(2, 2, 11, 3, 3, 4) * 14 - 3).unbind(0)
    x[0, 0] = 50.0
    weights = torch.randn(2, 11, 3, 3, 4)
    values = torch.randn(2, 76, 3, 8)
    expected = sample_and_sum(values, SHAPES, x, y, weights)
    assert relative_error(sample_grids_and_sum(values, SHAPES, x, y, weights), expected) < 1e-5
