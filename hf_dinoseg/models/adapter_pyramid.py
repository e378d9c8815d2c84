"""Simple feature pyramid: strides 4, 8, 16 and 32 from the last layer of a plain ViT.

"Exploring Plain Vision Transformer Backbones for Object Detection", https://arxiv.org/abs/2203.16527. No attention and
no look at the image itself: each stride is the last layer's map, enlarged by transposed convolutions or halved by
max-pooling, then brought to one width. On a ViT-S it has 3.3 million parameters to `VitAdapter`'s 3.7
and takes 0.37 of its forward time (2 images of 512², one CPU thread, fp32).
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import initialization as init

from .adapter_vit import covered_share, resize_covered
from .backbone import BackboneFeatures


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, h, w) maps."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """Pyramid from a ViT's last layer.

    Args:
        dim: the ViT's width.
        out_dim: width of the pyramid's maps.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, dim: int, out_dim: int = 256) -> None:
        super().__init__()
        self.channels = [out_dim] * 4
        self.rescale = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2),
                    ChannelNorm(dim // 2),
                    nn.GELU(),
                    nn.ConvTranspose2d(dim // 2, dim // 4, kernel_size=2, stride=2),
                ),
                nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(kernel_size=2, stride=2),
            ]
        )
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, out_dim, kernel_size=1, bias=False),
                ChannelNorm(out_dim),
                nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
                ChannelNorm(out_dim),
            )
            for width in (dim // 4, dim // 2, dim, dim)
        )

    def init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    init.zeros_(layer.bias)

    def forward(self, pixel_values: Tensor, features: BackboneFeatures) -> list[Tensor]:
        """Four maps (B, out_dim, h, w) at strides 4, 8, 16, 32 of the images, finest first.

        Args:
            pixel_values: (B, 3, H, W), H and W multiples of 32; only their size is used.
            features: the backbone's last layer, of patches of any size.
        """
        height, width = pixel_values.shape[-2:]
        covered = covered_share(pixel_values, features)
        last = features.maps[-1].to(next(self.project.parameters()).dtype)
        # patches of 16 pixels stay as they are; others (DINOv2's 14) are resampled to that stride first
        last = resize_covered(last, (height // 16, width // 16), covered)
        return [project(rescale(last)) for rescale, project in zip(self.rescale, self.project, strict=True)]


__all__ = ["SimplePyramid"]
