"""A Trainer with a learning rate for each part of the model, and schedules for all of them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .optim import parameter_groups
from .saving import CheckpointingTrainer
from .schedule import one_cycle_schedule, two_stage_schedule


class RatesTrainer(CheckpointingTrainer):
    """As `CheckpointingTrainer`, with `optim.parameter_groups` and two schedules more than transformers has.

    Args:
        backbone_learning_rate_multiplier: the backbone's learning rate as a share of the head's.
        layer_decay: by which it falls from block to block; see `optim.parameter_groups`.
        backbone_warmup_steps: when given, the backbone rests while the head warms up, and then warms up over so many
            steps; see `schedule.two_stage_schedule`.
        one_cycle: arguments of `schedule.one_cycle_schedule` in place of the schedule that `args` names; None for that.
    """

    def __init__(
        self,
        *args: Any,
        backbone_learning_rate_multiplier: float = 0.1,
        layer_decay: float = 1.0,
        backbone_warmup_steps: int | None = None,
        one_cycle: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone_learning_rate_multiplier = backbone_learning_rate_multiplier
        self.layer_decay = layer_decay
        self.backbone_warmup_steps = backbone_warmup_steps
        self.one_cycle = one_cycle
        self.part_rates: dict[str, float] = {}  # of the last step: learning rates by part of the model, for the log
        super().__init__(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            target: Any = self.model if model is None else model
            optimizer_cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, target)
            groups = parameter_groups(
                target,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                backbone_learning_rate_multiplier=self.backbone_learning_rate_multiplier,
                layer_decay=self.layer_decay,
            )
            self.optimizer_cls_and_kwargs = (optimizer_cls, {**kwargs, "params": groups})
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        optimizer = optimizer or self.optimizer
        while self.is_deepspeed_enabled and (inner := getattr(optimizer, "optimizer", None)) is not None:
            optimizer = inner  # DeepSpeed's own lacks what schedules ask for; they share their groups
        if self.args.get_warmup_steps(num_training_steps) >= num_training_steps:
            self.args.warmup_steps = num_training_steps - 1  # polynomial decay divides by the steps that are left
        if self.lr_scheduler is None and optimizer is not None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            schedule: Any = None
            if self.one_cycle is not None:
                schedule = one_cycle_schedule(optimizer, warmup, num_training_steps, **self.one_cycle)
            elif self.backbone_warmup_steps is not None:
                schedule = two_stage_schedule(optimizer, warmup, self.backbone_warmup_steps, num_training_steps)
            self.lr_scheduler, self._created_lr_scheduler = schedule, schedule is not None
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_learning_rate(self) -> float:
        """The head's rate; those of all parts are kept for the log."""
        rate: float = super()._get_learning_rate()
        if self.optimizer is None or self.is_deepspeed_enabled:
            return rate
        rates = [(group.get("name", ""), group["lr"]) for group in self.optimizer.param_groups]
        self.part_rates = {name.removesuffix("_no_decay"): float(lr) for name, lr in rates if name}
        return self.part_rates.get("head", rate)
