"""EoMT head: queries join the patch tokens in the last blocks of the ViT itself.

"Your ViT is Secretly an Image Segmentation Model", https://arxiv.org/abs/2503.19108. There is no decoder: what queries
are and how masks are read off them is in `query_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .backbone import Backbone
from .heads import NUM_QUERIES, register_head
from .outputs import DinoSegOutput, Frame
from .query_tokens import ATTN_MASK_PROBS, MASK_ANNEALING, QueryTokenHead, annealing_faults

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig


@register_head("eomt")
class EomtHead(QueryTokenHead):
    """Queries for the last blocks of a plain ViT, and what reads masks off them."""

    title = "EoMT"
    citation = """@inproceedings{kerssies2025eomt,
  title     = {Your ViT is Secretly an Image Segmentation Model},
  author    = {Kerssies, Tommie and Cavagnero, Niccol{\\`o} and Hermans, Alexander and Norouzi, Narges and
               Averta, Giuseppe and Leibe, Bastian and Dubbelman, Gijs and de Geus, Daan},
  booktitle = {CVPR},
  year      = {2025}
}"""
    settings = {"num_queries": NUM_QUERIES, "attn_mask_probs": ATTN_MASK_PROBS, "mask_annealing": MASK_ANNEALING}
    fits_frozen_backbone = False  # its queries are read by blocks that have to learn to read them

    @classmethod
    def num_blocks(cls, settings: Mapping[str, Any]) -> int:
        spans = settings.get("mask_annealing")
        return 4 if spans is None else len(spans)

    @classmethod
    def faults(cls, settings: Mapping[str, Any], depth: int | None = None) -> list[str]:
        if faults := annealing_faults(settings.get("mask_annealing"), depth):
            return faults
        probabilities = settings.get("attn_mask_probs")
        if probabilities is None:
            probabilities = [1.0] * cls.num_blocks(settings)
        fits = 1 <= len(probabilities) and (depth is None or len(probabilities) <= depth)
        if not fits or any(not 0 <= p <= 1 for p in probabilities):
            has = "" if depth is None else f", and the backbone has {depth}"
            return [
                f"attn_mask_probs is {list(probabilities)}; it takes one probability, 0 to 1, for each of the last "
                f"blocks that queries join{has}."
            ]
        return []

    @classmethod
    def unused(cls, settings: Mapping[str, Any]) -> list[str]:
        if settings.get("norm") == "group":
            return ["norm: group changes nothing, since the eomt head has layer norms; take it out."]
        return []

    def __init__(self, config: DinoSegConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone.channels[-1])
        backbone.check_token_stream()
        backbone.drop_recorders()
        self.pad_multiple = backbone.patch_size

    def forward(
        self, pixel_values: Tensor, frame: Frame, output_auxiliary: bool, *, backbone: Backbone
    ) -> DinoSegOutput:
        stream = backbone.token_stream(pixel_values)
        first = len(stream.blocks) - len(self.attn_mask_probs)
        tokens = stream.tokens
        with torch.set_grad_enabled(torch.is_grad_enabled() and not backbone.frozen):
            for block in stream.blocks[:first]:
                tokens = block(tokens, **stream.position)
        return self.run(
            tokens,
            stream.blocks[first:],
            stream.norm,
            stream.grid,
            frame,
            output_auxiliary,
            block_options=stream.position,
            # fused kernels take boolean masks; the plain attention adds its mask to the scores
            boolean_masks=backbone.model.config._attn_implementation != "eager",
        )


__all__ = ["EomtHead"]
