"""Multi-scale deformable attention in plain PyTorch.

Each query looks at a few learned points on each feature level ("Deformable DETR", https://arxiv.org/abs/2010.04159).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import initialization as init


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


Shape = tuple[int, int]

#: sampling points handled at once on a processor: what is computed of them then stays in its cache
CACHED_POINTS = 1 << 18


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
    arguments = (values, x, y, weights)
    if torch.is_grad_enabled() and any(a.requires_grad for a in arguments) and not torch.compiler.is_compiling():
        return _SampleAndSum.apply(*arguments, shapes)
    points = Points.of(values, shapes, weights)
    return _sum(_bordered(values, shapes), points, x, y, weights)


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


class Corners(NamedTuple):
    """The four pixels around each of some points; all but the first two are (n, heads·levels·points)."""

    rows: Tensor  #: (n·heads, 4·levels·points) int32 of the table: upper left, upper right, lower left, lower right
    shares: Tensor  #: of the same shape, what each row counts
    first: Tensor  #: int32 rows of the upper left pixels
    to_right: Tensor  #: position between the left and the right pixels, 0 to 1
    to_below: Tensor
    inside_x: Tensor  #: bool, whether moving the point sideways would change anything
    inside_y: Tensor


class Points(NamedTuple):
    """What all sampling points of a call share. The vectors have a value for each of heads·levels·points."""

    heads: int
    num_queries: int  #: of an image
    total: int  #: of the batch
    length: int  #: rows of the table for an image
    width: Tensor
    height: Tensor
    row_length: Tensor  #: rows of the table from a pixel to that below
    origin: Tensor  #: row of the table where level and head begin

    @classmethod
    def of(cls, values: Tensor, shapes: Sequence[Shape], weights: Tensor) -> Points:
        batch, num_queries, heads, _, points = weights.shape
        starts = [0]
        for h, w in shapes:
            starts.append(starts[-1] + (h + 2) * (w + 2))
        level = torch.tensor(
            [(w, h, (w + 2) * heads, start * heads) for (h, w), start in zip(shapes, starts[:-1], strict=True)],
            dtype=torch.float32, device=values.device,
        )  # fmt: skip
        per_point = level.t()[:, None, :, None].expand(4, heads, len(shapes), points)
        width, height, row_length, origin = (part.flatten() for part in per_point)
        head = torch.arange(heads, device=values.device).repeat_interleave(len(shapes) * points)
        return cls(
            heads, num_queries, batch * num_queries, starts[-1] * heads,
            width, height, row_length.to(torch.int32), (origin + head).to(torch.int32),
        )  # fmt: skip

    def chunks(self) -> Iterator[slice]:
        """Ranges of the queries of a batch that are handled at once."""
        size = self.total
        if self.width.device.type == "cpu" and not torch.compiler.is_compiling():
            size = max(1, CACHED_POINTS // len(self.width))
        for start in range(0, self.total, size):
            yield slice(start, min(start + size, self.total))

    def corners(self, x: Tensor, y: Tensor, weights: Tensor, chunk: slice) -> Corners:
        """Of (n, heads·levels·points) positions and weights of a chunk."""
        # The border of zeros around each map makes that no sample needs a test for lying outside: clamping is enough.
        x, y = x + 0.5, y + 0.5
        clamped_x = x.clamp(min=0).minimum(self.width + 1)
        clamped_y = y.clamp(min=0).minimum(self.height + 1)
        with torch.no_grad():
            # A diverged model samples at NaN; the index must stay valid for the NaN to be reported, not a bad index.
            left = clamped_x.floor().minimum(self.width).nan_to_num(0)
            top = clamped_y.floor().minimum(self.height).nan_to_num(0)
            query = torch.arange(chunk.start, chunk.stop, dtype=torch.int32, device=x.device)[:, None]
            image = torch.div(query, self.num_queries, rounding_mode="floor") * self.length
            first = top.to(torch.int32) * self.row_length + left.to(torch.int32) * self.heads + self.origin + image
            below = first + self.row_length
            rows = self._by_head(first, first + self.heads, below, below + self.heads)
        to_right, to_below = clamped_x - left, clamped_y - top
        lower = weights * to_below
        upper = weights - lower
        upper_right, lower_right = upper * to_right, lower * to_right
        shares = self._by_head(upper - upper_right, upper_right, lower - lower_right, lower_right)
        return Corners(rows, shares, first, to_right, to_below, clamped_x == x, clamped_y == y)

    def _by_head(self, *corners: Tensor) -> Tensor:
        """Four of (n, heads·levels·points) → (n·heads, 4·levels·points)."""
        return torch.stack([c.unflatten(1, (self.heads, -1)) for c in corners], dim=2).flatten(2).flatten(0, 1)


def _bordered(values: Tensor, shapes: Sequence[Shape]) -> Tensor:
    """(B, S, heads, d) → (B·S'·heads, d), with a border of zeros around each map."""
    maps = values.flatten(2).split([h * w for h, w in shapes], dim=1)
    bordered = [
        F.pad(level.unflatten(1, shape), (0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for level, shape in zip(maps, shapes, strict=True)
    ]
    return torch.cat(bordered, dim=1).view(-1, values.shape[-1])


def _sum(table: Tensor, points: Points, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    batch = len(weights)
    x, y, weights = (a.reshape(points.total, -1) for a in (x, y, weights))
    sums = []
    for chunk in points.chunks():
        corners = points.corners(x[chunk], y[chunk], weights[chunk], chunk)
        sums.append(F.embedding_bag(corners.rows, table, mode="sum", per_sample_weights=corners.shares))
    return torch.cat(sums).view(batch, points.num_queries, -1)


class _SampleAndSum(torch.autograd.Function):
    """Saves the values, positions and weights; rows and shares, four times as large, are made again in backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, y: Tensor, weights: Tensor, shapes: Sequence[Shape]) -> Tensor:
        table = _bordered(values, shapes)
        ctx.points, ctx.shapes = Points.of(values, shapes, weights), shapes
        ctx.save_for_backward(table, x, y, weights)
        return _sum(table, ctx.points, x, y, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        points: Points = ctx.points
        table, *given = ctx.saved_tensors
        shape = given[0].shape
        x, y, weights = (a.reshape(points.total, -1) for a in given)
        grad = grads[0].reshape(-1, table.shape[1])  # a row for each query and head
        grad_x, grad_y, grad_weights = (torch.empty_like(weights) for _ in range(3))
        firsts, shares = [], []
        for chunk in points.chunks():
            weight = weights[chunk]
            corners = points.corners(x[chunk], y[chunk], weight, chunk)
            grad_chunk = grad[chunk.start * points.heads : chunk.stop * points.heads]
            dots = row_dots(table, corners.rows, grad_chunk).view(len(weight), points.heads, 4, -1)
            upper_left, upper_right, lower_left, lower_right = (d.flatten(1) for d in dots.unbind(2))
            to_right, to_below = corners.to_right, corners.to_below
            across_upper, across_lower = upper_right - upper_left, lower_right - lower_left
            upper = torch.addcmul(upper_left, across_upper, to_right)
            down = torch.addcmul(lower_left, across_lower, to_right) - upper
            across = torch.lerp(across_upper, across_lower, to_below)
            torch.mul(across * weight, corners.inside_x, out=grad_x[chunk])
            torch.mul(down * weight, corners.inside_y, out=grad_y[chunk])
            torch.addcmul(upper, down, to_below, out=grad_weights[chunk])
            firsts.append(corners.first)
            shares.append(corners.shares)
        grad_values = None
        if ctx.needs_input_grad[0]:
            grad_values = _grad_of_values(grad, torch.cat(firsts), torch.cat(shares), points, ctx.shapes)
        return grad_values, grad_x.view(shape), grad_y.view(shape), grad_weights.view(shape), None


def row_dots(table: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
    """`out[n, k] = table[rows[n, k]] · vectors[n]`, (R, d), (N, K) int32, (N, d) → (N, K)."""
    count, width = rows.shape
    if table.device.type != "cpu":
        with torch.enable_grad():
            leaf = torch.zeros_like(rows, dtype=table.dtype).requires_grad_()
            out = F.embedding_bag(rows, table, mode="sum", per_sample_weights=leaf)
        return torch.autograd.grad(out, leaf, vectors)[0]
    ends = torch.arange(0, rows.numel() + 1, width, dtype=rows.dtype)
    with warnings.catch_warnings():  # that sparse tensors are new
        warnings.simplefilter("ignore")
        places = torch.sparse_csr_tensor(
            ends, rows.flatten(), table.new_zeros(rows.numel()), (count, len(table)), check_invariants=False
        )
    return torch.sparse.sampled_addmm(places, vectors, table.t(), beta=0.0).values().view(count, width)


def _grad_of_values(grad: Tensor, first: Tensor, shares: Tensor, points: Points, shapes: Sequence[Shape]) -> Tensor:
    """The sum transposed: one integer sort brings together the points between the same four pixels."""
    batch = points.total // points.num_queries
    ordered, order = first.flatten().sort()
    bags = torch.div(order, first.shape[1] // points.heads, rounding_mode="floor")  # rows of grad
    counts = torch.bincount(ordered, minlength=batch * points.length)
    starts = counts.cumsum(0) - counts
    sums = []
    for share in shares.unflatten(1, (4, -1)).unbind(1):
        share = share.flatten().index_select(0, order)
        sums.append(
            F.embedding_bag(bags, grad, starts, mode="sum", per_sample_weights=share).view(
                batch, -1, points.heads, grad.shape[1]
            )
        )
    levels, start = [], 0
    for height, width in shapes:
        end = start + (height + 2) * (width + 2)
        upper_left, upper_right, lower_left, lower_right = (
            s[:, start:end].unflatten(1, (height + 2, width + 2)) for s in sums
        )
        level = upper_left[:, 1:-1, 1:-1] + upper_right[:, 1:-1, :-2]
        level += lower_left[:, :-2, 1:-1]
        level += lower_right[:, :-2, :-2]
        levels.append(level.flatten(1, 2))
        start = end
    return torch.cat(levels, dim=1)


__all__ = ["DeformableAttention", "sample_and_sum", "sample_grids_and_sum"]
