"""Norms over maps: group norm, and the choice between batch and group norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group norm of 32 groups (fewer where 32 does not divide the channels), as published (arXiv:1803.08494); also for
    a single pixel, where PyTorch's refuses groups of one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.group_norm(maps, self.num_groups, self.weight, self.bias, self.eps)


def map_norm(kind: str, channels: int) -> nn.Module:
    """The norm of (B, `channels`, H, W) maps that `config.norm` names: `batch` or `group`."""
    return GroupNorm(channels) if kind == "group" else nn.BatchNorm2d(channels)


__all__ = ["GroupNorm", "map_norm"]
