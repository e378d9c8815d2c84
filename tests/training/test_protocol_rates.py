"""Which parameter decays, and each part's rate at each step, of every protocol, against formulas written out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hf_dinoseg import DinoSegTrainer
from hf_dinoseg.builders import build_inference, build_model, build_processor, build_rates, build_training_arguments
from hf_dinoseg.recipe import Recipe
from hf_dinoseg.training.optimizer import parameter_groups

BACKBONE = {
    "model_type": "dinov3_vit",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
}
SMALL = {"hidden_dim": 32, "num_attention_heads": 2, "pixel_decoder_ffn_dim": 32, "decoder_ffn_dim": 32}


def trainer_of(name: str, folder: Any, **model: Any) -> DinoSegTrainer:
    recipe = Recipe.from_dict(
        {
            "protocol": name,
            "labels": {"classes": {0: "a", 1: "b"}},
            "data": {"source": "folder", "root": "r"},
            "model": {"backbone": BACKBONE, **(SMALL if "m2f" in name or name == "mask2former" else {}), **model},
            # the precision is left out: there need be no accelerator here
            "training": {"output_dir": str(folder), "fp16": False, "bf16": False, "use_cpu": True},
        }
    )
    return DinoSegTrainer(
        build_model(recipe),
        build_training_arguments(recipe, eval_strategy="no", load_best_model_at_end=False),
        criterion=None,
        label_space=recipe.labels,
        inference=build_inference(recipe),
        processing_class=build_processor(recipe),
        **build_rates(recipe),
    )


def linear(t: int) -> tuple[float, float]:
    """The first two steps share a rate; half a cosine over all 40000, of which the first 1500 rise instead."""
    at = max(0, t - 1)
    if at < 1500:
        return 1e-3 * (1e-6 + (1 - 1e-6) * at / 1500) * (40000 - at) / 40000, 0.0
    return 1e-3 * math.cos(math.pi / 2 * (at + 1) / 40000) ** 2, 0.0  # (1 + cos x) / 2 is the square of cos x/2


def eomt(t: int) -> tuple[float, float]:
    head = t / 2000 if t < 2000 else ((20208 - t) / (20208 - 2000)) ** 0.9
    backbone = 0.0 if t < 2000 else (t - 2000) / 3000 if t < 5000 else ((20208 - t) / (20208 - 5000)) ** 0.9
    return 2e-4 * head, 2e-4 * backbone


def pmt(t: int) -> tuple[float, float]:
    if t < 6000:
        return 2e-4 * t / 6000, 0.0
    return 1e-9 + (2e-4 - 1e-9) * (1 + math.cos(math.pi * (t - 6000) / (20208 - 6000))) / 2, 0.0


def mask2former(t: int) -> tuple[float, float]:
    return 1e-4 * (1 - t / 160000) ** 0.9, 1e-5 * (1 - t / 160000) ** 0.9


@pytest.mark.parametrize(
    ("name", "steps", "every", "rates"),
    [
        ("dinov3_linear", 40000, 1, linear),
        ("eomt_dinov3", 20208, 1, eomt),
        ("pmt_dinov3", 20208, 1, pmt),
        ("mask2former", 160000, 997, mask2former),
    ],
)
def test_rates_of_every_step(
    name: str, steps: int, every: int, rates: Callable[[int], tuple[float, float]], tmp_path: Any
) -> None:
    trainer = trainer_of(name, tmp_path)
    trainer.create_optimizer_and_scheduler(steps)
    groups = {group["name"].removesuffix("_no_decay"): group for group in trainer.optimizer.param_groups}
    assert set(groups) == ({"head", "backbone"} if rates(steps // 2)[1] else {"head"})
    schedule: Any = trainer.lr_scheduler
    factors = dict(zip([g["name"].removesuffix("_no_decay") for g in trainer.optimizer.param_groups],
                       zip(schedule.base_lrs, schedule.lr_lambdas, strict=True), strict=True))  # fmt: skip
    for t in range(0, steps, every):
        head, backbone = rates(t)
        base, factor = factors["head"]
        assert base * factor(t) == pytest.approx(head, rel=1e-9, abs=1e-18), t
        if "backbone" in factors:
            base, factor = factors["backbone"]
            assert base * factor(t) == pytest.approx(backbone, rel=1e-9, abs=1e-18), t
    for t in range(3):  # and what the optimiser has at each step is what the schedule says
        assert groups["head"]["lr"] == pytest.approx(rates(t)[0], rel=1e-9, abs=1e-18)
        trainer.optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", ["dinov3_linear", "eomt_dinov3", "pmt_dinov3"])
def test_everything_that_learns_decays(name: str, tmp_path: Any) -> None:
    trainer = trainer_of(name, tmp_path)
    trainer.create_optimizer()
    groups = trainer.optimizer.param_groups
    learning = [p for p in trainer.model.parameters() if p.requires_grad]
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in learning}
    assert {g["weight_decay"] for g in groups} == {1e-3 if name == "dinov3_linear" else 0.05}
    assert {g["lr"] for g in groups} == {1e-3 if name == "dinov3_linear" else 2e-4} or name == "eomt_dinov3"


def test_norms_and_embeddings_alone_do_not_decay() -> None:
    """What Mask2Former's optimiser leaves out: parameters of norms and embeddings. Biases decay."""
    model = nn.Module()
    model.linear, model.norm = nn.Linear(2, 3), nn.LayerNorm(3)
    model.conv, model.queries = nn.Conv2d(3, 5, 1), nn.Embedding(4, 3)
    model.batch_norm = nn.BatchNorm2d(5)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(
        model, learning_rate=1.0, weight_decay=0.5, backbone_learning_rate_multiplier=1.0, decays="all_but_norms"
    )
    decaying = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    assert decaying == {"linear.weight", "linear.bias", "conv.weight", "conv.bias"}


