"""Linear head: the probe of the DINOv3 paper, batch norm (or group norm) and one 1×1 convolution on patch features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .adapter_vit import resize_covered
from .backbone import Backbone
from .heads import NORM, Head, Setting, register_head
from .norms import map_norm
from .outputs import DinoSegOutput, Frame, crop_to_frame

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig


@register_head("linear")
class LinearHead(Head):
    """Class scores of every patch from the last layer's features, or from several layers' concatenated."""

    title = "A linear head"
    loss = "pixel"
    settings = {
        "norm": NORM,
        "dropout_place": Setting(
            Literal["after_norm", "before_norm"],
            "after_norm",
            "of the linear head: channels are dropped after the norm, or before it as in DINOv3's probes",
        ),
        "classifier_std": Setting(
            float, 0.02, "of the linear head: standard deviation that its convolution starts with", {"gt": 0}
        ),
    }

    @classmethod
    def layers(cls, settings: Mapping[str, Any], depth: int, hierarchical: bool) -> tuple[list[int], tuple[int, ...]]:
        return [depth], (1, 4)

    def __init__(self, config: DinoSegConfig, backbone: Backbone) -> None:
        super().__init__()
        self.pad_multiple = backbone.patch_size
        self.norm = map_norm(config.norm, sum(backbone.channels))
        self.dropout_first = config.dropout_place == "before_norm"
        self.std = config.classifier_std
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(sum(backbone.channels), config.num_labels or 0, kernel_size=1)

    def init_weights(self) -> None:
        if self.std != 0.02:  # what convolutions start with anyhow
            init.normal_(self.classify.weight, std=self.std)

    def forward(
        self, pixel_values: Tensor, frame: Frame, output_auxiliary: bool, *, backbone: Backbone
    ) -> DinoSegOutput:
        """`output_auxiliary` changes nothing: there is one prediction."""
        maps = [level.to(self.classify.weight.dtype) for level in backbone(pixel_values).on(pixel_values.device).maps]
        finest = maps[0].shape[-2:]
        features = torch.cat([resize_covered(level, finest, (1.0, 1.0)) for level in maps], dim=1)
        before, after = (self.dropout, self.norm) if self.dropout_first else (self.norm, self.dropout)
        logits = self.classify(after(before(features)))
        return DinoSegOutput(logits=crop_to_frame(logits.float(), frame))


__all__ = ["LinearHead"]
