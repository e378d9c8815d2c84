"""Backbone features, freezing, loading from everywhere, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from head_tester import TINY_HEAD, TINY_VIT, assert_gradients_agree, some_loss, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from hf_dinoseg.models import BackboneError, DinoSegConfig, DinoSegForSemanticSegmentation
from hf_dinoseg.models.adapter_vit import resize_covered

DINOV2: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 14,
    "image_size": 56,
}
CONVNEXT: dict[str, Any] = {"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def from_backbone(backbone: Any, **fields: Any) -> DinoSegForSemanticSegmentation:
    return DinoSegForSemanticSegmentation.from_backbone(backbone, **{**TINY_HEAD, **fields}).eval()


def full_vit(**changes: Any) -> DINOv3ViTModel:
    torch.manual_seed(0)
    fields = {k: v for k, v in {**TINY_VIT, **changes}.items() if k != "model_type"}
    return DINOv3ViTModel(DINOv3ViTConfig(**fields)).eval()


@pytest.mark.parametrize("layers", [[1, 2, 3, 4], [1, 2, 4, 5]])
def test_features_are_hidden_states_through_the_final_norm(tmp_path: Path, layers: list[int]) -> None:
    vit = full_vit(num_hidden_layers=layers[-1])
    vit.save_pretrained(tmp_path)
    model = from_backbone(str(tmp_path), out_layers=layers)
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        features = model.backbone(images)
        hidden = vit(images, output_hidden_states=True).hidden_states
        for layer, found in zip(layers, features.maps, strict=True):
            expected = vit.norm(hidden[layer])[:, 3:].transpose(1, 2).unflatten(2, (4, 3))
            assert torch.allclose(found, expected, atol=1e-5)


def test_gradients_of_the_features_are_those_of_the_full_model(tmp_path: Path) -> None:
    vit = full_vit()
    vit.save_pretrained(tmp_path)
    model = from_backbone(str(tmp_path), freeze_backbone=False)
    images = torch.randn(2, 3, 48, 64)
    hidden = vit(images, output_hidden_states=True).hidden_states
    expected = [vit.norm(hidden[layer])[:, 3:].transpose(1, 2).unflatten(2, (3, 4)) for layer in (1, 2, 3, 4)]
    found = model.backbone(images).maps
    for maps in (found, expected):
        generator = torch.Generator().manual_seed(0)
        sum((m * torch.randn(m.shape, generator=generator)).mean() for m in maps).backward()
    wanted = {n: p.grad for n, p in vit.named_parameters() if p.grad is not None}
    mine = {n: p.grad for n, p in model.backbone.model.named_parameters() if p.grad is not None}
    assert "embeddings.patch_embeddings.weight" in wanted
    assert_gradients_agree({name: mine[name] for name in wanted if name in mine}, wanted)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_features_of_an_image_padded_to_whole_patches(registers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    fields = {k: v for k, v in DINOV2.items() if k != "model_type"}
    if registers:
        full: Any = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**fields, num_register_tokens=registers))
    else:
        full = Dinov2Model(Dinov2Config(**fields))
    full.eval().save_pretrained(tmp_path)
    model = from_backbone(str(tmp_path))
    images = torch.randn(2, 3, 50, 37)
    with torch.no_grad():
        features = model.backbone(images)
        hidden = full(nn.functional.pad(images, (0, 5, 0, 6)), output_hidden_states=True).hidden_states
        assert features.extent == (56, 42)
        for layer, found in zip((1, 2, 3, 4), features.maps, strict=True):
            tokens = full.layernorm(hidden[layer])[:, 1 + registers :]
            assert torch.allclose(found, tokens.transpose(1, 2).unflatten(2, (4, 3)), atol=1e-5)


def test_layers_of_a_24_layer_backbone_are_the_published_ones() -> None:
    config = DinoSegConfig(backbone_config={**TINY_VIT, "num_hidden_layers": 24}, num_labels=2)
    assert config.backbone_config.out_indices == [5, 12, 18, 24]


@pytest.mark.parametrize("trainable", [False, True])
def test_freezing_is_one_switch(trainable: bool) -> None:
    model = tiny_model(freeze_backbone=not trainable).train()
    assert model.backbone.model.training is trainable and model.head.training
    assert any(p.requires_grad for p in model.backbone.parameters()) is trainable
    features = model.backbone(torch.randn(1, 3, 32, 32)).maps
    assert all(f.requires_grad is trainable for f in features)
    assert model.train().eval().train().backbone.model.training is trainable


def test_a_loaded_model_is_still_frozen(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    loaded = DinoSegForSemanticSegmentation.from_pretrained(tmp_path)
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    assert all(p.requires_grad for p in loaded.head.parameters())


def test_freezing_can_be_undone() -> None:
    model = tiny_model().train()
    model.backbone.freeze(False)
    some_loss(model(torch.randn(2, 3, 32, 32))).backward()
    assert model.backbone.model.model.layer[0].mlp.up_proj.weight.grad.any()


@pytest.mark.parametrize("backbone", [TINY_VIT, DINOV2, CONVNEXT], ids=lambda c: str(c["model_type"]))
def test_a_backbone_in_half_precision_keeps_its_rotary_frequencies(backbone: dict[str, Any]) -> None:
    """And takes images in any type: a convolution takes its own only."""
    model = from_backbone(backbone, backbone_dtype="bfloat16")
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.backbone.buffers()} <= {torch.float32, torch.int64}
    with torch.no_grad():
        assert model(torch.randn(1, 3, 40, 32)).masks_queries_logits.isfinite().all()
    with pytest.raises(ValueError, match="backbone_dtype is 'int8'; choose"):
        from_backbone(backbone, backbone_dtype="int8")


def test_a_frozen_backbone_computes_in_bf16_under_autocast() -> None:
    model = tiny_model()
    seen = []
    model.backbone.model.model.layer[1].mlp.up_proj.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(1, 3, 32, 32))
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_bf16_runs(dtype: torch.dtype) -> None:
    model = from_backbone(TINY_VIT, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    with torch.no_grad():
        output = model(torch.randn(1, 3, 40, 32))
    assert output.masks_queries_logits.dtype == torch.float32


def test_weights_load_from_a_full_model_and_from_a_backbone_checkpoint(tmp_path: Path) -> None:
    vit = full_vit()
    vit.save_pretrained(tmp_path / "full")
    first = from_backbone(str(tmp_path / "full"))
    first.backbone.model.save_pretrained(tmp_path / "backbone")
    second = from_backbone(str(tmp_path / "backbone"))
    for model in (first, second):
        for name, parameter in vit.named_parameters():
            assert torch.equal(model.backbone.model.get_parameter(name), parameter), name


def test_resuming_with_load_state_dict_restores_the_backbone(tmp_path: Path) -> None:
    """Trainer resumes with a plain `load_state_dict(strict=False)` on the saved file."""
    model = tiny_model(seed=1, freeze_backbone=False)
    model.save_pretrained(tmp_path)
    other = tiny_model(seed=2, freeze_backbone=False)
    report = other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert report.missing_keys == [] and report.unexpected_keys == []
    for name, parameter in model.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter), name


def test_a_checkpoint_without_some_weights_is_refused(tmp_path: Path) -> None:
    full_vit().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="lacks weights of DINOv3ViTBackbone: norm.weight"):
        from_backbone(str(tmp_path))


REGISTERS = {**DINOV2, "model_type": "dinov2_with_registers"}
# ViTs of one scale that are no DINO
BEIT = {**TINY_VIT, "model_type": "beit", "image_size": 64, "use_absolute_position_embeddings": True}
BEIT = {k: v for k, v in BEIT.items() if k not in ("num_register_tokens", "pos_embed_rescale")}
VITDET = {k: v for k, v in DINOV2.items() if k != "image_size"}
VITDET |= {"model_type": "vitdet", "image_size": 64, "pretrain_image_size": 64, "patch_size": 16}
FITTING = [(b, h) for b in (DINOV2, REGISTERS, CONVNEXT) for h in ("mask2former", "linear", "eomt", "pmt")]
FITTING += [(b, h) for b in (BEIT, VITDET) for h in ("mask2former", "linear")]
FITTING = [(b, h) for b, h in FITTING if (b is not CONVNEXT) or h not in ("eomt", "pmt")]  # these need a plain ViT, and
# test_head_eomt.py and test_head_pmt.py see the others refused


@pytest.mark.parametrize("backbone, head", FITTING)
def test_other_backbones_train_at_odd_sizes(backbone: dict[str, Any], head: str) -> None:
    model = tiny_model(backbone=backbone, head=head, freeze_backbone=False, drop_path_rate=0.0).train()
    output = model(torch.randn(2, 3, 37, 50))
    some_loss(output).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert (model.head.adapter is None) is (backbone is CONVNEXT) if head == "mask2former" else True
    if head == "mask2former":
        assert output.masks_queries_logits.shape == (2, 6, 10, 13)


def test_patches_that_reach_past_the_image_stay_aligned_with_the_pyramid() -> None:
    """Patch 14 on 64 × 64: five patches cover 70 pixels. A feature that is its own x coordinate comes out as such."""
    centres = (torch.arange(5.0) + 0.5) * 14
    ramp = centres.expand(1, 1, 5, 5)
    resized = resize_covered(ramp, (8, 8), (64 / 70, 64 / 70))
    expected = ((torch.arange(8.0) + 0.5) * 8).clamp(min=7.0)
    assert torch.allclose(resized[0, 0], expected.expand(8, 8), atol=1e-4)


def test_the_adapter_samples_such_patches_inside_the_image() -> None:
    """Tokens at strides 8, 16, 32 of 64 × 64 pixels look at their own places among five patches over 70 pixels."""
    model = tiny_model(backbone=DINOV2)
    seen: list[torch.Tensor] = []
    model.head.adapter.extractors[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    reference = seen[0] * 70
    assert reference.shape == (64 + 16 + 4, 2)
    expected = torch.tensor([(4.0, 4.0), (12, 4), (60, 60), (8, 8), (48, 48)])  # x, y in pixels
    assert torch.allclose(reference[[0, 1, 63, 64, 83]], expected, atol=1e-4)


def test_dinov2_weights_load_from_a_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    full = Dinov2Model(Dinov2Config(**{k: v for k, v in DINOV2.items() if k != "model_type"}))
    full.save_pretrained(tmp_path)
    model = from_backbone(str(tmp_path))
    assert torch.equal(model.backbone.model.layernorm.weight, full.layernorm.weight)
    assert torch.equal(model.backbone.model.encoder.layer[2].mlp.fc1.weight, full.encoder.layer[2].mlp.fc1.weight)


def test_convnext_weights_load_from_a_folder(tmp_path: Path) -> None:
    full = AutoModel.from_config(from_backbone(CONVNEXT).config.backbone_config)
    full.save_pretrained(tmp_path)
    model = from_backbone(str(tmp_path))
    for name, parameter in model.backbone.model.named_parameters():
        assert torch.equal(parameter, full.get_parameter(name)), name


def test_an_absent_folder_or_id_says_what_to_do() -> None:
    with pytest.raises(BackboneError, match="could not be loaded.*could not be reached.*hf auth login.*local folder"):
        from_backbone("facebook/dinov3-vits16-pretrain-lvd1689m")
    with pytest.raises(BackboneError, match="local folder"):
        from_backbone("./no/such/folder")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("GatedRepoError: 403 Client Error", "accept its licence on https://huggingface.co/facebook/x.*hf auth login"),
        ("ConnectError: no route to host", "could not be reached"),
        ("RepositoryNotFoundError: 404", "Check the spelling"),
    ],
)
def test_the_advice_fits_the_fault(monkeypatch: pytest.MonkeyPatch, error: str, advice: str) -> None:

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(error)

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    with pytest.raises(BackboneError, match=advice):
        from_backbone("facebook/x")


def test_a_model_type_that_is_no_backbone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for backbone in ({"model_type": "gpt2"}, str(tmp_path)):
        with pytest.raises(BackboneError, match="'gpt2' has no backbone"):
            from_backbone(backbone)
    with pytest.raises(BackboneError, match="model_type"):
        from_backbone({"hidden_size": 32})


def test_a_tensor_of_the_wrong_shape_in_the_checkpoint_is_refused(tmp_path: Path) -> None:
    full_vit().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["norm.weight"] = torch.ones(48)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="could not be loaded"):
        from_backbone(str(tmp_path))


def test_loading_leaves_the_pretrained_weights_alone_and_initialises_the_head(tmp_path: Path) -> None:
    vit = full_vit()
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight)
    vit.save_pretrained(tmp_path)
    model = from_backbone(str(tmp_path))
    assert torch.equal(model.backbone.model.norm.weight, vit.norm.weight)
    assert model.head.decoder.query_features.std() > 0.5


def test_a_device_map_keeps_blocks_and_head_whole(tmp_path: Path) -> None:
    model = tiny_model()
    assert {"DINOv3ViTLayer", "Mask2FormerHead"} <= set(model._no_split_modules)
    model.save_pretrained(tmp_path)
    spread = {"backbone": "cpu", "head": "cpu"}
    loaded = DinoSegForSemanticSegmentation.from_pretrained(tmp_path, device_map=spread, dtype=torch.bfloat16)
    with torch.no_grad():
        assert loaded(torch.randn(1, 3, 32, 48)).masks_queries_logits.isfinite().all()
