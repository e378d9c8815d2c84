from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from hf_dinoseg.losses import MaskClassificationLoss
from hf_dinoseg.models import loss_mask_classification as module

POINTS = 112
WEIGHTS = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


def make_loss(uniform=torch.rand, **changes):
    loss = MaskClassificationLoss(**{"num_labels": 5, "num_points": POINTS, **changes})
    loss.uniform = uniform
    return loss


@pytest.mark.parametrize("counts", [(3, 1, 5), (2, 0, 4), (9, 3), (0, 0)])
@pytest.mark.parametrize("void", ["none", "empty mask", "empty mask, long way"])
def test_values_and_gradients_equal_transformers_without_void(make_batch, make_uniform, monkeypatch, counts, void):
    batch = make_batch(counts)
    uniform = make_uniform(same_rows=POINTS)
    monkeypatch.setattr(torch, "rand", uniform)
    theirs = Mask2FormerLoss(Mask2FormerConfig(num_labels=5, train_num_points=POINTS), WEIGHTS)
    masks = [mask.float() for mask in batch.mask_labels]
    if any(counts):
        terms = theirs(batch.masks[0], batch.classes[0], masks, batch.class_labels, batch.auxiliary)
        sums = {name: sum(value for key, value in terms.items() if key.startswith(name)) for name in WEIGHTS}
    else:  # theirs cannot sample from no mask at all
        target = torch.full((2, 7), 5)
        sums = dict.fromkeys(WEIGHTS, torch.zeros(()))
        sums["loss_cross_entropy"] = sum(F.cross_entropy(classes.transpose(1, 2), target) for classes in batch.classes)
    expected = sum(WEIGHTS[name] * value for name, value in sums.items())

    if void == "empty mask, long way":
        monkeypatch.setattr(module, "_surely_without_void", lambda void_mask: False)
    void_mask = None if void == "none" else torch.zeros(len(counts), 24, 32, dtype=torch.bool)
    ours = make_loss(uniform)(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)
    assert ours["matched_queries"] == sum(min(count, 7) for count in counts) and ours["nonfinite_costs"] == 0
    for name, key in (("loss_class", "loss_cross_entropy"), ("loss_mask", "loss_mask"), ("loss_dice", "loss_dice")):
        torch.testing.assert_close(ours[name], sums[key].detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["loss"], expected, rtol=0, atol=1e-5)
    theirs_gradients = torch.autograd.grad(expected, batch.leaves, allow_unused=True)
    for mine, other in zip(batch.gradients(ours["loss"]), theirs_gradients, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=0, atol=1e-5)


def select(batch, images, replicas, normalizers, loss, void_mask):
    """The loss of some images of the batch, as a step or a process that holds only these."""
    outputs = type(batch.outputs)(
        class_queries_logits=batch.classes[0][images],
        masks_queries_logits=batch.masks[0][images],
        auxiliary_predictions=[{key: value[images] for key, value in layer.items()} for layer in batch.auxiliary],
    )
    targets = [[items[i] for i in images] for items in (batch.mask_labels, batch.class_labels)]
    return loss(outputs, *targets, void_mask[images], normalizers=normalizers, replicas=replicas)["loss"]


@pytest.mark.parametrize("counts", [(3, 1, 5, 2), (4, 2, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0)])
def test_splitting_a_batch_over_steps_or_processes_changes_nothing(make_batch, make_uniform, counts):
    batch = make_batch(counts)
    void_mask = torch.zeros(4, 24, 32, dtype=torch.bool)
    void_mask[1, :, :20] = void_mask[2, 6:] = True
    loss = make_loss(make_uniform(), class_weights=[1.0, 2.0, 0.5, 3.0, 0.2])
    whole = loss(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)["loss"]
    halves = [0, 1], [2, 3]
    counted = sum(loss.normalizers([batch.class_labels[i] for i in half], 7) for half in halves)
    steps = sum(select(batch, half, 1, counted, loss, void_mask) for half in halves)
    processes = sum(select(batch, half, 2, counted, loss, void_mask) for half in halves) / 2
    for other in (steps, processes):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-5)
        for mine, theirs in zip(batch.gradients(other), batch.gradients(whole), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_normalizers_are_counts_of_masks_and_class_weights():
    loss = make_loss(class_weights=[1.0, 2.0, 3.0, 4.0, 5.0])
    labels = [torch.tensor([0, 4]), torch.tensor([], dtype=torch.int64), torch.tensor([1, 1, 1, 3])]
    # 2 targets of weight 1 + 5 and 1 query left; 3 left; 4 targets of weight 10 in all, for 3 queries
    torch.testing.assert_close(loss.normalizers(labels, 3), torch.tensor([6.0, 6.0 + 0.1 + 0.3 + 7.5]))


def test_images_without_targets_teach_no_object_and_use_every_prediction(make_batch):
    batch = make_batch((0, 0))
    result = make_loss()(batch.outputs, batch.mask_labels, batch.class_labels)
    assert result["loss_mask"] == result["loss_dice"] == 0 and result["matched_queries"] == 0
    gradients = batch.gradients(result["loss"])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[:3])
    # allow_unused was not given: the masks are part of the graph, with gradients of exactly zero.
    assert all(not gradient.any() for gradient in gradients[3:])
    assert (gradients[0][..., 5] < 0).all() and (gradients[0][..., :5] > 0).all()


