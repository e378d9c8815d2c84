"""Sampling and its gradients against transformers' plain version and brute force."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from head_tester import relative_error
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from hf_dinoseg.models import deformable_attention as deformable_sampling
from hf_dinoseg.models.deformable_attention import row_dots, sample_and_sum, sample_grids_and_sum

SHAPES = [(3, 5), (6, 10), (1, 1)]


@pytest.mark.parametrize("at_once", [1, 200, 1 << 18], ids=lambda n: f"{n} points at once")
def test_sampling_and_its_gradients_equal_grid_sampling(at_once: int, monkeypatch: Any) -> None:
    """Points inside, on the border and far outside the maps; two images, three heads, three levels."""
    monkeypatch.setattr(deformable_sampling, "CACHED_POINTS", at_once)
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


def test_the_operators_of_an_exported_graph_sample_alike() -> None:
    torch.manual_seed(0)
    x, y = (torch.rand(2, 2, 11, 3, 3, 4) * 14 - 3).unbind(0)
    x[0, 0] = 50.0
    weights = torch.randn(2, 11, 3, 3, 4)
    values = torch.randn(2, 76, 3, 8)
    expected = sample_and_sum(values, SHAPES, x, y, weights)
    assert relative_error(sample_grids_and_sum(values, SHAPES, x, y, weights), expected) < 1e-5


def test_dot_products_of_rows_equal_brute_force() -> None:
    table, vectors = torch.randn(9, 4), torch.randn(5, 4)
    rows = torch.randint(9, (5, 7), dtype=torch.int32)
    rows[0] = 3  # a row met more than once
    expected = [[float(table[r] @ vectors[n]) for r in rows[n]] for n in range(5)]
    assert torch.allclose(row_dots(table, rows, vectors), torch.tensor(expected), atol=1e-5)


def test_between_forward_and_backward_inputs_alone_are_held() -> None:
    values = torch.randn(2, 76, 3, 8, requires_grad=True)
    x, y = (torch.rand(2, 2, 50, 3, 3, 4) * 12 - 2).requires_grad_().unbind(0)
    weights = torch.rand(2, 50, 3, 3, 4, requires_grad=True)
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sample_and_sum(values, SHAPES, x, y, weights)
    bordered = sum((h + 2) * (w + 2) for h, w in SHAPES) * 2 * 3 * 8
    assert sum(t.numel() for t in held) == bordered + 3 * weights.numel()
