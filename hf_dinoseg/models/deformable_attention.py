"""Multi-scale deformable attention in plain PyTorch.

Each query looks at a few learned points on each feature level ("Deformable DETR", https://arxiv.org/abs/2010.04159).
A bilinear sample is a weighted sum of four neighbours, and attention a weighted sum of samples; so the whole operation
is one sparse weighted sum of value rows a query, which `embedding_bag` computes in one pass, without ever holding the
samples. On a CPU this is several times faster than `grid_sample` followed by a product and a sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

Shape = tuple[int, int]


class DeformableAttention(nn.Module):
    """Deformable attention of queries to the tokens of one or more feature maps.

    Args:
        dim: width of queries and tokens.
        num_heads: attention heads.
        num_levels: feature maps attended to.
        num_points: sampling points per head and level.
        value_ratio: width of the values relative to `dim`.
    """

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int = 4, value_ratio: float = 1.0
    ) -> None:
        super().__init__()
        value_dim = int(dim * value_ratio)
        if value_dim % num_heads:
            raise ValueError(
                f"{num_heads} attention heads do not divide the {value_dim} channels of deformable attention (width "
                f"{dim}, ratio {value_ratio}); choose a number of heads that does."
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, value_dim)
        self.output_proj = nn.Linear(value_dim, dim)

    def init_weights(self) -> None:
        """Every head starts looking in its own direction, at 1, 2, … pixels, with equal weights."""
        init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = direction[:, None, None, :] * distance[None, None, :, None]
        init.copy_(self.sampling_offsets.bias, offsets.expand(-1, self.num_levels, -1, -1).reshape(-1))
        init.zeros_(self.attention_weights.weight)
        init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            init.xavier_uniform_(projection.weight)
            init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, tokens: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, dim).
            reference: (Q, 2) x and y of each query as a share of the width and height that the maps cover.
            tokens: (B, S, dim), the maps' pixels in row order, one map after the other.
            shapes: height and width of each map.

        Returns:
            (B, Q, dim).
        """
        batch, num_queries, _ = query.shape
        values = self.value_proj(tokens).unflatten(-1, (self.num_heads, -1))
        points = (batch, num_queries, self.num_heads, self.num_levels, self.num_points)
        # Positions are exact to a fraction of a pixel only in float32, so sampling is never done in half precision.
        offset_x, offset_y = self.sampling_offsets(query).float().view(*points, 2).unbind(-1)
        weights = short_softmax(self.attention_weights(query).float().view(*points[:3], -1)).view(points)
        heights, widths = (_per_level(lengths, query.device) for lengths in zip(*shapes, strict=True))
        centre_x, centre_y = reference.float()[:, None, None].unbind(-1)  # each (Q, 1, 1)
        x = offset_x + (centre_x * widths)[..., None]
        y = offset_y + (centre_y * heights)[..., None]
        sample = sample_grids_and_sum if torch.compiler.is_exporting() else sample_and_sum
        sampled = sample(values.float(), shapes, x, y, weights)
        return self.output_proj(sampled.to(values.dtype))


