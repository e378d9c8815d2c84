"""Void pixels: what lies under them must not matter, and what is left must be exact."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hf_dinoseg.losses import MaskClassificationLoss
from hf_dinoseg.models import loss_mask_classification as module


def block_void(batch, size, cell, share, seed):
    """Random void in blocks of `cell` pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, -(-size[0] // cell), -(-size[1] // cell), generator=generator) < share
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, : size[0], : size[1]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("stride, threshold", [(1, 1.0), (4, 1.0), (4, 0.5)])
def test_what_lies_under_void_changes_neither_loss_nor_gradients(make_batch, seed, share, stride, threshold):
    size = (24, 32)
    batch = make_batch((3, 1, 8), size=size, mask_size=(size[0] // stride, size[1] // stride), seed=seed)
    void_mask = block_void(3, size, 4, share, seed) if stride == 4 else block_void(3, size, 1, share, seed)
    void_mask[2, :8] = True
    loss = MaskClassificationLoss(5, num_points=100, void_query_threshold=threshold)

    torch.manual_seed(seed)
    before = loss(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)
    before_gradients = batch.gradients(before["loss"])
    loss_before = before.pop("loss")
    under = void_mask[:, None, ::stride, ::stride]
    # With the threshold in force the class term sees where masks lie: keep the sign then, change the rest.
    for poison in (50.0, 0.01) if threshold < 1.0 else (50.0, -50.0, torch.inf, torch.nan):
        with torch.no_grad():
            for masks in batch.masks:
                noise = poison * torch.rand_like(masks)
                masks.copy_(torch.where(under, noise if threshold == 1.0 else masks * (noise + 0.01), masks))
        targets = [
            mask ^ (void & (torch.rand(mask.shape) > 0.5))
            for mask, void in zip(batch.mask_labels, void_mask, strict=True)
        ]
        torch.manual_seed(seed)
        after = loss(batch.outputs, targets, batch.class_labels, void_mask)
        after_gradients = batch.gradients(after["loss"])
        assert torch.equal(after.pop("loss"), loss_before)
        assert {key: float(value) for key, value in after.items()} == {k: float(v) for k, v in before.items()}
        assert all(map(torch.equal, before_gradients, after_gradients))
        for gradient in after_gradients[3:]:
            assert not gradient[under.expand_as(gradient)].any()
    assert any(gradient.any() for gradient in before_gradients[3:])


def read(values, void, x, y):
    """Bilinear reading that leaves out void; pixels outside the image are valid zeros."""
    height, width = values.shape
    column, row = x * width - 0.5, y * height - 0.5
    total, weights = 0.0, 0.0
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            weight = (1 - abs(row - r)) * (1 - abs(column - c))
            outside = not (0 <= r < height and 0 <= c < width)
            if outside or not void[r][c]:
                weights += weight
                total += 0.0 if outside else weight * float(values[r][c])
    return total / weights


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("importance", [0.0, 0.75, 1.0])
def test_loss_equals_a_point_by_point_oracle_on_tiny_maps(make_batch, monkeypatch, seed, importance):
    # One query and one target an image: the matching is known.
    batch = make_batch((1, 1), queries=1, size=(5, 4), mask_size=(5, 4), auxiliary=0, seed=seed)
    void_mask = block_void(2, (5, 4), 1, 0.5, seed)
    assert not void_mask.flatten(1).all(1).any()
    drawn = []

    def recording(*args, **kwargs):
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    draw = module.draw_uncertain_points
    monkeypatch.setattr(module, "draw_uncertain_points", recording)
    loss = MaskClassificationLoss(5, num_points=24, importance_sample_ratio=importance)
    result = loss(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)

    cross_entropy = dice = 0.0
    for image, points in enumerate(drawn[0].tolist()):
        void = void_mask[image].tolist()
        # A point may sit on the very edge of a valid pixel.
        assert all(not void[min(int(y * 5 - 1e-6), 4)][min(int(x * 4 - 1e-6), 3)] for x, y in points)
        x = [read(batch.masks[0].detach()[image, 0], void, *point) for point in points]
        t = [read(batch.mask_labels[image][0], void, *point) for point in points]
        p = [1 / (1 + math.exp(-value)) for value in x]
        cross_entropy += sum(-b * math.log(a) - (1 - b) * math.log(1 - a) for a, b in zip(p, t, strict=True)) / 24
        overlap = sum(a * b for a, b in zip(p, t, strict=True))
        dice += 1 - (2 * overlap + 1) / (sum(p) + sum(t) + 1)
    assert float(result["loss_mask"]) == pytest.approx(cross_entropy / 2, abs=2e-5)
    assert float(result["loss_dice"]) == pytest.approx(dice / 2, abs=2e-5)


def test_matching_ignores_what_void_covers(make_batch):
    """Query 0 fits the target where it is known and is wrong under void; query 1 the other way round."""
    batch = make_batch((1,), queries=2, size=(16, 16), mask_size=(16, 16), auxiliary=0)
    truth = torch.zeros(1, 16, 16, dtype=torch.bool)
    truth[:, :, :8] = True
    void_mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    void_mask[:, :12] = True
    good = torch.where(truth[0], 5.0, -5.0)
    with torch.no_grad():
        batch.classes[0].zero_()
        batch.masks[0][0, 0] = torch.where(void_mask[0], -good, good)
        batch.masks[0][0, 1] = torch.where(void_mask[0], good, -good)
    loss = MaskClassificationLoss(5, num_points=64)
    for void, query in ((void_mask, 0), (None, 1)):
        result = loss(batch.outputs, [truth], batch.class_labels, void)
        touched = batch.gradients(result["loss"])[1][0].flatten(1).any(1)
        assert touched.tolist() == [query == 0, query == 1]


def test_all_void_image_adds_nothing(make_batch, make_uniform):
    batch = make_batch((2, 3))
    void_mask = torch.zeros(2, 24, 32, dtype=torch.bool)
    void_mask[1] = True
    loss = MaskClassificationLoss(5, num_points=100, class_weight=0.0)
    loss.uniform = make_uniform()
    counts = torch.tensor([5.0, 10.0])
    both = loss(batch.outputs, batch.mask_labels, batch.class_labels, void_mask, counts)
    gradients = batch.gradients(both["loss"])
    assert all(gradient.isfinite().all() and not gradient[1].any() for gradient in gradients[3:])
    first = make_batch((2, 3))
    for tensors in (first.classes, first.masks):
        tensors[:] = [tensor[:1].detach().requires_grad_() for tensor in tensors]
    alone = loss(first.outputs, batch.mask_labels[:1], batch.class_labels[:1], None, counts)
    for key in ("loss_mask", "loss_dice", "loss"):
        torch.testing.assert_close(both[key], alone[key])
    # Its unmatched queries are not taught "no object" either: nothing is known about the image.
    batch.class_labels[1], batch.mask_labels[1] = batch.class_labels[1][:0], batch.mask_labels[1][:0]
    with torch.no_grad():
        batch.masks[0][1, 0] = -1.0  # not even one that predicts no pixel
    result = MaskClassificationLoss(5, num_points=100)(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)
    assert all(not gradient[1].any() for gradient in batch.gradients(result["loss"]))


def test_targets_of_an_all_void_image_are_matched_by_class_alone(make_batch):
    batch = make_batch((2,), queries=3, auxiliary=0)
    batch.class_labels[0] = torch.tensor([4, 1])
    with torch.no_grad():
        batch.classes[0].zero_()
        batch.classes[0][0, 2, 4] = batch.classes[0][0, 0, 1] = 3.0
    result = MaskClassificationLoss(5, num_points=100)(
        batch.outputs, batch.mask_labels, batch.class_labels, torch.ones(1, 24, 32, dtype=torch.bool)
    )
    # Queries 2 and 0 are pulled to their classes, query 1 is left alone.
    gradient = batch.gradients(result["loss"])[0][0]
    assert gradient[2].argmin() == 4 and gradient[0].argmin() == 1 and not gradient[1].any()


@pytest.mark.parametrize("threshold, taught", [(0.5, [1, 1, 0, 1]), (0.25, [1, 0, 0, 1]), (1.0, [1, 1, 1, 1])])
def test_unmatched_queries_whose_mask_lies_in_void_are_not_taught_no_object(make_batch, threshold, taught):
    batch = make_batch((0,), queries=4, size=(16, 16), mask_size=(4, 4), auxiliary=0)
    void_mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    void_mask[:, :, 10:] = True  # cells of column 2 are half void, those of column 3 wholly
    with torch.no_grad():
        masks = batch.masks[0].fill_(-1.0)[0]
        masks[0, :, :2] = 1.0  # wholly valid
        masks[1, 0, 1:4] = 1.0  # shares 0, 0.5 and 1: 0.5 of it in void, not more than 0.5
        masks[2, 1, 2:] = 1.0  # 0.75 of it in void; query 3 predicts no pixel at all
    result = MaskClassificationLoss(5, num_points=64, void_query_threshold=threshold)(
        batch.outputs, batch.mask_labels, batch.class_labels, void_mask
    )
    each = F.cross_entropy(batch.classes[0][0], torch.full((4,), 5), reduction="none")
    torch.testing.assert_close(result["loss_class"], (each * torch.tensor(taught)).sum().detach() / 4)


def test_matched_queries_are_taught_their_class_wherever_they_lie(make_batch):
    batch = make_batch((1,), queries=1, auxiliary=0)
    void_mask = torch.zeros(1, 24, 32, dtype=torch.bool)
    void_mask[:, 1:] = True
    with torch.no_grad():
        batch.masks[0][0, 0] = torch.where(torch.arange(6)[:, None] > 0, 1.0, -1.0).expand(6, 8)
    result = MaskClassificationLoss(5, num_points=64)(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)
    expected = F.cross_entropy(batch.classes[0][0], batch.class_labels[0])
    torch.testing.assert_close(result["loss_class"], expected.detach())
