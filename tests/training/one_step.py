"""Run by test_exactness.py in processes of its own: one plain SGD step of a recipe, with what is random held still."""

import sys
from pathlib import Path

import torch
from torch import nn

from hf_dinoseg import builders, load_recipe, run


def same_points_in_every_row(rows: int, *shape: int, device: object = None) -> torch.Tensor:
    drawn = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    return drawn.expand(rows, *shape).to(device)


def still_model(recipe):
    """Batch norm by its running figures: those of a batch depend, rightly, on how the batch is split. In float64:
    products of other shapes round differently, and a rounded bit may turn an attention mask or a chosen point."""
    model = make_model(recipe).double()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "pixel_values": kwargs["pixel_values"].double()}),
        with_kwargs=True,
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return model


def still_criterion(*args):
    criterion = make_criterion(*args)
    criterion.uniform = same_points_in_every_row
    return criterion


class Trainer(builders.DinoSegTrainer):
    def log(self, logs, *args):
        if "loss" in logs and self.is_world_process_zero():
            Path(self.args.output_dir, "loss.txt").write_text(repr(logs["loss"]))
        super().log(logs, *args)


builders.DinoSegTrainer = Trainer
make_model, make_criterion = run.build_model, run.build_criterion
run.build_model, run.build_criterion = still_model, still_criterion
run.train(load_recipe(sys.argv[1], sys.argv[2:]))
