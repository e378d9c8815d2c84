"""EoMT head: queries join the patch tokens in the last blocks of the ViT itself.

"Your ViT is Secretly an Image Segmentation Model", https://arxiv.org/abs/2503.19108. There is no decoder: a mask is the
product of a query, through an MLP, and the patch tokens, upscaled four times. While training, queries may attend only
inside the mask they predict, with a probability per block that a schedule brings to zero, so that inference is a plain
ViT with some tokens more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .backbone import Backbone, TokenStream
from .heads import NUM_QUERIES, Head, Setting, register_head
from .outputs import DinoSegOutput, Frame, MaskMlp, crop_to_frame, mask_logits

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig

POWER = 0.9  # of the annealing
_ALL_MASKED = [1.0] * 4


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


def masking_probabilities(progress: float, num_blocks: int) -> list[float]:
    """For each of the last blocks, first to last, the probability that a query is held inside its mask there.

    It falls from 1 to 0 over a sixth of training, as (1 - progress) to the power of 0.9: for the first block from one
    sixth of training on, for the last from four sixths, for those between from places evenly spread. So do the paper's
    trainings, with 3, 4 and 5 blocks (the step lists in the `configs/` of https://github.com/tue-mps/eomt); the last
    sixth has no masks. A single block, which they do not have, is let off in the middle.

    Args:
        progress: share of the whole training that is done, 0 to 1.
        num_blocks: blocks that the queries take part in.

    Example:
        >>> [round(p, 3) for p in masking_probabilities(450 / 1200, 4)]
        [0.0, 0.772, 1.0, 1.0]
        >>> masking_probabilities(1000 / 1200, 4)
        [0.0, 0.0, 0.0, 0.0]
    """
    sixths = 6 * progress
    starts = [1 + 3 * block / (num_blocks - 1) for block in range(num_blocks)] if num_blocks > 1 else [2.5]
    return [(1.0 - min(max(sixths - start, 0.0), 1.0)) ** POWER for start in starts]


@register_head("eomt")
class EomtHead(Head):
    """Queries for the last blocks of a plain ViT, and what reads masks off them."""

    title = "EoMT"
    citation = """@inproceedings{kerssies2025eomt,
  title     = {Your ViT is Secretly an Image Segmentation Model},
  author    = {Kerssies, Tommie and Cavagnero, Niccol{\\`o} and Hermans, Alexander and Norouzi, Narges and
               Averta, Giuseppe and Leibe, Bastian and Dubbelman, Gijs and de Geus, Daan},
  booktitle = {CVPR},
  year      = {2025}
}"""
    settings = {
        "num_queries": NUM_QUERIES,
        "attn_mask_probs": Setting(
            list[float] | None,
            None,
            "for each of the last backbone blocks that queries join, the probability that a query attends only inside "
            "its mask; a schedule brings it to zero; null is 1 for the last four blocks",
            in_recipe=False,
        ),
    }
    fits_frozen_backbone = False  # its queries are read by blocks that have to learn to read them

    @classmethod
    def faults(cls, settings: Mapping[str, Any], depth: int | None = None) -> list[str]:
        probabilities = settings.get("attn_mask_probs")
        if probabilities is None:
            probabilities = _ALL_MASKED
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
        super().__init__()
        dim = backbone.channels[-1]
        self.config = config
        backbone.check_token_stream()
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
        given = self.config.attn_mask_probs
        return list(_ALL_MASKED) if given is None else given

    @attn_mask_probs.setter
    def attn_mask_probs(self, probabilities: Sequence[float]) -> None:
        self.config.attn_mask_probs = [float(p) for p in probabilities]

    def set_progress(self, progress: float) -> None:
        self.attn_mask_probs = masking_probabilities(progress, len(self.attn_mask_probs))

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
