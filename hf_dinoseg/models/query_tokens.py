"""What EoMT and PMT share: queries that run through a ViT's blocks beside the patch tokens, and what reads masks off.

A mask is the product of a query, through an MLP, and the patch tokens, upscaled four times. While training, queries
may attend only inside the mask they predict, with a probability per block that a schedule brings to zero, so that
inference is plain blocks with some tokens more (https://arxiv.org/abs/2503.19108).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .heads import Head, Setting
from .outputs import DinoSegOutput, Frame, MaskMlp, crop_to_frame, mask_logits

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig

POWER = 0.9  # of the annealing

ATTN_MASK_PROBS = Setting(
    list[float] | None,
    None,
    "for each block that queries run through, the probability that a query attends only inside its mask; a schedule "
    "brings it to zero; null is 1 for eomt's last four blocks, or for all blocks of pmt",
    in_recipe=False,
)


MASK_ANNEALING = Setting(
    list[list[float]] | None,
    None,
    "for each block that queries run through, [from, until]: shares of the training between which its masks are let "
    "go; null spreads them over the training",
)


class Upscale(GradientCheckpointingLayer):
    """Twice the resolution: transposed convolution, GELU, depth-wise 3×3, layer norm over channels.

    The convolution's 2×2 patches do not overlap, so it is a product of matrices for either row of them. Written so, its
    backward pass takes a fraction of the time on a processor, whose kernels for the weights' gradient are slow where
    the channels of a pixel lie together; and they do lie together all the way from tokens to masks.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.depthwise = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def init_weights(self) -> None:
        for layer in (self.expand, self.depthwise):
            init.kaiming_uniform_(layer.weight, a=math.sqrt(5))

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.depthwise(self._expanded(maps))
        return self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _expanded(self, maps: Tensor) -> Tensor:
        """What `F.gelu(self.expand(maps))` is, (B, D, h, w) → (B, D, 2h, 2w)."""
        if self.expand.weight.is_meta:  # on disk or on another device, fetched when the layer itself is called
            return F.gelu(self.expand(maps))
        pixels = maps.permute(0, 2, 3, 1)
        bias = None if self.expand.bias is None else self.expand.bias.repeat(2)
        rows = [
            F.gelu(F.linear(pixels, kernel.permute(2, 1, 0).flatten(0, 1), bias))  # (B, h, w, 2D)
            for kernel in self.expand.weight.unbind(2)
        ]
        doubled = torch.stack(rows, dim=2).flatten(1, 2)  # (B, 2h, w, 2D)
        return doubled.unflatten(-1, (2, -1)).flatten(2, 3).permute(0, 3, 1, 2)


def masking_probabilities(progress: float, num_blocks: int, first: tuple[float, float] = (1 / 6, 1 / 3)) -> list[float]:
    """For each block that queries run through, first to last, the probability that a query is held inside its mask.

    It falls from 1 to 0 over a sixth of training, as (1 - progress) to the power of 0.9: for the first block over the
    share of training that `first` says, for the last from four sixths on, for those between from places evenly spread
    between one sixth and four. So do the published trainings with 3 to 6 blocks (the step lists in the `configs/` of
    https://github.com/tue-mps/eomt and https://github.com/tue-mps/pmt); the last sixth has no masks. A single block,
    which they do not have, is let off in the middle.

    Args:
        progress: share of the whole training that is done, 0 to 1.
        num_blocks: blocks that the queries take part in.
        first: shares of the training where the first block's probability begins to fall, and where it is zero.

    Example:
        >>> [round(p, 3) for p in masking_probabilities(450 / 1200, 4)]
        [0.0, 0.772, 1.0, 1.0]
        >>> masking_probabilities(1000 / 1200, 4)
        [0.0, 0.0, 0.0, 0.0]
    """
    if num_blocks == 1:
        spans = [(2.5 / 6, 3.5 / 6)]
    else:
        starts = [1 / 6 + block / (num_blocks - 1) / 2 for block in range(1, num_blocks)]
        spans = [first, *((start, start + 1 / 6) for start in starts)]
    return annealed(progress, spans)


def annealed(progress: float, spans: Iterable[Sequence[float]]) -> list[float]:
    """For each span of the training the probability that a query is held inside its mask: 1 before, 0 behind it."""
    return [float((1.0 - min(max((progress - start) / (end - start), 0.0), 1.0)) ** POWER) for start, end in spans]


def annealing_faults(spans: Sequence[Sequence[float]] | None, depth: int | None = None) -> list[str]:
    """What is wrong with a `mask_annealing`, in one sentence.

    Args:
        depth: layers of the backbone, where queries run through those.
    """
    if spans is None:
        return []
    if not spans or any(len(span) != 2 or not 0 <= span[0] < span[1] <= 1 for span in spans):
        return [
            f"mask_annealing is {[list(span) for span in spans]}; it takes two shares of the training for each block, "
            "0 to 1, the smaller one first: [[0.0, 0.15], [0.3, 0.5]]."
        ]
    if depth is not None and len(spans) > depth:
        return [f"mask_annealing is of {len(spans)} blocks, and the backbone has {depth}; take some out."]
    return []


