import torch
from torch import nn

from hf_dinoseg.training.optimizer import parameter_groups


class _Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.queries = nn.Embedding(4, 3)
        self.level_embed = nn.Parameter(torch.zeros(3, 3))
        self.conv = nn.Conv2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(5)


def _groups(model):
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.05, backbone_learning_rate_multiplier=0.1)
    return {g["name"]: g for g in groups}


def test_each_parameter_stands_in_the_group_that_its_kind_calls_for():
    model = _Toy()
    groups = _groups(model)
    names = {id(p): n for n, p in model.named_parameters()}
    members = {name: sorted(names[id(p)] for p in g["params"]) for name, g in groups.items()}
    assert members == {
        "backbone": ["backbone.0.weight"],
        "backbone_no_decay": ["backbone.0.bias", "backbone.1.bias", "backbone.1.weight"],
        "head": ["conv.weight"],
        "head_no_decay": ["conv.bias", "level_embed", "norm.bias", "norm.weight", "queries.weight"],
    }
    assert {name: (g["lr"], g["weight_decay"]) for name, g in groups.items()} == {
        "backbone": (1e-4, 0.05),
        "backbone_no_decay": (1e-4, 0.0),
        "head": (1e-3, 0.05),
        "head_no_decay": (1e-3, 0.0),
    }


def test_frozen_and_shared_parameters_come_never_and_once():
    model = _Toy()
    model.backbone.requires_grad_(False)
    model.tied = nn.Conv2d(3, 5, 1)
    model.tied.weight = model.conv.weight
    groups = _groups(model)
    assert set(groups) == {"head", "head_no_decay"}
    assert sum(p is model.conv.weight for g in groups.values() for p in g["params"]) == 1
