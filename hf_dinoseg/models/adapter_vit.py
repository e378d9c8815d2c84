"""ViT-Adapter of the DINOv3 segmentor: a pyramid with strides 4, 8, 16 and 32 from a plain ViT.

A small convolutional branch sees fine detail and gathers what the ViT knows by deformable attention ("Vision
Transformer Adapter for Dense Predictions", https://arxiv.org/abs/2205.08534, here without its injectors: the ViT itself
stays untouched, and may be frozen).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .backbone import BackboneFeatures
from .deformable_attention import DeformableAttention, Shape
from .norms import map_norm


class ConvNormAct(nn.Sequential):
    """3×3 convolution, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str = "batch") -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
            map_norm(norm, out_channels),
            nn.ReLU(inplace=True),
        )


class SpatialPrior(nn.Module):
    """Four maps of width `dim` at strides 4, 8, 16, 32, from the image alone."""

    def __init__(self, dim: int, channels: int = 64, norm: str = "batch") -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormAct(3, channels, stride=2, norm=norm),
            ConvNormAct(channels, channels, stride=1, norm=norm),
            ConvNormAct(channels, channels, stride=1, norm=norm),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        widths = [channels, 2 * channels, 4 * channels, 4 * channels]
        self.down = nn.ModuleList(
            ConvNormAct(finer, coarser, 2, norm) for finer, coarser in zip(widths, widths[1:], strict=False)
        )
        self.project = nn.ModuleList(nn.Conv2d(width, dim, kernel_size=1) for width in widths)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        x = self.stem(pixel_values)
        maps = [self.project[0](x)]
        for down, project in zip(self.down, self.project[1:], strict=True):
            x = down(x)
            maps.append(project(x))
        return maps


class ConvFeedForward(nn.Module):
    """Feed-forward with a depth-wise 3×3 convolution between its layers, level by level."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.depthwise = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1, groups=hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor, shapes: Sequence[Shape]) -> Tensor:
        hidden = self.fc1(tokens)
        levels = hidden.split([h * w for h, w in shapes], dim=1)
        mixed = [
            self.depthwise(level.transpose(1, 2).unflatten(2, shape)).flatten(2).transpose(1, 2)
            for level, shape in zip(levels, shapes, strict=True)
        ]
        return self.fc2(F.gelu(torch.cat(mixed, dim=1)))


class Extractor(GradientCheckpointingLayer):
    """Tokens of the pyramid gather from one layer's patch tokens, then mix among themselves."""

    def __init__(self, dim: int, num_heads: int, drop_path_rate: float) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.query_norm = nn.LayerNorm(dim, eps=1e-6)
        self.patch_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attention = DeformableAttention(dim, num_heads, num_levels=1, value_ratio=0.5)
        self.ffn_norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = ConvFeedForward(dim, dim // 4)

    def forward(
        self, tokens: Tensor, reference: Tensor, patches: Tensor, grid: Shape, shapes: Sequence[Shape]
    ) -> Tensor:
        gathered = self.attention(self.query_norm(tokens), reference, self.patch_norm(patches), [grid])
        tokens = tokens + gathered
        return tokens + drop_path(self.ffn(self.ffn_norm(tokens), shapes), self.drop_path_rate, self.training)


class VitAdapter(nn.Module):
    """Pyramid from an image and four layers of a ViT.

    Args:
        dim: the ViT's width, and that of the pyramid.
        num_heads: heads of the deformable attention.
        drop_path_rate: stochastic depth of the feed-forward branches while training.
        norm: of maps, `batch` or `group`.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, dim: int, num_heads: int = 16, drop_path_rate: float = 0.3, norm: str = "batch") -> None:
        super().__init__()
        self.channels = [dim] * 4
        self.prior = SpatialPrior(dim, norm=norm)
        self.level_embed = nn.Parameter(torch.zeros(3, dim))
        # one per backbone layer, and two more on the last
        self.extractors = nn.ModuleList(Extractor(dim, num_heads, drop_path_rate) for _ in range(6))
        self.up = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.norms = nn.ModuleList(map_norm(norm, dim) for _ in self.strides)

    def init_weights(self) -> None:
        init.normal_(self.level_embed)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)

    def forward(self, pixel_values: Tensor, features: BackboneFeatures) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of 32, and the backbone's features, to maps at strides 4, 8, 16, 32."""
        dtype = self.up.weight.dtype
        finest, *coarser = self.prior(pixel_values.to(dtype))
        shapes = [(level.shape[-2], level.shape[-1]) for level in coarser]
        rows = [
            level.flatten(2).transpose(1, 2) + embed for level, embed in zip(coarser, self.level_embed, strict=True)
        ]
        tokens = torch.cat(rows, dim=1)

        # share of the backbone's maps that the image takes: below one where patches reached past it
        covered = covered_share(pixel_values, features)
        reference = pixel_centres(shapes, covered, tokens.device)
        maps = [level.to(dtype) for level in features.maps]
        layers = [*maps, maps[-1], maps[-1]]
        for extractor, layer in zip(self.extractors, layers, strict=True):
            grid = (layer.shape[-2], layer.shape[-1])
            tokens = extractor(tokens, reference, layer.flatten(2).transpose(1, 2), grid, shapes)

        levels = tokens.split([h * w for h, w in shapes], dim=1)
        coarser = [level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, shapes, strict=True)]
        pyramid = [self.up(coarser[0]) + finest, *coarser]
        return [
            norm(level + resize_covered(layer, level.shape[-2:], covered))
            for norm, level, layer in zip(self.norms, pyramid, maps, strict=True)
        ]


def pixel_centres(shapes: Sequence[Shape], covered: tuple[float, float], device: torch.device) -> Tensor:
    """x and y of every pixel of maps of these shapes, as shares of a frame of which they take `covered` (y, x):
    (S, 2) float32, the maps one after the other."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * (covered[0] / height)
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * (covered[1] / width)
        centres.append(torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).flatten(0, 1))
    return torch.cat(centres)


def covered_share(pixel_values: Tensor, features: BackboneFeatures) -> tuple[float, float]:
    """Share of the height and of the width of the backbone's maps that the image takes."""
    height, width = (
        1.0 if length == extent else length / extent
        for length, extent in zip(pixel_values.shape[-2:], features.extent, strict=True)
    )
    return height, width


def resize_covered(maps: Tensor, shape: Sequence[int], covered: tuple[float, float]) -> Tensor:
    """Bilinear resize of the upper left part of (B, C, h, w) maps, the `covered` share of their height and width.

    With everything covered this is `interpolate(..., align_corners=False)`; otherwise the same rule with the sampling
    points kept inside that part, so that two grids that do not share their right and lower edge stay aligned.
    """
    if covered == (1.0, 1.0):
        if tuple(maps.shape[-2:]) == tuple(shape):
            return maps
        return F.interpolate(maps, size=tuple(shape), mode="bilinear", align_corners=False)
    centres = pixel_centres([(shape[0], shape[1])], covered, maps.device)
    grid = (2 * centres - 1).view(1, shape[0], shape[1], 2).expand(maps.shape[0], -1, -1, -1)
    return F.grid_sample(maps, grid.to(maps.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (https://arxiv.org/abs/1603.09382): drop a residual branch for whole samples."""
    if not training or rate == 0.0:
        return branch
    keep = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= rate
    return branch * (keep / (1.0 - rate)).to(branch.dtype)


__all__ = ["VitAdapter", "covered_share", "resize_covered"]
