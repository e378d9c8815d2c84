"""PMT head: a decoder of plain transformer blocks for a backbone that rests.

"PMT: Plain Mask Transformer" (https://arxiv.org/abs/2603.25398). Tokens of four layers, class and register tokens too,
are normed, adapted by a small MLP each, and summed up. Queries join the sum and run with it through blocks of their
own, so that the backbone can stay as it is; what queries are and how masks are read off them is in `query_tokens`, as
for EoMT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .backbone import Backbone
from .heads import NORM, NUM_QUERIES, Setting, register_head
from .norms import GroupNorm, map_norm
from .outputs import DinoSegOutput, Frame
from .query_tokens import ATTN_MASK_PROBS, MASK_ANNEALING, QueryTokenHead, annealing_faults

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig

#: Cosines and sines of rotary positions, each (1, 1, L, head width); None where the backbone has none.
Rotation = tuple[Tensor, Tensor] | None


class PmtLevel(nn.Module):
    """One layer's tokens, made ready for the sum: a norm, a residual MLP half as wide, a scale of each channel."""

    def __init__(self, dim: int, norm: str) -> None:
        super().__init__()
        self.norm = map_norm(norm, dim)
        self.down = nn.Linear(dim, dim // 2)
        self.up = nn.Linear(dim // 2, dim)
        self.scale = nn.Parameter(torch.ones(dim))

    def init_weights(self) -> None:
        init.ones_(self.scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        normed = self.normalise(tokens)
        return (normed + self.up(F.gelu(self.down(normed)))) * self.scale

    def normalise(self, tokens: Tensor) -> Tensor:
        """The norm's share of `forward`."""
        if isinstance(self.norm, GroupNorm):  # over all tokens of an image, as over a map of one row
            return self.norm(tokens.transpose(1, 2).unsqueeze(2).contiguous()).squeeze(2).transpose(1, 2).contiguous()
        return self.norm(tokens.flatten(0, 1)[..., None, None]).view_as(tokens)  # each token is a map of one pixel


class PmtBlock(GradientCheckpointingLayer):
    """Self-attention and an MLP, each with a norm before it and a scale of each channel after it."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.layer_scale1 = nn.Parameter(torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim)
        self.fc2 = nn.Linear(dim, dim)
        self.layer_scale2 = nn.Parameter(torch.ones(dim))

    def init_weights(self) -> None:
        init.ones_(self.layer_scale1)
        init.ones_(self.layer_scale2)

    def forward(self, tokens: Tensor, rotation: Rotation, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L, D) → (B, L, D); `attention_mask` (B, 1, L, L) bool is true where attention is allowed."""
        normed = self.norm1(tokens)
        q, k, v = (
            projection(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotated(q, rotation), _rotated(k, rotation)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        tokens = tokens + self.layer_scale1 * self.out_proj(mixed.transpose(1, 2).flatten(2))
        return tokens + self.layer_scale2 * self.fc2(F.gelu(self.fc1(self.norm2(tokens))))


def _rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """(B, heads, L, head width), its halves turned against each other by the angles of each token."""
    if rotation is None:
        return x
    cos, sin = rotation
    return x * cos.to(x.dtype) + x.roll(x.shape[-1] // 2, dims=-1) * sin.to(x.dtype)


def _rotation(position: Mapping[str, Any], before: int, like: Tensor) -> Rotation:
    """The backbone's rotary positions of its patches, for tokens of which the first `before` are not turned."""
    if "position_embeddings" not in position:
        return None
    cos, sin = (table.to(like) for table in position["position_embeddings"])
    first, second = sin.chunk(2, dim=-1)
    # the half that is rolled to the front is the one that is subtracted
    sin = F.pad(torch.cat((-first, second), dim=-1), (0, 0, before, 0))
    return F.pad(cos, (0, 0, before, 0), value=1.0)[None, None], sin[None, None]


@register_head("pmt")
class PmtHead(QueryTokenHead):
    """Four layers' tokens summed up, blocks of the head's own, and what reads masks off them."""

    title = "PMT"
    citation = """@article{cavagnero2026pmt,
  title   = {{PMT}: Plain Mask Transformer for Image and Video Segmentation with Frozen Vision Encoders},
  author  = {Cavagnero, Niccol{\\`o} and Norouzi, Narges and Dubbelman, Gijs and de Geus, Daan},
  journal = {arXiv preprint arXiv:2603.25398},
  year    = {2026}
}"""
    settings = {
        "num_queries": NUM_QUERIES,
        "decoder_blocks": Setting(int, 6, "blocks of the pmt head's decoder", {"ge": 1, "le": 256}),
        "norm": NORM,
        "attn_mask_probs": ATTN_MASK_PROBS,
        "mask_annealing": MASK_ANNEALING,
    }
    small = {"decoder_blocks": 2}
    # 3000 of the 16 epochs of 1263 batches of the published training on ADE20K, from its first step on
    first_let_off = (0.0, 3000 / (16 * 1263))

    @classmethod
    def num_blocks(cls, settings: Mapping[str, Any]) -> int:
        blocks: int = settings["decoder_blocks"]
        return blocks

    @classmethod
    def faults(cls, settings: Mapping[str, Any], depth: int | None = None) -> list[str]:
        probabilities, blocks = settings.get("attn_mask_probs"), cls.num_blocks(settings)
        spans = settings.get("mask_annealing")
        if faults := annealing_faults(spans):
            return faults
        if spans is not None and len(spans) != blocks:
            return [f"mask_annealing has {len(spans)} pairs; it takes one for each of the {blocks} decoder_blocks."]
        if probabilities is None or (len(probabilities) == blocks and all(0 <= p <= 1 for p in probabilities)):
            return []
        return [
            f"attn_mask_probs is {list(probabilities)}; it takes one probability, 0 to 1, for each of the "
            f"{blocks} decoder_blocks."
        ]

    @classmethod
    def layers(cls, settings: Mapping[str, Any], depth: int, hierarchical: bool) -> tuple[list[int], tuple[int, ...]]:
        if depth < 4:
            raise ValueError(f"the backbone has {depth} layers; features are read from four, so it needs at least 4.")
        return [depth * quarter // 4 for quarter in (1, 2, 3, 4)], (4,)

    def __init__(self, config: DinoSegConfig, backbone: Backbone) -> None:
        backbone.check_token_stream()
        backbone.drop_recorders()
        dim, backbone_config = backbone.channels[-1], backbone.model.config
        super().__init__(config, dim)
        self.pad_multiple = backbone.patch_size
        self.read_layers: Sequence[int] = list(backbone_config.out_indices)
        self.levels = nn.ModuleList(PmtLevel(dim, config.norm) for _ in self.read_layers)
        # as many heads as the backbone; fewer where they do not divide its width, which DINOv2 lets pass
        num_heads = math.gcd(dim, backbone_config.num_attention_heads)
        self.blocks = nn.ModuleList(PmtBlock(dim, num_heads) for _ in range(config.decoder_blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, pixel_values: Tensor, frame: Frame, output_auxiliary: bool, *, backbone: Backbone
    ) -> DinoSegOutput:
        stream = backbone.token_stream(pixel_values)
        tokens, levels = stream.tokens, []
        with torch.set_grad_enabled(torch.is_grad_enabled() and not backbone.frozen):
            for number, block in enumerate(stream.blocks[: self.read_layers[-1]], start=1):
                tokens = block(tokens, **stream.position)
                if number in self.read_layers:
                    levels.append(stream.norm(tokens).to(self.queries))
        summed = self.sum_up(levels)
        before = len(self.queries) + stream.num_prefix
        return self.run(
            summed,
            self.blocks,
            self.norm,
            stream.grid,
            frame,
            output_auxiliary,
            block_options={"rotation": _rotation(stream.position, before, summed)},
        )

    def sum_up(self, levels: Sequence[Tensor]) -> Tensor:
        """What enters the blocks, (B, prefix + h·w, D), from the normed tokens of each layer read."""
        return torch.stack([level(tokens) for level, tokens in zip(self.levels, levels, strict=True)]).sum(dim=0)


__all__ = ["PmtHead"]
