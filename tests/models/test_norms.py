"""Group norm in place of batch norm, where the configuration says so."""

import pytest
import torch
from torch import nn

from hf_dinoseg import DinoSegConfig, DinoSegForSemanticSegmentation
from hf_dinoseg.models.norms import GroupNorm, map_norm

BACKBONE = {
    "model_type": "dinov3_vit",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SMALL = {"num_queries": 4, "hidden_dim": 32, "num_attention_heads": 2, "pixel_decoder_layers": 1, "decoder_layers": 1}


def norms_of(model):
    kinds = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("head", ["mask2former", "linear"])
def test_every_batch_norm_becomes_a_group_norm_that_does_not_look_at_other_images(head, tmp_path):
    torch.manual_seed(0)
    models = {}
    for norm in ("batch", "group"):
        config = DinoSegConfig(
            backbone_config=BACKBONE, head=head, norm=norm, drop_path_rate=0.0, num_labels=3, **SMALL
        )
        models[norm] = DinoSegForSemanticSegmentation(config)
    batch, group = norms_of(models["batch"]), norms_of(models["group"])
    assert batch.keys() == group.keys() and nn.BatchNorm2d in batch.values()
    assert set(group.values()) == {GroupNorm}
    assert not [name for name in models["group"].state_dict() if "running" in name]

    model = models["group"]
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        alone, together = model.train()(images[:1]), model.train()(images)
        measured = model.eval()(images[:1])
    for key in ("logits", "class_queries_logits", "masks_queries_logits"):
        if (one := getattr(alone, key)) is not None:
            torch.testing.assert_close(getattr(together, key)[:1], one, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(getattr(measured, key), one, atol=1e-4, rtol=1e-4)

    model.save_pretrained(tmp_path)
    again = DinoSegForSemanticSegmentation.from_pretrained(tmp_path)
    assert again.config.norm == "group" and norms_of(again) == group
    with torch.no_grad():
        for found, expected in zip(again(images).values(), model(images).values(), strict=True):
            if torch.is_tensor(expected):
                torch.testing.assert_close(found, expected)


def test_a_group_norm_is_the_formula_and_divides_any_width():
    maps = torch.randn(2, 48, 5, 3)
    norm = map_norm("group", 48)  # 32 does not divide 48: 16 groups of 3
    groups = maps.view(2, 16, -1)
    expected = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(maps), expected.view_as(maps))
    assert map_norm("group", 384).num_groups == 32
    assert map_norm("group", 32)(torch.randn(1, 32, 1, 1)).abs().max() < 1e-3  # a single pixel is its own mean


def test_the_configuration_knows_two_norms():
    assert DinoSegConfig(backbone_config=BACKBONE).norm == "batch"
    with pytest.raises(ValueError, match="norm is 'layer'; choose batch or group"):
        DinoSegConfig(backbone_config=BACKBONE, norm="layer")
