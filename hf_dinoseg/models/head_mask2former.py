"""Mask2Former head: a pixel decoder and a decoder whose queries attend inside the masks they last predicted.

"Masked-attention Mask Transformer for Universal Image Segmentation", https://arxiv.org/abs/2112.01527.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .adapter_pyramid import SimplePyramid
from .adapter_vit import VitAdapter
from .backbone import Backbone
from .bounds import LARGEST
from .deformable_attention import Shape
from .heads import NORM, NUM_QUERIES, Head, Setting, register_head
from .outputs import DinoSegOutput, Frame, MaskMlp, crop_to_frame, mask_logits_of_all
from .pixel_decoder import PixelDecoder, sine_position

if TYPE_CHECKING:
    from .configuration_dinoseg import DinoSegConfig

_SIZE = {"ge": 1, "le": LARGEST}
_DEPTH = {"ge": 1, "le": 256}


def default_out_layers(num_layers: int) -> list[int]:
    """The backbone layers (1-based) that the published DINOv3 segmentor reads.

    Even quarters of the depth, except at 24 layers.

    Example:
        >>> default_out_layers(12)
        [3, 6, 9, 12]
        >>> default_out_layers(24)
        [5, 12, 18, 24]

    Raises:
        ValueError: if there are fewer than four layers, so that four different ones cannot be chosen.
    """
    if num_layers < 4:
        raise ValueError(f"the backbone has {num_layers} layers; features are read from four, so it needs at least 4.")
    if num_layers == 24:
        return [5, 12, 18, 24]
    return [num_layers * quarter // 4 for quarter in (1, 2, 3, 4)]


class Attention(nn.Module):
    """Multi-head attention with separate inputs for queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Q, dim) × (B, S, dim) → (B, Q, dim); `mask` (B, 1, Q, S) bool is true where attention is allowed."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class MaskedDecoderLayer(GradientCheckpointingLayer):
    """Masked cross-attention, self-attention, feed-forward; each with a residual and a norm after it."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.cross_attention = Attention(dim, num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init.xavier_uniform_(module.weight)
                init.zeros_(module.bias)

    def forward(self, queries: Tensor, place: Tensor, memory: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """`place`: learned positions of the queries; `memory`: a level's tokens, `keys`: with their positions."""
        queries = self.cross_norm(queries + self.cross_attention(queries + place, keys, memory, mask))
        placed = queries + place
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        return self.ffn_norm(queries + self.fc2(F.relu(self.fc1(queries))))