def sample_and_sum(values: Tensor, shapes: Sequence[Shape], x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside the maps.

    Args:
        values: (B, S, heads, d) float32, the maps' pixels one map after the other.
        shapes: height and width of each map.
        x, y: (B, Q, heads, levels, points) positions in pixels of each level; the first pixel's centre is at 0.5.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads·d).
    """
    batch, _, heads, dim = values.shape
    # A border of zeros around each map: then no sample needs a test for lying outside, clamping is enough.
    maps = values.flatten(2).split([h * w for h, w in shapes], dim=1)
    bordered = [
        F.pad(level.unflatten(1, shape), (0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for level, shape in zip(maps, shapes, strict=True)
    ]
    table = torch.cat(bordered, dim=1)
    length = table.shape[1]

    starts = [0]
    for h, w in shapes:
        starts.append(starts[-1] + (h + 2) * (w + 2))
    level = torch.tensor(
        [(w, h, w + 2, start) for (h, w), start in zip(shapes, starts[:-1], strict=True)],
        dtype=torch.float32, device=values.device,
    ).t()[..., None]  # fmt: skip
    width, height, row_length, first = level
    x = (x + 0.5).clamp(min=0).minimum(width + 1)
    y = (y + 0.5).clamp(min=0).minimum(height + 1)
    with torch.no_grad():
        # A diverged model samples at NaN; the index must stay valid for the NaN to be reported, not a bad index.
        left = x.floor().minimum(width).nan_to_num(0)
        top = y.floor().minimum(height).nan_to_num(0)
        row = torch.addcmul(left + first, top, row_length).to(torch.int32)
        head = torch.arange(heads, dtype=torch.int32, device=values.device)[:, None, None]
        image = torch.arange(batch, dtype=torch.int32, device=values.device)[:, None, None, None, None] * length
        row = (row + image) * heads + head
        below = row_length.to(torch.int32) * heads + row
        rows = torch.stack((row, row + heads, below, below + heads), dim=-3)
    to_right, to_below = x - left, y - top
    lower = weights * to_below
    upper = weights - lower
    upper_right, lower_right = upper * to_right, lower * to_right
    shares = torch.stack((upper - upper_right, upper_right, lower - lower_right, lower_right), dim=-3)

    num_bags = batch * x.shape[1] * heads
    table, rows, shares = table.view(-1, dim), rows.view(num_bags, -1), shares.view(num_bags, -1)
    return weighted_row_sum(table, rows, shares).view(batch, -1, heads * dim)


def sample_grids_and_sum(values: Tensor, shapes: Sequence[Shape], x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The same as `sample_and_sum` in operators that every exporter and runtime knows, level by level."""
    batch, num_queries, heads, _, points = x.shape
    total = values.new_zeros(())
    maps = values.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], dim=2)  # (B·heads, d, h·w)
    for level, (height, width) in enumerate(shapes):
        place = torch.stack((2 * x[:, :, :, level] / width - 1, 2 * y[:, :, :, level] / height - 1), dim=-1)
        place = place.transpose(1, 2).flatten(0, 1)  # (B·heads, Q, points, 2)
        share = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, num_queries, points)
        sampled = F.grid_sample(maps[level].unflatten(2, (height, width)), place, align_corners=False)
        total = total + (sampled * share).sum(dim=-1)  # (B·heads, d, Q)
    return total.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)


def _per_level(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(levels,) float32; lengths may be symbolic while a graph of any size is exported."""
    return torch.stack([torch.full((), length, dtype=torch.float32, device=device) for length in lengths])


def short_softmax(scores: Tensor) -> Tensor:
    """Soft-max over a last dimension of a dozen values, written out: on a CPU the library's takes six times as long
    on rows so short."""
    shifted = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    return shifted / shifted.sum(dim=-1, keepdim=True)


def weighted_row_sum(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """`out[n] = Σ_k shares[n, k] · table[rows[n, k]]`, (R, d), (N, K), (N, K) → (N, d)."""
    if torch.is_grad_enabled() and (table.requires_grad or shares.requires_grad):
        return _WeightedRowSum.apply(table, rows, shares)
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)


class _WeightedRowSum(torch.autograd.Function):
    """`embedding_bag` with a faster gradient of the table: the same sum, transposed by one integer sort."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, shares)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, shares = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_table = grad_shares = None
        if ctx.needs_input_grad[0]:
            ordered, order = rows.flatten().sort()
            counts = torch.bincount(ordered, minlength=len(table))
            starts = counts.cumsum(0) - counts
            bags = torch.div(order, rows.shape[1], rounding_mode="floor")
            weights = shares.flatten()[order]
            grad_table = F.embedding_bag(bags, grad, starts, mode="sum", per_sample_weights=weights)
        if ctx.needs_input_grad[2]:
            with torch.enable_grad():
                leaf = shares.detach().requires_grad_()
                out = F.embedding_bag(rows, table.detach(), mode="sum", per_sample_weights=leaf)
            (grad_shares,) = torch.autograd.grad(out, leaf, grad)
        return grad_table, None, grad_shares


__all__ = ["DeformableAttention", "sample_and_sum", "sample_grids_and_sum"]
