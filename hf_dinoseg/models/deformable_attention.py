"""Multi-scale deformable attention in plain PyTorch.

Each query looks at a few learned points on each feature level ("Deformable DETR", https://arxiv.org/abs/2010.04159).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .deformable_sampling import Shape, sample_and_sum, sample_grids_and_sum


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


def _per_level(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(levels,) float32; lengths may be symbolic while a graph of any size is exported."""
    return torch.stack([torch.full((), length, dtype=torch.float32, device=device) for length in lengths])


def short_softmax(scores: Tensor) -> Tensor:
    """Soft-max over a last dimension of a dozen values, written out: on a CPU the library's takes six times as long
    on rows so short."""
    shifted = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    return shifted / shifted.sum(dim=-1, keepdim=True)


__all__ = ["DeformableAttention"]