@pytest.mark.parametrize(
    ("name", "spans"),
    [
        ("eomt_dinov3", [(0, 3000), (6520, 9780), (9780, 13040), (13040, 16300)]),
        ("pmt_dinov3", [(0, 3000), (5384, 8749), (7403, 10769), (9422, 12788), (11442, 14807), (13461, 16826)]),
    ],
)
def test_masks_anneal_step_by_step(name: str, spans: list[tuple[int, int]], tmp_path: Any) -> None:
    head: Any = trainer_of(name, tmp_path).model.head
    assert head.attn_mask_probs == [1.0] * len(spans)
    for t in range(0, 20208, 61):
        head.set_progress(t / 20208)
        expected = []
        for start, end in spans:
            expected.append(1.0 if t < start else 0.0 if t >= end else (1 - (t - start) / (end - start)) ** 0.9)
        assert head.attn_mask_probs == pytest.approx(expected, abs=1e-9), t


def test_the_probe_drops_channels_before_the_norm_and_starts_small(tmp_path: Any) -> None:
    head: Any = trainer_of("dinov3_linear", tmp_path).model.head
    assert head.classify.weight.std().item() == pytest.approx(0.01, rel=0.3)
    usual: Any = trainer_of("dinov3_linear", tmp_path, classifier_std=0.02, dropout_place="after_norm").model.head
    assert usual.classify.weight.std().item() == pytest.approx(0.02, rel=0.3)
    seen: list[str] = []
    for part in ("norm", "dropout"):
        for which, one in (("first", head), ("usual", usual)):
            getattr(one, part).register_forward_hook(lambda *_, name=f"{which} {part}": seen.append(name))
    for one in (head, usual):
        maps = torch.randn(2, 32, 2, 2)
        one.train()(torch.zeros(2, 3, 32, 32), _frame(), False, backbone=_backbone_of(maps))
    assert seen == ["first dropout", "first norm", "usual norm", "usual dropout"]


def _frame() -> Any:
    from hf_dinoseg.models.outputs import Frame

    return Frame(32, 32, 32, 32)


def _backbone_of(maps: torch.Tensor) -> Any:
    class Found:
        def on(self, device: Any) -> Any:
            self.maps = [maps]
            return self

    return lambda pixel_values: Found()
