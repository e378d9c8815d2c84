"""Loading over devices and in half precision, as a backbone of billions of parameters needs it."""

from __future__ import annotations

import pytest
import torch

from hf_dinoseg.models import DinoSegForSemanticSegmentation

BACKBONE = {
    "model_type": "dinov3_vit",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SMALL = {
    "num_labels": 4,
    "num_queries": 8,
    "hidden_dim": 32,
    "num_attention_heads": 2,
    "pixel_decoder_layers": 1,
    "pixel_decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_blocks": 2,
}
HEADS = pytest.mark.parametrize("head", ["linear", "eomt", "mask2former", "pmt"])


@pytest.fixture
def saved(tmp_path, head):
    torch.manual_seed(0)
    model = DinoSegForSemanticSegmentation.from_backbone(BACKBONE, head=head, **SMALL).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    return model, tmp_path / "checkpoint"


def maps(outputs):
    return outputs.logits if "logits" in outputs else outputs.masks_queries_logits


@HEADS
@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_bfloat16_by_a_device_map(saved, device_map):
    model, folder = saved
    pixels = torch.randn(2, 3, 64, 96)
    loaded = DinoSegForSemanticSegmentation.from_pretrained(folder, device_map=device_map, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    plain = DinoSegForSemanticSegmentation.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        seen, expected, exact = maps(loaded(pixels)), maps(plain(pixels)), maps(model(pixels))
    assert torch.equal(seen, expected)
    assert torch.corrcoef(torch.stack((seen.flatten().float(), exact.flatten())))[0, 1] > 0.98


@HEADS
@pytest.mark.parametrize("away", ["backbone", "head"])
def test_a_part_that_lies_elsewhere_is_called_and_not_moved(saved, tmp_path, away):
    """A part kept on disk is fetched layer by layer: the same hooks as for a part on another device."""
    model, folder = saved
    where = {"backbone": "cpu", "head": "cpu", away: "disk"}
    loaded = DinoSegForSemanticSegmentation.from_pretrained(
        folder, device_map=where, offload_folder=tmp_path / "offload"
    )
    assert all(parameter.is_meta for parameter in getattr(loaded, away).parameters())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(maps(loaded(pixels)), maps(model(pixels)), rtol=1e-4, atol=1e-4)


@HEADS
def test_automatic_maps_split_between_blocks_and_never_in_a_head(saved):
    from accelerate import infer_auto_device_map

    model, _ = saved
    blocks = set(model._no_split_modules)
    assert {"DINOv3ViTLayer", type(model.head).__name__} <= blocks
    size = {name: sum(4 * p.numel() for p in getattr(model, name).parameters()) for name in ("backbone", "head")}
    room = max(size["head"], 60_000) + size["backbone"] // 2  # accelerate keeps room for the largest piece
    budget = {"cpu": room, "disk": 10**9}
    placed = infer_auto_device_map(model, max_memory=budget, no_split_module_classes=list(blocks))
    assert not any(name.startswith("head.") for name in placed)
    assert len({place for name, place in placed.items() if name.startswith("backbone")}) > 1
    assert not any("layer." in name and not name.split("layer.")[-1].isdigit() for name in placed)


@pytest.mark.parametrize("head", ["linear", "mask2former", "pmt"])
def test_a_backbone_in_half_precision_under_a_head_in_full(head):
    """A frozen backbone needs no float32 weights; its features come to the head's type."""
    torch.manual_seed(0)
    model = DinoSegForSemanticSegmentation.from_backbone(BACKBONE, head=head, **SMALL)
    model.backbone.model.to(torch.bfloat16)
    outputs = model(torch.randn(2, 3, 64, 64))
    assert maps(outputs).dtype == torch.float32
    maps(outputs).mean().backward()
    assert any(parameter.grad is not None for parameter in model.head.parameters())
