"""Linear head: the probe of the DINOv3 paper, batch norm (or group norm) and one 1×1 convolution on patch features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .adapter import resize_covered
from .backbone import Backbone
from .configuration_dinoseg import DinoSegConfig
from .norms import map_norm
from .outputs import DinoSegOutput, Frame, crop_to_frame


class LinearHead(nn.Module):
    """Class scores of every patch from the last layer's features, or from several layers' concatenated."""

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
