"""The configuration: labels from the label space, sizes that fit, a round trip through JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from head_tester import TINY_VIT
from transformers import DINOv3ViTConfig

from hf_dinoseg.labels import LabelSpace
from hf_dinoseg.models import DinoSegConfig, DinoSegForSemanticSegmentation, default_out_layers

SPACE = LabelSpace({1: "wall", 5: "sky", 7: "road"}, ignore=(255,), merge={7: 1})


@pytest.mark.parametrize(
    ("depth", "layers"), [(4, [1, 2, 3, 4]), (12, [3, 6, 9, 12]), (24, [5, 12, 18, 24]), (40, [10, 20, 30, 40])]
)
def test_out_layers_follow_the_depth(depth: int, layers: list[int]) -> None:
    assert default_out_layers(depth) == layers


def test_labels_follow_from_the_label_space_and_survive_saving(tmp_path: Path) -> None:
    config = DinoSegConfig(backbone_config=TINY_VIT, label_space=SPACE.to_dict())
    config.save_pretrained(tmp_path)
    for c in (config, DinoSegConfig.from_pretrained(tmp_path)):
        assert c.id2label == {0: "wall", 1: "sky"} == SPACE.id2label
        assert c.label2id == {"wall": 0, "sky": 1}
        assert c.num_labels == 2 and c.ignore_index == 255
        assert LabelSpace.from_dict(c.label_space) == SPACE
        assert c.backbone_config.hidden_size == 32 and c.backbone_config.out_indices == [1, 2, 3, 4]


@pytest.mark.parametrize("contradiction", [{"num_labels": 3}, {"id2label": {0: "a", 1: "b", 2: "c"}}])
def test_labels_that_contradict_the_label_space_are_refused(contradiction: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="asked for 3 labels, but its label space has 2"):
        DinoSegConfig(backbone_config=TINY_VIT, label_space=SPACE.to_dict(), **contradiction)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_dim": 48}, "multiple of 32"),
        ({"hidden_dim": 64, "num_attention_heads": 3}, "num_attention_heads, 3"),
        ({"out_layers": [1, 2, 3]}, "out_layers"),
        ({"out_layers": [4, 3, 2, 1]}, "ascending"),
        ({"out_layers": [1, 2, 3, 5]}, "between 1 and 4"),
        ({"head": "linear", "out_layers": [1, 4]}, "1 or 4"),
        ({"head": "eomt", "attn_mask_probs": [0.5] * 5}, "attn_mask_probs"),
        ({"head": "eomt", "attn_mask_probs": [1.5]}, "0 to 1"),
        ({"backbone_config": {**TINY_VIT, "num_hidden_layers": 3}}, "at least 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DinoSegConfig(**{"backbone_config": TINY_VIT, **fields})


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    DINOv3ViTConfig(**TINY_VIT).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint of 'dinov3_vit', not of 'dinoseg'.*dinoseg convert"):
        DinoSegConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not of 'dinoseg'"):
        DinoSegForSemanticSegmentation.from_pretrained(tmp_path)