class MaskedDecoder(nn.Module):
    """Learned queries, refined layer by layer against one level at a time, coarse to fine and round again."""

    def __init__(
        self, dim: int, num_heads: int, num_layers: int, ffn_dim: int, num_queries: int, num_labels: int
    ) -> None:
        super().__init__()
        self.query_features = nn.Parameter(torch.zeros(num_queries, dim))
        self.query_places = nn.Parameter(torch.zeros(num_queries, dim))
        self.level_embed = nn.Parameter(torch.zeros(PixelDecoder.num_levels, dim))
        self.layers = nn.ModuleList(MaskedDecoderLayer(dim, num_heads, ffn_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, num_labels + 1)
        self.mask_mlp = MaskMlp(dim, dim, nn.ReLU())

    def init_weights(self) -> None:
        for parameter in (self.query_features, self.query_places, self.level_embed):
            init.normal_(parameter)

    def forward(
        self, mask_features: Tensor, levels: Sequence[Tensor], shapes: Sequence[Shape], output_auxiliary: bool
    ) -> tuple[Tensor, Tensor]:
        """Refine the queries.

        Args:
            mask_features: (B, dim, h, w) at stride 4; they decide where a query attends.
            levels: tokens (B, h·w, dim) of strides 32, 16, 8, and their `shapes`.
            output_auxiliary: keep the state before every layer too.

        Returns:
            Class logits (P, B, Q, num_labels + 1) and mask embeddings (P, B, Q, dim) of P predictions, the last one
            final: P is one more than the number of layers with `output_auxiliary`, else 1.
        """
        batch, dim, _, _ = mask_features.shape
        memory = [tokens + embed for tokens, embed in zip(levels, self.level_embed, strict=True)]
        keys = [
            tokens + sine_position(shape, dim, tokens.device).to(tokens.dtype)
            for tokens, shape in zip(memory, shapes, strict=True)
        ]
        with torch.no_grad():
            # A mask is linear in the mask features and resizing is linear, so resizing the features once a level
            # gives the small masks that attention needs without making large ones a layer. Features of a pixel lie
            # together once here, for a processor's resizing would see to that, and undo it, at each of the levels.
            features = mask_features.contiguous(memory_format=torch.channels_last)
            small = [
                F.interpolate(features, size=shape, mode="bilinear", align_corners=False).flatten(2) for shape in shapes
            ]
        queries = self.query_features.expand(batch, -1, -1)
        embeddings: list[Tensor] = []
        logits: list[Tensor] = []

        for index, layer in enumerate(self.layers):
            level = index % len(levels)
            normed = self.norm(queries)
            embedding = self.mask_mlp(normed)
            if output_auxiliary:
                embeddings.append(embedding)
                logits.append(self.classify(normed))
            with torch.no_grad():
                allowed = torch.bmm(embedding.to(small[level].dtype), small[level]) >= 0
                allowed = (allowed | ~allowed.any(dim=-1, keepdim=True)).unsqueeze(1)
            queries = layer(queries, self.query_places, memory[level], keys[level], allowed)

        normed = self.norm(queries)
        embeddings.append(self.mask_mlp(normed))
        logits.append(self.classify(normed))
        return torch.stack(logits), torch.stack(embeddings)


@register_head("mask2former")
class Mask2FormerHead(Head):
    """Pyramid, pixel decoder and masked decoder.

    Images come padded to multiples of `pad_multiple`; predictions cover the frame only.
    """

    title = "Mask2Former"
    citation = """@inproceedings{cheng2022mask2former,
  title     = {Masked-attention Mask Transformer for Universal Image Segmentation},
  author    = {Cheng, Bowen and Misra, Ishan and Schwing, Alexander G. and Kirillov, Alexander and Girdhar, Rohit},
  booktitle = {CVPR},
  year      = {2022}
}"""
    settings = {
        "num_queries": NUM_QUERIES,
        "adapter": Setting(
            Literal["vit_adapter", "pyramid"],
            "vit_adapter",
            "gives mask2former on a plain ViT its finer scales; pyramid is cheaper",
        ),
        "hidden_dim": Setting(int, 256, "width of pixel decoder and transformer decoder", _SIZE),
        "num_attention_heads": Setting(int, 8, "attention heads; divides hidden_dim", _SIZE),
        "pixel_decoder_layers": Setting(int, 6, "deformable encoder layers", _DEPTH),
        "pixel_decoder_ffn_dim": Setting(int, 1024, "width of their feed-forward part", _SIZE),
        "decoder_layers": Setting(int, 9, "masked-attention decoder layers", _DEPTH),
        "decoder_ffn_dim": Setting(int, 2048, "width of their feed-forward part", _SIZE),
        "adapter_attention_heads": Setting(
            int, 16, "heads of the ViT adapter's deformable attention", _SIZE, in_recipe=False
        ),
        "drop_path_rate": Setting(float, 0.3, "share of adapter branches dropped in training", {"ge": 0, "lt": 1}),
        "norm": NORM,
    }
    small = {
        "hidden_dim": 32,
        "num_attention_heads": 2,
        "pixel_decoder_layers": 1,
        "pixel_decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
    }
    pad_multiple = 32

    @classmethod
    def faults(cls, settings: Mapping[str, Any], depth: int | None = None) -> list[str]:
        dim, heads = settings["hidden_dim"], settings["num_attention_heads"]
        if dim % heads:
            return [f"hidden_dim is {dim}; it must be a multiple of num_attention_heads, {heads}."]
        return [f"hidden_dim is {dim}; it must be a multiple of 32 (group norm)."] if dim % 32 else []

    @classmethod
    def unused(cls, settings: Mapping[str, Any]) -> list[str]:
        if settings["norm"] == "group" and settings["adapter"] == "pyramid":
            return ["norm: group changes nothing, since adapter: pyramid has layer norms; take it out."]
        return []

    @classmethod
    def layers(cls, settings: Mapping[str, Any], depth: int, hierarchical: bool) -> tuple[list[int], tuple[int, ...]]:
        if settings["adapter"] == "pyramid" and not hierarchical:
            return [depth], (1,)
        return default_out_layers(depth), (4,)

    def __init__(self, config: DinoSegConfig, backbone: Backbone) -> None:
        super().__init__()
        channels = backbone.channels
        self.adapter: VitAdapter | SimplePyramid | None = None
        if not backbone.hierarchical:
            if config.adapter == "pyramid":
                self.adapter = SimplePyramid(channels[-1])
            else:
                self.adapter = VitAdapter(
                    channels[-1], config.adapter_attention_heads, config.drop_path_rate, config.norm
                )
            channels = self.adapter.channels
        dim, num_heads = config.hidden_dim, config.num_attention_heads
        self.pixel_decoder = PixelDecoder(
            channels, dim, num_heads, config.pixel_decoder_layers, config.pixel_decoder_ffn_dim
        )
        self.decoder = MaskedDecoder(
            dim, num_heads, config.decoder_layers, config.decoder_ffn_dim, config.num_queries, config.num_labels or 0
        )

    def forward(
        self, pixel_values: Tensor, frame: Frame, output_auxiliary: bool, *, backbone: Backbone
    ) -> DinoSegOutput:
        features = backbone(pixel_values).on(pixel_values.device)
        dtype = self.pixel_decoder.level_embed.dtype
        if self.adapter is None:
            pyramid = [level.to(dtype) for level in features.maps]
        else:
            pyramid = self.adapter(pixel_values, features)
        return self.decode(pyramid, frame, output_auxiliary)

    def decode(self, pyramid: Sequence[Tensor], frame: Frame, output_auxiliary: bool) -> DinoSegOutput:
        """Predictions from a pyramid (four maps at strides 4, 8, 16, 32 of the padded image)."""
        mask_features, levels, shapes = self.pixel_decoder(pyramid)
        logits, embeddings = self.decoder(mask_features, levels, shapes, output_auxiliary)
        return predict(logits, embeddings, crop_to_frame(mask_features, frame))


def predict(logits: Tensor, embeddings: Tensor, mask_features: Tensor) -> DinoSegOutput:
    """From what the decoder says of the queries to predictions.

    Args:
        logits: (P, B, Q, C + 1), the last prediction final.
        embeddings: (P, B, Q, D).
        mask_features: (B, D, h, w).
    """
    predictions = [
        {"class_queries_logits": classes, "masks_queries_logits": masks}
        for classes, masks in zip(logits, mask_logits_of_all(embeddings, mask_features), strict=True)
    ]
    return DinoSegOutput(**predictions[-1], auxiliary_predictions=tuple(predictions[:-1]) or None)


__all__ = ["Mask2FormerHead", "default_out_layers"]
