"""EoMT head against transformers' EoMT on DINOv3 with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from head_tester import TINY_VIT, HeadTester, assert_gradients_agree, relative_error, tiny_model
from torch import Tensor
from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

from hf_dinoseg.models import BackboneError, DinoSegForSemanticSegmentation


class TestEomtHead(HeadTester):
    fields: dict[str, Any] = {"head": "eomt"}
    stride = 4


class TestAnnealedEomtHead(HeadTester):
    fields: dict[str, Any] = {"head": "eomt", "attn_mask_probs": [0.0] * 4}
    stride = 4


NAMES = [
    ("backbone.model.model.layer.", "layers."),
    ("backbone.model.norm.", "layernorm."),
    ("backbone.model.", ""),
    ("head.queries", "query.weight"),
    ("head.classify.", "class_predictor."),
    ("head.mask_mlp.layers.0.", "mask_head.fc1."),
    ("head.mask_mlp.layers.1.", "mask_head.fc2."),
    ("head.mask_mlp.layers.2.", "mask_head.fc3."),
    ("head.upscale.", "upscale_block.block."),
]
LEAVES = [(".expand.", ".conv1."), (".depthwise.", ".conv2."), (".norm.", ".layernorm2d.")]


def peer_name(name: str) -> str:
    for ours, theirs in NAMES:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    if name.startswith("upscale_block"):
        for ours, theirs in LEAVES:
            name = name.replace(ours, theirs)
    return name


def pair(probabilities: list[float]) -> tuple[DinoSegForSemanticSegmentation, EomtDinov3ForUniversalSegmentation]:
    """Our model and transformers' with the same weights, for 64 × 64 images (its size is fixed)."""
    model = tiny_model(head="eomt", attn_mask_probs=probabilities, freeze_backbone=False)
    vit = {k: v for k, v in TINY_VIT.items() if k != "model_type"}
    config = EomtDinov3Config(
        **vit, image_size=64, num_blocks=len(probabilities), num_queries=6, num_labels=5, layer_norm_eps=1e-5
    )
    peer = EomtDinov3ForUniversalSegmentation(config).eval()
    weights = {peer_name(n): t for n, t in model.state_dict().items() if not n.endswith("mask_token")}
    weights["attn_mask_probs"] = torch.tensor(probabilities)
    report = peer.load_state_dict(weights, strict=False)
    assert report.unexpected_keys == [] and {k for k in report.missing_keys if "criterion" not in k} == set()
    return model, peer


@pytest.mark.parametrize("probabilities", [[1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0]])
def test_outputs_and_gradients_equal_those_of_transformers(probabilities: list[float]) -> None:
    model, peer = pair(probabilities)
    images = torch.randn(2, 3, 64, 64)
    generator = torch.Generator().manual_seed(2)
    results: list[tuple[Tensor, Tensor]] = []
    for network in (model, peer):
        output = network(images)
        results.append((output.class_queries_logits, output.masks_queries_logits))
    for ours, theirs in zip(*results, strict=True):
        assert relative_error(ours, theirs) < 1e-4
    weights = [torch.randn(t.shape, generator=generator) for t in results[0]]
    for result in results:
        torch.stack([(t * w).mean() for t, w in zip(result, weights, strict=True)]).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    wanted = {n: p.grad for n, p in peer.named_parameters() if p.grad is not None}
    assert_gradients_agree({peer_name(n): g for n, g in gradients.items()}, wanted)


def test_masking_matters_and_stops_at_one_half_in_evaluation() -> None:
    image = torch.randn(1, 3, 64, 64)
    model = tiny_model(head="eomt")
    masks = []
    for probability in (1.0, 0.5, 0.49, 0.0):
        model.head.attn_mask_probs = [probability] * 4
        with torch.no_grad():
            masks.append(model(image).masks_queries_logits)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3])
    assert not torch.allclose(masks[0], masks[3], atol=1e-3)


def test_training_masks_a_share_of_the_queries() -> None:
    model = tiny_model(head="eomt", num_queries=1000)
    embedding, features = -torch.ones(1, 1000, 32), torch.ones(1, 32, 16, 16)  # no query covers any patch
    allowed = model.head._allowed(embedding, features, 1000 + 3 + 16, (4, 4), 0.3)
    queries_to_patches = allowed[0, 0, :1000, 1003:]
    assert queries_to_patches.all(dim=1).float().mean() == pytest.approx(0.7, abs=0.05)
    assert not queries_to_patches.any(dim=1).all()
    assert allowed[0, 0, 1000:].all() and allowed[0, 0, :, :1003].all()


def test_the_annealing_state_is_saved_with_the_model(tmp_path: Any) -> None:
    model = tiny_model(head="eomt")
    model.head.attn_mask_probs = [0.0, 0.25, 0.5, 1.0]
    model.save_pretrained(tmp_path)
    assert DinoSegForSemanticSegmentation.from_pretrained(tmp_path).head.attn_mask_probs == [0.0, 0.25, 0.5, 1.0]


def test_eager_attention_gives_the_same(tmp_path: Any) -> None:
    model = tiny_model(head="eomt")
    model.save_pretrained(tmp_path)
    eager = DinoSegForSemanticSegmentation.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.backbone.model.config._attn_implementation == "eager"
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(eager(image).masks_queries_logits, model(image).masks_queries_logits) < 1e-4


def test_a_hierarchical_backbone_is_refused() -> None:
    convnext = {"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    with pytest.raises(BackboneError, match="plain ViT"):
        tiny_model(head="eomt", backbone=convnext)
