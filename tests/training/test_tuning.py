"""Which weights learn under each `tune`, seen from outside: by what one optimiser step changes."""

import math

import pytest
import torch

from hf_dinoseg import DinoSegForSemanticSegmentation, load_recipe
from hf_dinoseg.builders import build_model
from hf_dinoseg.errors import RunError
from hf_dinoseg.training import apply_tuning, parameter_groups
from hf_dinoseg.training.tuning import backbone_blocks, block_depths

VIT = {"model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT |= {"intermediate_size": 64, "num_register_tokens": 2}
CONVNEXT = {"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
DINOV2 = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VITDET = {**DINOV2, "model_type": "vitdet", "image_size": 64, "pretrain_image_size": 64, "patch_size": 16}
HEAD = {"num_queries": 5, "hidden_dim": 32, "num_attention_heads": 2, "pixel_decoder_layers": 1, "decoder_layers": 2}
HEAD |= {"pixel_decoder_ffn_dim": 32, "decoder_ffn_dim": 32}


def _model(backbone, head="mask2former"):
    torch.manual_seed(0)
    labels = {0: "a", 1: "b"}
    return DinoSegForSemanticSegmentation.from_backbone(backbone, head=head, id2label=labels, **HEAD)


def _changed_by_a_step(model):
    """Names of the backbone's parameters that one step of plain descent changes, and whether the head changed."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    outputs = model.train()(torch.randn(1, 3, 64, 64))
    tensors = [outputs.logits] if "logits" in outputs else [outputs.masks_queries_logits]
    sum(t.square().sum() for t in tensors).backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return {n for n in changed if n.startswith("backbone")}, any(n.startswith("head") for n in changed)


@pytest.mark.parametrize("head", ["mask2former", "eomt", "linear", "pmt"])
@pytest.mark.parametrize("tune", ["head", "last_k", "llrd", "lora", "full"])
def test_what_learns(head, tune):
    model = _model(VIT, head)
    apply_tuning(model, tune, last_blocks=2, lora_rank=4)
    backbone, head_changed = _changed_by_a_step(model)
    assert head_changed
    if tune == "head":
        assert not backbone
    elif tune == "lora":
        assert backbone and all("lora_" in name for name in backbone)
    else:
        blocks = {name.split("layer.")[1].split(".")[0] for name in backbone if ".layer." in name}
        assert blocks == ({"2", "3"} if tune == "last_k" else {"0", "1", "2", "3"})
        assert any("embeddings" in name for name in backbone) == (tune != "last_k")
        assert "backbone.model.norm.weight" in backbone


@pytest.mark.parametrize("tune", ["last_k", "lora"])
def test_blocks_of_a_backbone_of_which_transformers_says_nothing(tune):
    model = _model(VITDET, "linear")
    apply_tuning(model, tune, last_blocks=2, lora_rank=4)
    learning = {
        name.split("layer.")[1].split(".")[0] for name, p in model.backbone.named_parameters() if p.requires_grad
    }
    assert learning == ({"2", "3"} if tune == "last_k" else {"0", "1", "2", "3"})


@pytest.mark.parametrize("backbone", [VIT, CONVNEXT, DINOV2, VITDET], ids=lambda c: c["model_type"])
def test_depths_rise_from_the_embedding_to_the_norm(backbone):
    model = _model(backbone, "linear").backbone.model
    depths, top = block_depths(model)
    names = {id(p): n for n, p in model.named_parameters()}
    by_depth = {}
    for key, depth in depths.items():
        by_depth.setdefault(depth, []).append(names[key])
    assert len(backbone_blocks(model)) == top - 1 == (5 if backbone is CONVNEXT else 4)
    norm_at_the_top = 0 if backbone in (CONVNEXT, VITDET) else 1  # of which transformers' backbones have none
    assert set(by_depth) == set(range(top + norm_at_the_top))
    assert len(depths) == len(names)
    if backbone is CONVNEXT:  # what shrinks the map before a stage goes with the stage's first block
        assert any("stages.1.downsample" in n for n in by_depth[2]) and any(
            "stages.1.layers.0" in n for n in by_depth[2]
        )
        assert all("stages.0.downsample" in n for n in by_depth[0])
    else:
        assert all("embeddings" in n for n in by_depth[0])
        assert all(".0." in n for n in by_depth[1]) and all(".3." in n for n in by_depth[4])


def test_layer_decay_gives_each_block_its_rate():
    model = _model(VIT, "linear")
    apply_tuning(model, "llrd")
    groups = parameter_groups(
        model, learning_rate=1.0, weight_decay=0.1, backbone_learning_rate_multiplier=1.0, layer_decay=0.5
    )
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    blocks = backbone_blocks(model.backbone.model)
    # counted by hand: norm at the top learns at 1, the last of four blocks at a half, the embedding at 1/32
    assert math.isclose(rate[id(model.backbone.model.norm.weight)], 1.0)
    for block, expected in zip(blocks, (1 / 16, 1 / 8, 1 / 4, 1 / 2), strict=True):
        assert {rate[id(p)] for p in block.parameters()} == {expected}
    assert rate[id(model.backbone.model.embeddings.cls_token)] == 1 / 32
    assert {rate[id(p)] for p in model.head.parameters()} == {1.0}
    assert {g["weight_decay"] for g in groups if g["name"].endswith("_no_decay")} == {0.0}


def test_more_blocks_than_there_are():
    with pytest.raises(RunError, match="has 4 blocks"):
        apply_tuning(_model(VIT), "last_k", last_blocks=5)


def test_a_backbone_that_cannot_checkpoint_gradients_says_so(tmp_path, write_tiny_recipe):
    path = write_tiny_recipe(tmp_path)
    convnext = "{model_type: dinov3_convnext, hidden_sizes: [8, 16, 24, 32], depths: [1, 1, 1, 1]}"
    asked = ["training.gradient_checkpointing=true"]
    with pytest.raises(RunError, match="gradient_checkpointing: neither .*DINOv3ConvNextBackbone nor head linear"):
        build_model(load_recipe(path, [f"model.backbone={convnext}", "model.head=linear", *asked]))
    build_model(load_recipe(path, [f"model.backbone={convnext}", *asked]))
    build_model(load_recipe(path, ["model.head=linear", *asked]))
