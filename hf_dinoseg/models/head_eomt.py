"""EoMT head: queries join the patch tokens in the last blocks of the ViT itself.

"Your ViT is Secretly an Image Segmentation Model", https://arxiv.org/abs/2503.19108. There is no decoder: a mask is the
product of a query, through an MLP, and the patch tokens, upscaled four times. While training, queries may attend only
inside the mask they predict, with a probability per block that a schedule brings to zero, so that inference is a plain
ViT with some tokens more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .backbone import Backbone, TokenStream
from .configuration_dinoseg import DinoSegConfig
from .outputs import DinoSegOutput, Frame, MaskMlp, crop_to_frame, mask_logits


class Upscale(nn.Module):
    """Twice the resolution: transposed convolution, GELU, depth-wise 3×3, layer norm over channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.depthwise = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def init_weights(self) -> None:
        for layer in (self.expand, self.depthwise):
            init.kaiming_uniform_(layer.weight, a=math.sqrt(5))

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.depthwise(F.gelu(self.expand(maps)))
        return self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EomtHead(nn.Module):
    """Queries for the last `eomt_blocks` blocks of a plain ViT, and what reads masks off them."""

    def __init__(self, config: DinoSegConfig, backbone: Backbone) -> None:
        super().__init__()
        dim = backbone.channels[-1]
        self.config = config
        backbone.drop_recorders()
        self.pad_multiple = backbone.patch_size
        self.queries = nn.Parameter(torch.zeros(config.num_queries, dim))
        self.classify = nn.Linear(dim, (config.num_labels or 0) + 1)
        self.mask_mlp = MaskMlp(dim, dim, nn.GELU())
        self.upscale = nn.Sequential(Upscale(dim), Upscale(dim))

    def init_weights(self) -> None:
        init.normal_(self.queries)

    @property
    def attn_mask_probs(self) -> list[float]:
        """For each of the last blocks, first to last, the probability that a query is held inside its mask there.

        Kept in the configuration: it is saved with the model, and being plain numbers it costs no look at the device.
        In evaluation a block masks where its probability is one half or more, so that answers do not depend on chance.
        """
        return self.config.attn_mask_probs or []

    @attn_mask_probs.setter
    def attn_mask_probs(self, probabilities: Sequence[float]) -> None:
        self.config.attn_mask_probs = [float(p) for p in probabilities]

    def forward(
        self, pixel_values: Tensor, frame: Frame, output_auxiliary: bool, *, backbone: Backbone
    ) -> DinoSegOutput:
        stream = backbone.token_stream(pixel_values)
        first = len(stream.blocks) - len(self.attn_mask_probs)
        tokens = stream.tokens
        with torch.set_grad_enabled(torch.is_grad_enabled() and not backbone.frozen):
            for block in stream.blocks[:first]:
                tokens = block(tokens, **stream.position)

        tokens = torch.cat((self.queries.to(tokens).expand(tokens.shape[0], -1, -1), tokens), dim=1)
        auxiliary: list[dict[str, Tensor]] = []
        for probability, block in zip(self.attn_mask_probs, stream.blocks[first:], strict=True):
            masked = probability > 0 if self.training else probability >= 0.5
            options: dict[str, Any] = dict(stream.position)
            if masked or output_auxiliary:
                logits, embedding, features = self._read(stream, tokens)
                if output_auxiliary:
                    auxiliary.append(_prediction(logits, embedding, crop_to_frame(features, frame)))
                if masked:
                    share = probability if self.training else 1.0
                    allowed = self._allowed(embedding, features, tokens.shape[1], stream, share)
                    options["attention_mask"] = _for_attention(backbone, allowed, tokens.dtype)
            tokens = block(tokens, **options)

        logits, embedding, features = self._read(stream, tokens)
        final = _prediction(logits, embedding, crop_to_frame(features, frame))
        return DinoSegOutput(**final, auxiliary_predictions=tuple(auxiliary) or None)

    def _read(self, stream: TokenStream, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, Q, C + 1), mask embeddings (B, Q, D) and upscaled patch features (B, D, 4h, 4w)."""
        normed = stream.norm(tokens).to(self.queries)
        num_queries = len(self.queries)
        patches = normed[:, num_queries + stream.num_prefix :].transpose(1, 2).unflatten(2, stream.grid)
        queries = normed[:, :num_queries]
        return self.classify(queries), self.mask_mlp(queries), self.upscale(patches)

    @torch.no_grad()
    def _allowed(
        self, embedding: Tensor, features: Tensor, length: int, stream: TokenStream, probability: float
    ) -> Tensor:
        """(B, 1, L, L) bool: everything may attend to everything, but a query to those patches only that its mask
        covers; a random share 1 - `probability` of the queries is let off."""
        batch, num_queries, _ = embedding.shape
        small = F.interpolate(features, size=stream.grid, mode="bilinear", align_corners=False)
        inside = torch.bmm(embedding.to(small.dtype), small.flatten(2)) > 0
        if probability < 1:
            inside |= torch.rand(batch, num_queries, 1, device=inside.device) > probability
        allowed = inside.new_ones(batch, 1, length, length)
        allowed[:, 0, :num_queries, num_queries + stream.num_prefix :] = inside
        return allowed


def _prediction(logits: Tensor, embedding: Tensor, features: Tensor) -> dict[str, Tensor]:
    return {"class_queries_logits": logits, "masks_queries_logits": mask_logits(embedding, features)}


def _for_attention(backbone: Backbone, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as the backbone's attention takes it: boolean for fused kernels, added to the scores by the plain one."""
    if backbone.model.config._attn_implementation != "eager":
        return allowed
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


__all__ = ["EomtHead"]
