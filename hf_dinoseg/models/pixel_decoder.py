"""Mask2Former's pixel decoder: a deformable encoder over strides 32, 16 and 8, and one step to stride 4."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .adapter_vit import pixel_centres
from .deformable_attention import DeformableAttention, Shape
from .norms import GroupNorm

#: rows of the feed-forward that are handled at once on a processor
CACHED_ROWS = 1024


class DeformableEncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention over all levels, then a feed-forward, each with a residual and a norm after it."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, num_levels: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, num_heads, num_levels)
        self.attention_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)

    def init_weights(self) -> None:
        for layer in (self.fc1, self.fc2):
            init.xavier_uniform_(layer.weight)
            init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: Sequence[Shape]) -> Tensor:
        tokens = self.attention_norm(tokens + self.attention(tokens + position, reference, tokens, shapes))
        rows = tokens.flatten(0, 1)
        update = torch.cat([self._feed_forward(chunk) for chunk in _chunks(rows)])
        return self.ffn_norm((rows + update).view_as(tokens))

    def _feed_forward(self, rows: Tensor) -> Tensor:
        # Of rows without a batch dimension the product is no view, so autograd lets the activation overwrite it.
        return self.fc2(F.relu(self.fc1(rows), inplace=True))


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    """The rows in parts whose hidden activations, and gradients, stay in a processor's cache; elsewhere in one."""
    if rows.device.type == "cpu" and not torch.compiler.is_compiling():
        return rows.split(CACHED_ROWS)
    return [rows]


class PixelDecoder(nn.Module):
    """From a pyramid at strides 4, 8, 16, 32 to mask features at stride 4 and three coarser levels.

    Args:
        channels: widths of the four maps, finest first.
        dim: width of all that comes out, a multiple of 32.
    """

    num_levels = 3

    def __init__(self, channels: Sequence[int], dim: int, num_heads: int, num_layers: int, ffn_dim: int) -> None:
        super().__init__()
        # coarse to fine, as in everything below
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, kernel_size=1), GroupNorm(dim)) for width in channels[:0:-1]
        )
        self.level_embed = nn.Parameter(torch.zeros(self.num_levels, dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, num_heads, ffn_dim, self.num_levels) for _ in range(num_layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], dim, kernel_size=1, bias=False), GroupNorm(dim))
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False), GroupNorm(dim), nn.ReLU(inplace=True)
        )
        self.mask_projection = nn.Conv2d(dim, dim, kernel_size=1)

    def init_weights(self) -> None:
        init.normal_(self.level_embed)
        for part in (*self.inputs, self.lateral, self.output, [self.mask_projection]):
            convolution = part[0]
            init.xavier_uniform_(convolution.weight)
            if convolution.bias is not None:
                init.zeros_(convolution.bias)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Shape]]:
        """Decode.

        Args:
            pyramid: four maps (B, channels, h, w), finest first.

        Returns:
            Mask features (B, dim, h, w) at stride 4; tokens (B, h·w, dim) of strides 32, 16, 8; their (h, w).
        """
        finest, *coarser = pyramid
        maps = [project(level) for project, level in zip(self.inputs, reversed(coarser), strict=True)]
        shapes = [(level.shape[-2], level.shape[-1]) for level in maps]
        position = torch.cat(
            [
                sine_position(shape, level.shape[1], level.device).to(level.dtype) + embed
                for shape, level, embed in zip(shapes, maps, self.level_embed, strict=True)
            ]
        )
        reference = pixel_centres(shapes, (1.0, 1.0), finest.device)
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, shapes)

        levels = list(tokens.split([h * w for h, w in shapes], dim=1))
        stride8 = levels[-1].transpose(1, 2).unflatten(2, shapes[-1]).contiguous()
        lateral = self.lateral(finest)
        lateral += F.interpolate(stride8, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_projection(self.output(lateral)), levels, shapes


def sine_position(shape: Shape, dim: int, device: torch.device) -> Tensor:
    """Sine and cosine of a pixel's row (first half of the channels) and column (second half): (h·w, dim) float32.

    Positions run from near 0 to 2π over the map, frequencies fall geometrically to 1/10000.
    """
    half = dim // 2
    channel = torch.arange(half, device=device)
    frequency = 10000.0 ** (-2.0 * (channel // 2).float() / half)
    codes = []
    for length in shape:
        place = torch.arange(1, length + 1, dtype=torch.float32, device=device) * (2 * math.pi / (length + 1e-6))
        angle = place[:, None] * frequency
        codes.append(torch.where(channel % 2 == 0, angle.sin(), angle.cos()))
    height, width = shape
    rows = codes[0][:, None].expand(height, width, half)
    columns = codes[1][None].expand(height, width, half)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)


__all__ = ["PixelDecoder", "sine_position"]
