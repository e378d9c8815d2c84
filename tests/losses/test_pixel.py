from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from hf_dinoseg.losses import PixelLoss


def make(batch=3, classes=4, size=(12, 10), stride=2, void=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, size[0] // stride, size[1] // stride, generator=generator).requires_grad_()
    labels = torch.randint(0, classes, (batch, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    return logits, labels


def dice_of_batch(logits, labels):
    """By the definition, class by class and image by image, in plain loops."""
    scores = F.interpolate(logits, size=labels.shape[1:], mode="bilinear").softmax(1)
    losses = []
    for image, label in zip(scores, labels, strict=True):
        for index in set(label[label != 255].tolist()):
            p, t = image[index][label != 255], (label == index)[label != 255].to(image.dtype)
            losses.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0, 2.0]])
@pytest.mark.parametrize("ce_weight, dice_weight", [(1.0, 0.0), (0.0, 1.0), (0.7, 2.0)])
def test_loss_and_gradients_equal_definitions(weights, ce_weight, dice_weight):
    logits, labels = make()
    labels[1][labels[1] == 2] = 0  # one image lacks a class
    loss = PixelLoss(4, 255, ce_weight, dice_weight, weights)
    result = loss(SimpleNamespace(logits=logits), labels.to(torch.uint8))
    double = logits.double()
    scores = F.interpolate(double, size=labels.shape[1:], mode="bilinear")
    class_weights = None if weights is None else torch.tensor(weights).double()
    cross_entropy = F.cross_entropy(scores, labels, class_weights, ignore_index=255)
    dice = dice_of_batch(double, labels)
    expected = ce_weight * cross_entropy + dice_weight * dice
    torch.testing.assert_close(result["loss"].double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(result["loss_ce"].double(), cross_entropy.detach() * (ce_weight > 0), rtol=0, atol=1e-6)
    torch.testing.assert_close(result["loss_dice"].double(), dice.detach() * (dice_weight > 0), rtol=0, atol=1e-6)
    (mine,), (other,) = (torch.autograd.grad(value, logits) for value in (result["loss"], expected))
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_what_lies_under_void_changes_neither_loss_nor_gradients(seed):
    logits, labels = make(stride=1, void=0.5, seed=seed)
    loss = PixelLoss(4, 255, 1.0, 1.0)
    before = loss(SimpleNamespace(logits=logits), labels)["loss"]
    gradient = torch.autograd.grad(before, logits)[0]
    under = (labels == 255)[:, None].expand_as(logits)
    other = torch.where(under, 40 * torch.randn_like(logits), logits).detach().requires_grad_()
    after = loss(SimpleNamespace(logits=other), labels)["loss"]
    assert torch.equal(before, after) and torch.equal(torch.autograd.grad(after, other)[0], gradient)
    assert not gradient[under].any() and gradient[~under].all()


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0, 2.0]])
def test_splitting_a_batch_over_steps_or_processes_changes_nothing(weights):
    logits, labels = make(batch=4)
    labels[0, 2:] = 255  # pixels are spread unevenly
    labels[3] = 255
    loss = PixelLoss(4, 255, 1.0, 0.5, weights)
    whole = loss(SimpleNamespace(logits=logits), labels)["loss"]
    halves = slice(0, 2), slice(2, 4)
    counts = sum(loss.normalizers(labels[half]) for half in halves)
    for replicas in (1, 2):
        parts = sum(
            loss(SimpleNamespace(logits=logits[half]), labels[half], counts, replicas)["loss"] for half in halves
        )
        parts = parts / replicas
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
        (mine,), (other,) = (torch.autograd.grad(value, logits, retain_graph=True) for value in (parts, whole))
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-7)


def test_normalizers_count_valid_pixels_and_classes_per_image():
    labels = torch.tensor([[[0, 0, 1]], [[255, 255, 2]], [[255, 255, 255]]], dtype=torch.uint8)
    assert PixelLoss(3).normalizers(labels).tolist() == [4.0, 3.0]
    assert PixelLoss(3, class_weights=[1.0, 2.0, 4.0]).normalizers(labels).tolist() == [8.0, 3.0]


def test_all_void_batch_gives_zero_loss_and_zero_gradient():
    logits, labels = make()
    result = PixelLoss(4, 255, 1.0, 1.0)(SimpleNamespace(logits=logits), torch.full_like(labels, 255))
    result["loss"].backward()
    assert result["loss"] == 0 and logits.grad is not None and not logits.grad.any()


def test_autocast_and_no_grad_change_nothing():
    logits, labels = make()
    loss = PixelLoss(4, 255, 1.0, 1.0)
    plain = loss(SimpleNamespace(logits=logits), labels)["loss"]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        other = loss(SimpleNamespace(logits=logits), labels)["loss"]
    assert torch.equal(plain, other) and not other.requires_grad


def test_wrong_arguments_are_named():
    logits, labels = make()
    with pytest.raises(ValueError, match=r"3 label maps of 5 classes need \(3, 5, h, w\)"):
        PixelLoss(5)(SimpleNamespace(logits=logits), labels)
    with pytest.raises(ValueError, match="at least one must be above 0"):
        PixelLoss(5, ce_weight=0.0)
    with pytest.raises(ValueError, match="one weight for each of 5"):
        PixelLoss(5, class_weights=[1.0])


def test_cross_entropy_over_all_pixels_is_what_torch_gives_without_reduction():
    """As DINOv3's probes: void pixels add nothing to the sum and count among what it is divided by."""
    logits, labels = make(void=0.4)
    loss = PixelLoss(4, 255, ce_divisor="all")
    result = loss(SimpleNamespace(logits=logits), labels)["loss"]
    scores = F.interpolate(logits, size=labels.shape[1:], mode="bilinear")
    expected = F.cross_entropy(scores, labels, ignore_index=255, reduction="none").mean()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    assert result < 0.8 * PixelLoss(4, 255)(SimpleNamespace(logits=logits), labels)["loss"]
    halves = sum(loss.normalizers(part) for part in labels.split(1))
    assert torch.equal(halves, loss.normalizers(labels)) and halves[0] == labels.numel()