class QueryTokenHead(Head):
    """Queries for the blocks of a plain ViT, and what reads masks off them. Subclasses say which blocks.

    Attributes:
        first_let_off: shares of the training between which the first block's masks go; see `masking_probabilities`.
    """

    first_let_off: ClassVar[tuple[float, float]] = (1 / 6, 1 / 3)

    @classmethod
    def num_blocks(cls, settings: Mapping[str, Any]) -> int:
        """How many blocks queries run through where `attn_mask_probs` does not say."""
        raise NotImplementedError

    def __init__(self, config: DinoSegConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.zeros(config.num_queries, dim))
        self.classify = nn.Linear(dim, (config.num_labels or 0) + 1)
        self.mask_mlp = MaskMlp(dim, dim, nn.GELU())
        self.upscale = nn.Sequential(Upscale(dim), Upscale(dim))

    def init_weights(self) -> None:
        init.normal_(self.queries)

    @property
    def attn_mask_probs(self) -> list[float]:
        """For each block, first to last, the probability that a query is held inside its mask there.

        Kept in the configuration: it is saved with the model, and being plain numbers it costs no look at the device.
        In evaluation a block masks where its probability is one half or more, so that answers do not depend on chance.
        """
        given = self.config.attn_mask_probs
        return [1.0] * self.num_blocks(vars(self.config)) if given is None else given

    @attn_mask_probs.setter
    def attn_mask_probs(self, probabilities: Sequence[float]) -> None:
        self.config.attn_mask_probs = [float(p) for p in probabilities]

    def set_progress(self, progress: float) -> None:
        if (spans := self.config.mask_annealing) is not None:
            self.attn_mask_probs = annealed(progress, spans)
        else:
            self.attn_mask_probs = masking_probabilities(progress, len(self.attn_mask_probs), self.first_let_off)

    def run(
        self,
        tokens: Tensor,
        blocks: Iterable[nn.Module],
        norm: nn.Module,
        grid: tuple[int, int],
        frame: Frame,
        output_auxiliary: bool,
        *,
        block_options: Mapping[str, Any],
        boolean_masks: bool = True,
    ) -> DinoSegOutput:
        """Put the queries before the tokens, run them through the blocks and read predictions off.

        Args:
            tokens: (B, prefix + h·w, D), class and register tokens first.
            blocks: as many as `attn_mask_probs`; called with the tokens, `attention_mask` and `block_options`.
            norm: applied before predictions are read off.
            grid: h and w in patches.
            frame: sizes before and after padding.
            output_auxiliary: also predict before every block.
            boolean_masks: whether the blocks' attention takes masks that are true where attention is allowed, rather
                than masks that are added to the scores.
        """
        num_prefix = tokens.shape[1] - grid[0] * grid[1]
        tokens = torch.cat((self.queries.to(tokens).expand(tokens.shape[0], -1, -1), tokens), dim=1)
        auxiliary: list[dict[str, Tensor]] = []
        for probability, block in zip(self.attn_mask_probs, blocks, strict=True):
            masked = probability > 0 if self.training else probability >= 0.5
            options = dict(block_options)
            if masked or output_auxiliary:
                logits, embedding, features = self._read(norm, tokens, num_prefix, grid)
                if output_auxiliary:
                    auxiliary.append(_prediction(logits, embedding, crop_to_frame(features, frame)))
                if masked:
                    share = probability if self.training else 1.0
                    allowed = self._allowed(embedding, features, tokens.shape[1], grid, share)
                    options["attention_mask"] = allowed if boolean_masks else _added(allowed, tokens.dtype)
            tokens = block(tokens, **options)

        logits, embedding, features = self._read(norm, tokens, num_prefix, grid)
        final: dict[str, Any] = _prediction(logits, embedding, crop_to_frame(features, frame))
        return DinoSegOutput(**final, auxiliary_predictions=tuple(auxiliary) or None)

    def _read(
        self, norm: nn.Module, tokens: Tensor, num_prefix: int, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, Q, C + 1), mask embeddings (B, Q, D) and upscaled patch features (B, D, 4h, 4w)."""
        normed = norm(tokens).to(self.queries)
        num_queries = len(self.queries)
        patches = normed[:, num_queries + num_prefix :].transpose(1, 2).unflatten(2, grid)
        queries = normed[:, :num_queries]
        return self.classify(queries), self.mask_mlp(queries), self.upscale(patches)

    @torch.no_grad()
    def _allowed(
        self, embedding: Tensor, features: Tensor, length: int, grid: tuple[int, int], probability: float
    ) -> Tensor:
        """(B, 1, L, L) bool: everything may attend to everything, but a query to those patches only that its mask
        covers; a random share 1 - `probability` of the queries is let off."""
        batch, num_queries, _ = embedding.shape
        small = F.interpolate(features, size=grid, mode="bilinear", align_corners=False)
        inside = torch.bmm(embedding.to(small.dtype), small.flatten(2)) > 0
        if probability < 1:
            inside |= torch.rand(batch, num_queries, 1, device=inside.device) > probability
        allowed = inside.new_ones(batch, 1, length, length)
        allowed[:, 0, :num_queries, length - grid[0] * grid[1] :] = inside
        return allowed


def _prediction(logits: Tensor, embedding: Tensor, features: Tensor) -> dict[str, Tensor]:
    return {"class_queries_logits": logits, "masks_queries_logits": mask_logits(embedding, features)}


def _added(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask that, added to the scores, does what the boolean one does."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


__all__ = ["ATTN_MASK_PROBS", "QueryTokenHead", "masking_probabilities"]
