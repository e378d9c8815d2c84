"""PMT head against what its authors' code computes for weights that can be made again, and against a plain ViT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from head_tester import TINY_VIT, HeadTester, relative_error, tiny_model
from reference_weights import TINY_BACKBONE, expected_outputs, head_checkpoint
from torch import Tensor
from transformers import DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTLayer

from hf_dinoseg.hub.convert_names import convert_pmt_state_dict
from hf_dinoseg.models import BackboneError, DinoSegConfig, DinoSegForSemanticSegmentation
from hf_dinoseg.models.head_pmt import _rotation


class TestPmtHead(HeadTester):
    fields: dict[str, Any] = {"head": "pmt", "decoder_blocks": 4}
    stride = 4


class TestAnnealedPmtHead(HeadTester):
    fields: dict[str, Any] = {"head": "pmt", "decoder_blocks": 4, "norm": "group", "attn_mask_probs": [0.0] * 4}
    stride = 4


@pytest.fixture(scope="module")
def model() -> DinoSegForSemanticSegmentation:
    fields: dict[str, Any] = {"head": "pmt", "num_queries": 20, "decoder_blocks": 3, "num_labels": 7}
    model = DinoSegForSemanticSegmentation.from_backbone(TINY_BACKBONE, **fields).eval()
    weights = convert_pmt_state_dict(head_checkpoint("pmt"), model.state_dict())
    report = model.load_state_dict(weights, strict=False)
    assert report.unexpected_keys == [] and all(key.startswith("backbone.") for key in report.missing_keys)
    return model


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return expected_outputs("pmt")


@torch.no_grad()
def normed_layers(model: DinoSegForSemanticSegmentation, images: Tensor) -> list[Tensor]:
    """Tokens of every layer through the final norm, from transformers' model with the backbone's weights."""
    vit = DINOv3ViTModel(model.config.backbone_config).eval()
    vit.load_state_dict(model.backbone.model.state_dict())
    return [vit.norm(tokens) for tokens in vit(images, output_hidden_states=True).hidden_states[1:-1]] + [
        vit(images).last_hidden_state
    ]


def test_normed_levels_are_those_of_the_reference(
    model: DinoSegForSemanticSegmentation, expected: dict[str, Tensor]
) -> None:
    layers = normed_layers(model, expected["pixel_values"])
    for layer, level, wanted in zip(layers, model.head.levels, expected["levels_after_norm"], strict=True):
        with torch.no_grad():
            assert relative_error(level.normalise(layer), wanted) < 1e-4


def test_every_prediction_with_masked_attention_is_that_of_the_reference(
    model: DinoSegForSemanticSegmentation, expected: dict[str, Tensor]
) -> None:
    model.head.attn_mask_probs = [1.0] * 3
    with torch.no_grad():
        output = model(expected["pixel_values"], output_auxiliary=True)
    predictions = [*output.auxiliary_predictions, output]
    assert len(predictions) == 4
    for number, prediction in enumerate(predictions):
        masks = prediction["masks_queries_logits"]
        wanted = expected[f"masked{number}_masks"]
        assert relative_error(masks if prediction is output else masks[:, ::5], wanted) < 1e-4
        assert relative_error(prediction["class_queries_logits"], expected[f"masked{number}_logits"]) < 1e-4


def test_the_prediction_without_masked_attention_is_that_of_the_reference(
    model: DinoSegForSemanticSegmentation, expected: dict[str, Tensor]
) -> None:
    model.head.attn_mask_probs = [0.0] * 3
    with torch.no_grad():
        output = model(expected["pixel_values"])
    assert relative_error(output.class_queries_logits, expected["pred_logits"]) < 1e-4
    assert relative_error(output.masks_queries_logits, expected["pred_masks"]) < 1e-4


def test_a_block_computes_what_a_block_of_the_backbone_does() -> None:
    """The same weights in transformers' block: gradients of tokens and weights too, masks and rotary positions on."""
    model = tiny_model(head="pmt", decoder_blocks=1)
    ours, config = model.head.blocks[0], model.config.backbone_config
    config.intermediate_size = config.hidden_size
    peer = DINOv3ViTLayer(config).eval()
    names = {"out_proj": "attention.o_proj", "fc1": "mlp.up_proj", "fc2": "mlp.down_proj"}
    names |= {f"{part}_proj": f"attention.{part}_proj" for part in "qkv"}
    names |= {f"layer_scale{i}": f"layer_scale{i}.lambda1" for i in (1, 2)}
    for name, parameter in ours.named_parameters():
        part, dot, leaf = name.partition(".")
        peer.get_parameter(names.get(part, part) + dot + leaf).data.copy_(parameter.data)
    stream = model.backbone.token_stream(torch.zeros(1, 3, 64, 48))
    tokens = torch.randn(2, 5 + 12, 32)
    allowed = torch.rand(2, 1, 17, 17) > 0.3
    allowed[..., 0] = True
    results = []
    for side in ("ours", "theirs"):
        given = tokens.clone().requires_grad_()
        if side == "ours":
            out = ours(given, _rotation(stream.position, 5, given), allowed)
        else:
            out = peer(given, attention_mask=allowed, **stream.position)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append((out, given.grad))
    for found, wanted in zip(*results, strict=True):
        assert relative_error(found, wanted) < 1e-5
    assert relative_error(ours.q_proj.weight.grad, peer.attention.q_proj.weight.grad) < 1e-4


def test_levels_are_even_quarters_of_the_depth() -> None:
    def layers(depth: int, **fields: Any) -> list[int]:
        vit = {"model_type": "dinov3_vit", "num_hidden_layers": depth}
        return DinoSegConfig(backbone_config=vit, head="pmt", **fields).backbone_config.out_indices

    assert [layers(depth) for depth in (12, 24, 32, 40)] == [
        [3, 6, 9, 12], [6, 12, 18, 24], [8, 16, 24, 32], [10, 20, 30, 40]
    ]  # fmt: skip
    assert layers(12, out_layers=[1, 2, 4, 8]) == [1, 2, 4, 8]
    with pytest.raises(ValueError, match="needs at least 4"):
        layers(3)


def test_the_layers_that_were_asked_for_are_read() -> None:
    vit = {**TINY_VIT, "num_hidden_layers": 6}
    model = tiny_model(backbone=vit, head="pmt", out_layers=[1, 3, 4, 5], decoder_blocks=1)
    seen: list[Tensor] = []
    for level in model.head.levels:
        level.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        model(image)
    every = normed_layers(model, image)
    for found, wanted in zip(seen, [every[0], every[2], every[3], every[4]], strict=True):
        assert relative_error(found, wanted) < 1e-5


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one probability, 0 to 1, for each of the 2 decoder_blocks"):
        tiny_model(head="pmt", decoder_blocks=2, attn_mask_probs=[1.0] * 3)
    with pytest.raises(ValueError, match="decoder_blocks is 0"):
        tiny_model(head="pmt", decoder_blocks=0)


def test_a_hierarchical_backbone_is_refused() -> None:
    convnext = {"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    with pytest.raises(BackboneError, match="plain ViT"):
        tiny_model(head="pmt", backbone=convnext)
