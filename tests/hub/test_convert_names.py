"""Published checkpoints: every name finds its place, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hf_dinoseg.hub.convert_names import ConversionError, convert_meta_m2f_state_dict, meta_m2f_key_map
from hf_dinoseg.models import DinoSegForSemanticSegmentation

SHAPES = json.loads((Path(__file__).parent.parent / "reference" / "dinov3_m2f_state_dict_shapes.json").read_text())
BACKBONE = {"model_type": "dinov3_vit", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}


def checkpoint() -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    with torch.device("meta"):
        model = DinoSegForSemanticSegmentation.from_backbone(
            BACKBONE,
            hidden_dim=64,
            num_attention_heads=16,
            pixel_decoder_ffn_dim=4096,
            decoder_ffn_dim=4096,
            num_labels=7,
        )
    return model.state_dict()


def test_every_tensor_of_a_published_head_has_its_own_place(expected: dict[str, Tensor]) -> None:
    names = [name for group in meta_m2f_key_map(list(SHAPES)).values() for name in group]
    assert len(names) == len(set(names))
    assert set(names) == {name for name in expected if name.startswith("head.")}
    convert_meta_m2f_state_dict(checkpoint(), expected)


def test_packed_projections_come_apart_in_order() -> None:
    key = "segmentation_model.1.predictor.transformer_self_attention_layers.2.self_attn.in_proj_weight"
    converted = convert_meta_m2f_state_dict({key: torch.arange(6.0)[:, None]})
    stem = "head.decoder.layers.2.self_attention."
    parts = {part: converted[f"{stem}{part}_proj.weight"].flatten().tolist() for part in "qkv"}
    assert parts == {"q": [0, 1], "k": [2, 3], "v": [4, 5]}


def test_missing_extra_and_misshapen_tensors_are_named(expected: dict[str, Tensor]) -> None:
    weights = checkpoint()
    del weights["segmentation_model.0.level_embed"]
    key = "segmentation_model.1.predictor.class_embed.bias"
    weights[key] = torch.empty(151, device="meta")
    moved = "segmentation_model.1.predictor.transformer_ffn_layers.9.norm.bias"
    weights[moved] = torch.empty(64, device="meta")
    with pytest.raises(ConversionError) as caught:
        convert_meta_m2f_state_dict(weights, expected)
    message = str(caught.value)
    assert "missing: head.adapter.level_embed" in message
    assert f"not in the model: {moved}" in message
    assert f"{key} is [151], the model has [8]" in message


def test_foreign_names_are_refused() -> None:
    with pytest.raises(ConversionError, match="unknown tensors decode_head.conv_seg.weight"):
        meta_m2f_key_map(["decode_head.conv_seg.weight"])
