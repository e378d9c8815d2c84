import math

import pytest
import torch

from hf_dinoseg import DinoSegTrainer, load_recipe
from hf_dinoseg.builders import build_inference, build_model, build_processor, build_rates, build_training_arguments
from hf_dinoseg.errors import RunError
from hf_dinoseg.training.optimizer import one_cycle_schedule, two_stage_schedule

STEPS, WARMUP, PEAK, SHARE = 20, 5, 1e-3, 0.1  # SHARE: the backbone's rate over the head's


def test_the_backbone_rests_then_warms_up_while_the_head_decays():
    one, two = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [one], "name": "head", "lr": 1.0}, {"params": [two], "name": "backbone_3", "lr": 2.0}]
    optimizer = torch.optim.SGD(groups)
    schedule = two_stage_schedule(optimizer, head_warmup=2, backbone_warmup=4, num_training_steps=10)
    seen = []
    for _ in range(11):
        seen.append(tuple(round(g["lr"], 4) for g in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    # head: (1 - (t - 2) / 8) ** 0.9 from step 2; backbone: 0, 0, then quarters of 2, then 2 (1 - (t - 6) / 4) ** 0.9
    head = [0.0, 0.5, *[round((1 - t / 8) ** 0.9, 4) for t in range(8)], 0.0]
    backbone = [0.0, 0.0, 0.0, 0.5, 1.0, 1.5, *[round(2 * (1 - t / 4) ** 0.9, 4) for t in range(4)], 0.0]
    assert seen == list(zip(head, backbone, strict=True))


def make_trainer(recipe):
    return DinoSegTrainer(
        build_model(recipe),
        build_training_arguments(recipe, eval_strategy="no", load_best_model_at_end=False),
        criterion=None,
        label_space=recipe.labels,
        inference=build_inference(recipe),
        processing_class=build_processor(recipe),
        **build_rates(recipe),
    )


def polynomial(t):
    return t / WARMUP if t < WARMUP else (1 - (t - WARMUP) / (STEPS - WARMUP)) ** 0.9


def cosine(t):
    return t / WARMUP if t < WARMUP else 0.5 * (1 + math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP)))


def one_cycle(t):
    """From 1/25 up to 1 at the last step of the warm-up, then down to 1/250000 at the last step, by half cosines."""

    def between(start, end, share):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    top, last = WARMUP - 1, STEPS - 1
    return between(1 / 25, 1, t / top) if t <= top else between(1, 1 / 25 / 1e4, (t - top) / (last - top))


@pytest.mark.parametrize("expected", [polynomial, cosine, one_cycle], ids=lambda f: f.__name__)
def test_a_schedule_named_in_a_recipe_is_its_formula_for_each_part_and_logged_so(expected, tmp_path, write_tiny_recipe):
    settings = [
        f"training.{name}={value}"
        for name, value in {
            "lr_scheduler_type": expected.__name__,
            "max_steps": STEPS,
            "warmup_steps": WARMUP,
            "learning_rate": PEAK,
        }.items()
    ]
    settings.append(f"model.backbone_learning_rate_multiplier={SHARE}")
    trainer = make_trainer(load_recipe(write_tiny_recipe(tmp_path), settings))
    trainer.create_optimizer_and_scheduler(STEPS)
    for t in range(STEPS):
        rates = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
        assert rates["head"] == rates["head_no_decay"] == pytest.approx(PEAK * expected(t), rel=1e-9)
        assert rates["backbone"] == rates["backbone_no_decay"] == pytest.approx(SHARE * PEAK * expected(t), rel=1e-9)
        trainer.log({"loss": 1.0, "learning_rate": trainer._get_learning_rate()})
        logged = trainer.state.log_history[-1]
        assert (logged["learning_rate"], logged["learning_rate_backbone"]) == (rates["head"], rates["backbone"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    if expected is one_cycle:  # the momentum went from 0.95 to 0.85 and back
        assert trainer.optimizer.param_groups[0]["betas"][0] == pytest.approx(0.95, abs=1e-2)


def test_each_layer_s_rate_is_logged(tmp_path, write_tiny_recipe):
    settings = ["model.tune=llrd", "model.layer_decay=0.5", "training.learning_rate=1"]
    trainer = make_trainer(load_recipe(write_tiny_recipe(tmp_path), [*settings, "training.warmup_steps=0"]))
    trainer.create_optimizer_and_scheduler(10)
    trainer.log({"loss": 1.0, "learning_rate": trainer._get_learning_rate()})
    logged = trainer.state.log_history[-1]
    assert logged["learning_rate"] == 1
    # four blocks: the embedding is depth 0, the last norm depth 5, and from depth to depth the rate halves
    layers = {k: v for k, v in logged.items() if k.startswith("learning_rate_")}
    assert layers == {f"learning_rate_backbone_{depth}": 0.5 ** (5 - depth) for depth in range(6)}


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (1, 2), (0, 3), (2, 3)])
def test_one_cycle_of_a_few_steps(warmup, steps):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = one_cycle_schedule(optimizer, warmup, steps)
    for _ in range(steps):
        optimizer.step()
        schedule.step()


def test_one_cycle_without_momentum_says_what_to_write():
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(RunError, match="cycle_momentum: false"):
        one_cycle_schedule(optimizer, 3, 10)
    one_cycle_schedule(optimizer, 3, 10, cycle_momentum=False)
