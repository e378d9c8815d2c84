"""Linear head: the probe of the DINOv3 paper, batch norm (or group norm) and one 1×1 convolution on patch features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .adapter_vit import resize_covered
from .backbone import Backbone
from .heads import NORM, Head, register_head
from .norms import map_norm
from .outputs import DinoSegOutput, Frame, crop_to_frame

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig


@register_head("linear")
class LinearHead(Head):
    """Class scores of every patch from the last layer's features, or from several layers' concatenated."""

    title = "A linear head"
    loss = "pixel"
    settings = {"norm": NORM}

    @classmethod
    def layers(cls, settings: Mapping[str, Any], depth: int, hierarchical: bool) -> tuple[list[int], tuple[int, ...]]:
        return [depth], (1, 4)

    def __init__(self, config: DinoSegConfig, backbone: Backbone) -> None:
        super().__init__()
        self.pad_multiple = backbone.patch_size
        self.norm = map_norm(config.norm, sum(backbone.channels))
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(sum(backbone.channels), config.num_labels or 0, kernel_size=1)

    def forward(
        self, pixel_values: Tensor, frame: Frame, output_auxiliary: bool, *, backbone: Backbone
    ) -> DinoSegOutput:
        """`output_auxiliary` changes nothing: there is one prediction."""
        maps = [level.to(self.classify.weight.dtype) for level in backbone(pixel_values).on(pixel_values.device).maps]
        finest = maps[0].shape[-2:]
        features = torch.cat([resize_covered(level, finest, (1.0, 1.0)) for level in maps], dim=1)
        logits = self.classify(self.dropout(self.norm(features)))
        return DinoSegOutput(logits=crop_to_frame(logits.float(), frame))


__all__ = ["LinearHead"]
