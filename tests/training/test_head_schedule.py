"""Mask annealing: the published steps, and a state that follows from the step alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_dinoseg.models import DinoSegConfig, DinoSegForSemanticSegmentation
from hf_dinoseg.models.query_tokens import masking_probabilities
from hf_dinoseg.training import HeadSchedule

#: the steps of the published trainings (configs/ of github.com/tue-mps/eomt) and how many they are in all: epochs times
#: batches of 16. ADE20K and COCO with ViT-L, COCO with ViT-B and with ViT-g, COCO with ViT-S for twice as long,
#: Cityscapes with ViT-L.
PUBLISHED = [
    (31 * 1263, [6520, 13040, 19560, 26080], [13040, 19560, 26080, 32600]),
    (12 * 7392, [14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910]),
    (12 * 7392, [14782, 36955, 59128], [29564, 51737, 73910]),
    (12 * 7392, [14782, 25869, 36955, 48042, 59128], [29564, 40651, 51737, 62824, 73910]),
    (24 * 7392, [29564, 73910, 118256], [59128, 103474, 147820]),
    (107 * 186, [3317, 6634, 9951, 13268], [6634, 9951, 13268, 16585]),
]


@pytest.mark.parametrize(("max_steps", "starts", "ends"), PUBLISHED)
def test_blocks_are_let_off_where_the_published_trainings_let_them_off(
    max_steps: int, starts: list[int], ends: list[int]
) -> None:
    for block, (start, end) in enumerate(zip(starts, ends, strict=True)):
        margin = max_steps // 1000  # the published steps are rounded
        assert masking_probabilities((start - margin) / max_steps, len(starts))[block] == 1.0
        assert masking_probabilities((start + margin) / max_steps, len(starts))[block] < 1.0
        assert masking_probabilities((end - margin) / max_steps, len(starts))[block] > 0.0
        assert masking_probabilities((end + margin) / max_steps, len(starts))[block] == 0.0
        halfway = masking_probabilities((round((start + end) / 2)) / max_steps, len(starts))[block]
        assert halfway == pytest.approx(0.5**0.9, abs=0.005)


def test_pmt_lets_its_blocks_off_where_its_authors_do() -> None:
    """The steps of `pmt_l_512.yaml` (configs/ade20k of github.com/tue-mps/pmt), 16 epochs of 1263 batches; another
    length of training has the same shares."""
    starts, ends = [0, 5384, 7403, 9422, 11442, 13461], [3000, 8749, 10769, 12788, 14807, 16826]
    vit = {"model_type": "dinov3_vit", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    head = DinoSegForSemanticSegmentation(DinoSegConfig(backbone_config=vit, head="pmt", num_labels=2)).head
    assert head.attn_mask_probs == [1.0] * 6
    for steps in (16 * 1263, 900):
        for step in (0, 1500, 3000, 5384, 7000, 10000, 12345, 15000, 16826, 20208):
            head.set_progress(round(step * steps / (16 * 1263)) / steps)
            progress = [min(max((step - start) / (end - start), 0), 1) for start, end in zip(starts, ends, strict=True)]
            # the published steps are those of 20 192, and 900 steps are coarse
            assert head.attn_mask_probs == pytest.approx([(1 - p) ** 0.9 for p in progress], abs=0.015)


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4, 6])
def test_the_blocks_are_let_off_in_their_order_and_all_by_five_sixths(num_blocks: int) -> None:
    rows = [masking_probabilities(step / 1200, num_blocks) for step in range(1201)]
    assert rows[0] == [1.0] * num_blocks
    for row, later in zip(rows, rows[1:], strict=False):
        assert row == sorted(row) and all(after <= before for before, after in zip(row, later, strict=True))
        if num_blocks < 5:
            assert sum(0 < p < 1 for p in row) <= 1
    assert not any(rows[1000])


def test_the_probabilities_are_those_of_the_step_and_in_the_end_of_the_best_checkpoint() -> None:
    vit = {"model_type": "dinov3_vit", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    model = DinoSegForSemanticSegmentation(
        DinoSegConfig(backbone_config=vit | {"intermediate_size": 16}, head="eomt", num_labels=2)
    )
    args: Any = SimpleNamespace(load_best_model_at_end=True)
    state: Any = SimpleNamespace(global_step=60, max_steps=150, best_global_step=60)
    control: Any = None
    callback = HeadSchedule()
    callback.on_train_begin(args, state, control, model=model)
    at_best = list(model.config.attn_mask_probs)
    assert at_best[0] == 0 and 0 < at_best[1] < 1 and at_best[2:] == [1, 1]
    state.global_step = 150
    callback.on_step_end(args, state, control, model=model)
    assert model.config.attn_mask_probs == [0.0] * 4
    callback.on_train_end(args, state, control, model=model)
    assert model.config.attn_mask_probs == at_best
    args.load_best_model_at_end = False
    callback.on_train_end(args, state, control, model=model)
    assert model.config.attn_mask_probs == [0.0] * 4
