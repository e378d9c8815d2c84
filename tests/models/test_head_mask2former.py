"""Mask2Former head against transformers' two modules with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from head_tester import HeadTester, assert_gradients_agree, randomize, relative_error, tiny_model
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder, Mask2FormerTransformerModule

from hf_dinoseg.models import DinoSegForSemanticSegmentation
from hf_dinoseg.models.outputs import Frame


class TestMask2FormerHead(HeadTester):
    fields: dict[str, Any] = {"head": "mask2former"}
    stride = 4


class Peer(nn.Module):
    """transformers' pixel decoder, transformer decoder and a classifier, as its Mask2Former puts them together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        config = Mask2FormerConfig(
            feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=48, dim_feedforward=48,
            encoder_layers=2, decoder_layers=5, num_attention_heads=4, num_queries=6,
        )  # fmt: skip
        self.pixel = Mask2FormerPixelDecoder(config, [channels] * 4)
        self.transformer = Mask2FormerTransformerModule(32, config)
        self.classify = nn.Linear(32, 6)

    def forward(self, pyramid: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(class logits, mask logits) of every prediction, the last one final."""
        decoded = self.pixel(pyramid, output_hidden_states=False)
        output = self.transformer(list(decoded.multi_scale_features), decoded.mask_features)
        classes = [self.classify(state.transpose(0, 1)) for state in output.intermediate_hidden_states]
        return list(zip(classes, output.masks_queries_logits, strict=True))


#: our name → the peer's, longest first; what is not listed is called the same
NAMES = [
    ("pixel_decoder.inputs.", "pixel.input_projections."),
    ("pixel_decoder.level_embed", "pixel.level_embed"),
    ("pixel_decoder.layers.", "pixel.encoder.layers."),
    (".attention.", ".self_attn."),
    (".attention_norm.", ".self_attn_layer_norm."),
    (".ffn_norm.", ".final_layer_norm."),
    ("pixel_decoder.lateral.", "pixel.adapter_1."),
    ("pixel_decoder.output.", "pixel.layer_1."),
    ("pixel_decoder.mask_projection.", "pixel.mask_projection."),
    ("decoder.query_features", "transformer.queries_features.weight"),
    ("decoder.query_places", "transformer.queries_embedder.weight"),
    ("decoder.level_embed", "transformer.level_embed.weight"),
    ("decoder.layers.", "transformer.decoder.layers."),
    (".cross_attention.", ".cross_attn."),
    (".cross_norm.", ".cross_attn_layer_norm."),
    (".self_attention.", ".self_attn."),
    (".self_norm.", ".self_attn_layer_norm."),
    ("decoder.norm.", "transformer.decoder.layernorm."),
    ("decoder.mask_mlp.layers.", "transformer.decoder.mask_predictor.mask_embedder."),
    ("decoder.classify.", "classify."),
]


def peer_name(name: str) -> str:
    for ours, theirs in NAMES:
        if name.startswith(ours) or (ours.startswith(".") and ours in name):
            name = name.replace(ours, theirs, 1)
    if ".mask_embedder." in name:
        layer, leaf = name.rsplit(".", 1)
        name = f"{layer}.0.{leaf}"
    return name


def to_peer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights (or gradients) of our head under the peer's names, projections packed where the peer packs them."""
    renamed = {peer_name(name): tensor for name, tensor in tensors.items()}
    for name in [name for name in renamed if ".cross_attn.q_proj." in name]:
        parts = [renamed.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        renamed[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return renamed


@pytest.fixture
def pair() -> tuple[DinoSegForSemanticSegmentation, Peer]:
    model = tiny_model()
    randomize(model.head)
    peer = Peer(32).eval()
    weights = {n: t for n, t in model.head.state_dict().items() if not n.startswith("adapter")}
    peer.load_state_dict(to_peer(weights), strict=True)
    return model, peer


def pyramid(height: int = 64, width: int = 96) -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(2, 32, height // s, width // s, requires_grad=True) for s in (4, 8, 16, 32)]


def test_outputs_equal_those_of_transformers(pair: tuple[DinoSegForSemanticSegmentation, Peer]) -> None:
    model, peer = pair
    with torch.no_grad():
        ours = model.head.decode(pyramid(), Frame(64, 96, 64, 96), output_auxiliary=True)
        theirs = peer(pyramid())
    found = [(a["class_queries_logits"], a["masks_queries_logits"]) for a in ours.auxiliary_predictions]
    found.append((ours.class_queries_logits, ours.masks_queries_logits))
    assert len(found) == len(theirs) == 5
    for (classes, masks), (peer_classes, peer_masks) in zip(found, theirs, strict=True):
        assert relative_error(classes, peer_classes) < 1e-4
        assert relative_error(masks, peer_masks) < 1e-4


def test_gradients_equal_those_of_transformers(pair: tuple[DinoSegForSemanticSegmentation, Peer]) -> None:
    model, peer = pair
    for part in (model.head, peer):
        part.train()
    ours_in, theirs_in = pyramid(), pyramid()
    ours = model.head.decode(ours_in, Frame(64, 96, 64, 96), output_auxiliary=True)
    found = [(a["class_queries_logits"], a["masks_queries_logits"]) for a in ours.auxiliary_predictions]
    found.append((ours.class_queries_logits, ours.masks_queries_logits))
    for predictions in (found, peer(theirs_in)):
        generator = torch.Generator().manual_seed(7)
        total = torch.zeros(())
        for classes, masks in predictions:
            total = total + (classes * torch.randn(classes.shape, generator=generator)).sum()
            total = total + (masks * torch.randn(masks.shape, generator=generator)).mean()
        total.backward()
    for mine, yours in zip(ours_in, theirs_in, strict=True):
        assert relative_error(mine.grad, yours.grad) < 1e-4
    gradients = {n: p.grad for n, p in model.head.named_parameters() if not n.startswith("adapter")}
    assert_gradients_agree(to_peer(gradients), {n: p.grad for n, p in peer.named_parameters()})


def test_a_query_with_an_empty_mask_attends_everywhere() -> None:
    model = tiny_model(decoder_layers=1)
    decoder = model.head.decoder
    features = torch.randn(1, 32, 16, 16)
    levels, shapes = [torch.randn(1, s * s, 32) for s in (2, 4, 8)], [(2, 2), (4, 4), (8, 8)]
    with torch.no_grad():
        decoder.mask_mlp.layers[-1].weight.zero_()
        decoder.mask_mlp.layers[-1].bias.fill_(1.0)
        empty = decoder(-features.abs(), levels, shapes, False)[0]  # every mask logit negative
        full = decoder(features.abs(), levels, shapes, False)[0]  # every one positive
        half = features.abs()
        half[..., :8] *= -1
        partial = decoder(half, levels, shapes, False)[0]
    assert empty.isfinite().all() and torch.allclose(empty, full, atol=1e-6)
    assert not torch.allclose(partial, full, atol=1e-3)


def test_masks_span_the_input_not_its_padding() -> None:
    """Padding by hand and cropping gives the same masks as letting the model pad."""
    model = tiny_model()
    image = torch.randn(1, 3, 40, 52)
    padded = torch.nn.functional.pad(image, (0, 64 - 52, 0, 64 - 40))
    with torch.no_grad():
        found, whole = model(image).masks_queries_logits, model(padded).masks_queries_logits
    assert found.shape[-2:] == (10, 13)
    assert torch.allclose(found, whole[..., :10, :13], atol=1e-4)
