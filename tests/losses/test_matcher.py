from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher

from hf_dinoseg.models import loss_matcher as module
from hf_dinoseg.models.loss_matcher import Matcher, mask_costs, solve
from hf_dinoseg.models.loss_points import corner_codes


def match(batch, uniform=torch.rand, points=112):
    codes = torch.cat([corner_codes(mask) for mask in batch.mask_labels])
    classes = torch.stack(batch.classes).detach()
    return Matcher(2.0, 5.0, 5.0, points)(classes, batch.masks, codes, batch.class_labels, None, None, uniform)


def test_mask_costs_equal_definitions_in_double_precision():
    torch.manual_seed(0)
    logits, targets = 8 * torch.randn(2, 4, 30), torch.rand(2, 3, 30)
    cross_entropy, dice = mask_costs(logits.clone(), targets)
    p, t = logits.double().sigmoid()[:, :, None], targets.double()[:, None]
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).mean(-1)
    torch.testing.assert_close(cross_entropy.double(), expected, rtol=1e-4, atol=1e-5)
    expected = 1 - (2 * (p * t).sum(-1) + 1) / (p.sum(-1) + t.sum(-1) + 1)
    torch.testing.assert_close(dice.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("queries, counts", [(4, (3, 0, 2)), (2, (4, 1, 0)), (3, (3, 3, 3))])
def test_solutions_cost_as_little_as_the_best_of_all_permutations(queries, counts):
    costs = np.random.default_rng(0).normal(size=(2, 3, queries, max(counts)))
    query, target, nonfinite = solve(costs, counts)
    images = np.repeat(np.arange(3), [min(count, queries) for count in counts])
    assert nonfinite == 0 and query.shape == target.shape == (2, len(images))
    offsets = np.cumsum([0, *counts])
    for layer, image in itertools.product(range(2), range(3)):
        chosen = images == image
        q, t = query[layer, chosen], target[layer, chosen] - offsets[image]
        cost = costs[layer, image, :, : counts[image]]
        assert len(set(q)) == len(set(t)) == min(cost.shape) and list(q) == sorted(q)
        small, large = sorted(cost.shape)
        table = cost if cost.shape[0] <= cost.shape[1] else cost.T
        best = min(table[range(small), list(order)].sum() for order in itertools.permutations(range(large), small))
        assert cost[q, t].sum() == pytest.approx(best)


def test_assignment_equals_transformers_with_the_same_points(make_batch, make_uniform, monkeypatch):
    batch = make_batch((3, 0, 5, 9))
    monkeypatch.setattr(torch, "rand", make_uniform())
    ours = match(batch, make_uniform())
    offsets = np.cumsum([0, 3, 0, 5, 9])
    theirs = Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, 112)
    for layer in range(3):
        masks = [mask.float() for mask in batch.mask_labels]
        indices = theirs(batch.masks[layer], batch.classes[layer], masks, batch.class_labels)
        for image, (query, target) in enumerate(indices):
            here = ours.image == image
            assert torch.equal(ours.query[layer, here], query)
            assert torch.equal(ours.target[layer, here], target + offsets[image])


def test_nonfinite_costs_are_counted_avoided_and_logged_once(make_batch, caplog):
    batch = make_batch((2, 1), queries=4, auxiliary=0)
    with torch.no_grad():
        batch.masks[0][0, 1] = torch.nan
        batch.classes[0][1, 3] = torch.inf
    codes = torch.cat([corner_codes(mask) for mask in batch.mask_labels])
    matcher = Matcher(2.0, 5.0, 5.0, 64)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = matcher(
                batch.classes[0][None].detach(), batch.masks, codes, batch.class_labels, None, None, torch.rand
            )
    # One query for two targets, and one query for one target.
    assert found.nonfinite_costs == 3
    assert 1 not in found.query[0, found.image == 0] and 3 not in found.query[0, found.image == 1]
    assert len(caplog.records) == 1 and "3 of the 12 matching costs" in caplog.text


def test_all_predictions_and_images_take_one_copy_to_the_host(make_batch, monkeypatch):
    calls = []
    to_host = module._to_host
    monkeypatch.setattr(module, "_to_host", lambda costs: calls.append(costs.shape) or to_host(costs))
    match(make_batch((3, 0, 5)))
    assert calls == [(3, 3, 7, 5)]