def test_class_weights_weigh_the_class_term_as_cross_entropy_does(make_batch):
    batch = make_batch((1,), queries=1, auxiliary=0)
    other = make_batch((0,), queries=1, auxiliary=0, seed=1)
    batch.classes[0] = torch.cat([batch.classes[0], other.classes[0]]).detach()
    batch.masks[0] = torch.cat([batch.masks[0], other.masks[0]]).detach()
    labels, masks = batch.class_labels + other.class_labels, batch.mask_labels + other.mask_labels
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    result = make_loss(class_weights=weights, no_object_weight=0.3)(batch.outputs, masks, labels)
    target = torch.cat([labels[0], torch.tensor([5])])
    expected = F.cross_entropy(batch.classes[0][:, 0], target, torch.cat([weights, torch.tensor([0.3])]))
    torch.testing.assert_close(result["loss_class"], expected)


def test_autocast_changes_nothing(make_batch, make_uniform, monkeypatch):
    products = []
    matmul = torch.Tensor.__matmul__  # what autocast would do in bfloat16, also when it is switched on inside
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: products.append(matmul(a, b)) or products[-1])
    batch = make_batch((3, 2))
    void_mask = torch.zeros(2, 24, 32, dtype=torch.bool)
    void_mask[0, :9] = True
    loss = make_loss(make_uniform())
    plain = loss(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)["loss"]
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)
    assert len(products) == 18 and {product.dtype for product in products} == {torch.float32}
    assert all(map(torch.equal, batch.gradients(cast), batch.gradients(plain)))


def test_bfloat16_predictions_get_bfloat16_gradients_of_the_float32_loss(make_batch, make_uniform):
    batch = make_batch((3, 2), auxiliary=0)
    half = make_batch((3, 2), auxiliary=0)
    for tensors in (half.classes, half.masks, batch.classes, batch.masks):
        tensors[0] = tensors[0].detach().bfloat16().requires_grad_()
    for tensors in (batch.classes, batch.masks):
        tensors[0] = tensors[0].detach().float().requires_grad_()
    loss = make_loss(make_uniform())
    full, low = (loss(b.outputs, b.mask_labels, b.class_labels)["loss"] for b in (batch, half))
    assert low.dtype == torch.float32 and torch.equal(low, full)
    for mine, other in zip(half.gradients(low), batch.gradients(full), strict=True):
        assert mine.dtype == torch.bfloat16 and torch.equal(mine, other.bfloat16())


def test_evaluation_without_gradients_gives_the_same_numbers(make_batch, make_uniform):
    batch = make_batch((3, 2))
    loss = make_loss(make_uniform())
    trained = loss(batch.outputs, batch.mask_labels, batch.class_labels)
    with torch.no_grad():
        evaluated = loss(batch.outputs, batch.mask_labels, batch.class_labels)
    assert not evaluated["loss"].requires_grad and not trained["loss_mask"].requires_grad
    trained["loss"] = trained["loss"].detach()
    assert {key: float(value) for key, value in trained.items()} == {k: float(v) for k, v in evaluated.items()}


def test_nonfinite_predictions_do_not_crash_and_are_counted(make_batch):
    batch = make_batch((3, 2))
    with torch.no_grad():
        batch.masks[1][0] = torch.nan
    result = make_loss()(batch.outputs, batch.mask_labels, batch.class_labels)
    assert result["nonfinite_costs"] == 7 * 3 and result["matched_queries"] == 5


def test_no_number_is_fetched_from_the_device_but_the_costs(make_batch, monkeypatch):
    """Every other wait for the device would show as one of these operators, which make a host number or a shape."""

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            waits = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "equal")
            if any(name in str(function) for name in waits):
                seen.append(str(function))
            return function(*args, **(kwargs or {}))

    seen: list[str] = []
    batch = make_batch((3, 0, 2))
    void_mask = torch.rand(3, 24, 32) > 0.5
    monkeypatch.setattr(module, "_surely_without_void", lambda void_mask: False)  # looks only at host tensors
    with Spy():
        make_loss()(batch.outputs, batch.mask_labels, batch.class_labels, void_mask)["loss"].backward()
    assert seen == []


def test_shapes_that_do_not_belong_together_are_named(make_batch):
    batch = make_batch((3, 2))
    loss = make_loss()
    with pytest.raises(ValueError, match=r"6 columns; a loss for 4 classes .* 'no object': 5"):
        make_loss(num_labels=4)(batch.outputs, batch.mask_labels, batch.class_labels)
    with pytest.raises(ValueError, match=r"2 images need as many mask_labels"):
        loss(batch.outputs, batch.mask_labels[:1], batch.class_labels)
    with pytest.raises(ValueError, match=r"mask_labels\[1\] has shape \(2, 24, 32\); 1 class_labels"):
        loss(batch.outputs, batch.mask_labels, [batch.class_labels[0], batch.class_labels[1][:1]])
    with pytest.raises(ValueError, match=r"mask_labels\[0\] has shape \(3, 24, 32\).* need \(3, 12, 32\)"):
        loss(batch.outputs, batch.mask_labels, batch.class_labels, torch.zeros(2, 12, 32, dtype=torch.bool))
    with pytest.raises(ValueError, match="void_mask holds 3 images"):
        loss(batch.outputs, batch.mask_labels, batch.class_labels, torch.zeros(3, 24, 32, dtype=torch.bool))
    with pytest.raises(ValueError, match="one weight for each of 5"):
        make_loss(class_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="oversample_ratio must be at least 1"):
        make_loss(oversample_ratio=0.5)
