"""Mask-classification loss with deep supervision (Mask2Former, arXiv:2112.01527), exact in the presence of void."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .loss import Loss, class_masks, classes_present
from .loss_gradient import attach_gradient
from .loss_matcher import Assignment, Matcher
from .loss_points import (
    Uniform,
    ValidPixels,
    corner_codes,
    draw_uncertain_points,
    sample_logits,
    sample_masks,
    void_cells,
)


class MaskClassificationLoss(Loss):
    """Class, mask and Dice loss of matched queries, summed over the final and all auxiliary predictions.

    Void pixels take no part in matching, in the choice of points, in cross-entropy or in Dice, and unmatched queries
    whose predicted mask lies in void are not taught "no object". Without void the loss is the standard one.

    **Normalisers.** The class term is divided by the sum of class weights over all queries, the mask terms by the
    number of target masks; `Loss` says how they add up over accumulation steps and processes. `replicas` undoes the
    averaging of gradients over processes by the distributed wrapper. Terms then add up over accumulation steps, and
    average over processes, to those of the whole batch. Without `normalizers` the batch at hand is the whole batch.

    Args:
        num_labels: number of classes C, without "no object".
        num_points: points per mask.
        oversample_ratio: candidates per point where uncertain points are chosen; at least 1.
        importance_sample_ratio: share of points that are chosen for uncertainty; the rest is random.
        class_weight, mask_weight, dice_weight: weights of the terms, in the loss and in the matching cost.
        no_object_weight: weight of unmatched queries in the class term.
        class_weights: (C,) weights of the classes in the class term; None for ones.
        void_query_threshold: an unmatched query is left out of the class term when more than this share of its
            predicted mask (sigmoid > 0.5) is void; 1 leaves none out.
        ignore_index: the train id of void pixels, from which `targets` makes the void mask.
    """

    settings = {
        name: name
        for name in (
            "num_points",
            "oversample_ratio",
            "importance_sample_ratio",
            "class_weight",
            "mask_weight",
            "dice_weight",
            "no_object_weight",
            "void_query_threshold",
        )
    }
    counted: ClassVar[Literal["masks", "pixels"]] = "masks"
    class_term_weights: Tensor

    def __init__(
        self,
        num_labels: int,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        class_weights: Tensor | Sequence[float] | None = None,
        void_query_threshold: float = 0.5,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
            raise ValueError(
                f"oversample_ratio must be at least 1 and importance_sample_ratio between 0 and 1, "
                f"not {oversample_ratio} and {importance_sample_ratio}"
            )
        weights = torch.ones(num_labels) if class_weights is None else torch.as_tensor(class_weights).float()
        if weights.shape != (num_labels,):
            raise ValueError(
                f"class_weights has shape {tuple(weights.shape)}; give one weight for each of {num_labels}"
            )
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.no_object_weight = no_object_weight
        self.void_query_threshold = void_query_threshold
        self.matcher = Matcher(class_weight, mask_weight, dice_weight, num_points)
        # The source of all random numbers; replace it to fix the points.
        self.uniform: Uniform = torch.rand
        all_weights = torch.cat([weights, weights.new_tensor([no_object_weight])])
        self.register_buffer("class_term_weights", all_weights, persistent=False)

    @property
    def class_weights(self) -> Tensor:
        return self.class_term_weights[:-1]

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        labels, classes = batch.get("labels"), self._classes(batch)
        masks = batch.get("mask_labels")
        if labels is not None:
            void = labels == self.ignore_index
            if masks is None:
                masks = [class_masks(*pair) for pair in zip(labels, classes, strict=True)]
        else:  # who labels a pixel gives it a class: one in no mask is void
            masks = [mask.bool() for mask in batch["mask_labels"]]
            void = torch.stack([~mask.any(0) for mask in masks])
        return {"mask_labels": [mask.bool() for mask in masks], "class_labels": classes, "void_mask": void}

    def counts(self, batch: Mapping[str, Any], num_queries: int) -> Tensor:
        return self.normalizers(self._classes(batch), num_queries)

    def _classes(self, batch: Mapping[str, Any]) -> Sequence[Tensor]:
        classes: Sequence[Tensor] | None = batch.get("class_labels")
        return classes_present(batch["labels"], self.ignore_index) if classes is None else classes

    def normalizers(self, class_labels: Sequence[Tensor], num_queries: int) -> Tensor:
        """Additive counts of a batch: (2,) float32, [number of target masks, sum of class weights over all queries].

        The second is the sum of the targets' class weights plus `no_object_weight` for each query left over. (With more
        targets than queries the targets' share is scaled to the queries; which of them get matched is not known yet.)

        Args:
            class_labels: B tensors (N_b,) int64.
            num_queries: queries per image.
        """
        masks = sum(len(labels) for labels in class_labels)
        unmatched = sum(max(num_queries - len(labels), 0) for labels in class_labels)
        device = class_labels[0].device
        weights = self.class_term_weights.to(device)
        class_sum = torch.full((), unmatched * self.no_object_weight, device=device)
        for labels in class_labels:
            class_sum = class_sum + weights[labels].sum() * min(1.0, num_queries / max(len(labels), 1))
        return torch.stack([torch.full((), float(masks), device=device), class_sum])

    def forward(
        self,
        outputs: Any,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        void_mask: Tensor | None = None,
        normalizers: Tensor | None = None,
        replicas: int = 1,
    ) -> dict[str, Any]:
        """Compute the loss, in float32 whatever autocast says.

        Args:
            outputs: has `class_queries_logits` (B, Q, C + 1), `masks_queries_logits` (B, Q, h, w), covering exactly the
                image, and `auxiliary_predictions`: a sequence of dicts with these two keys, or None.
            mask_labels: B tensors (N_b, H, W) bool; N_b may be 0, and may exceed Q.
            class_labels: B tensors (N_b,) int64, train ids.
            void_mask: (B, H, W) bool, True where a pixel is void; None for no void.
            normalizers: (2,) what `normalizers` returns, summed over all accumulation steps and processes; None: this
                batch is all there is.
            replicas: number of processes whose gradients will be averaged.

        Returns:
            "loss": scalar, weighted terms summed over predictions. "loss_class", "loss_mask", "loss_dice": detached
            scalars, unweighted, summed over predictions. "matched_queries": int, pairs per prediction.
            "nonfinite_costs": int, matching costs that were NaN or infinite.

        Raises:
            ValueError: shapes that do not belong together.
        """
        final = {
            "class_queries_logits": outputs.class_queries_logits,
            "masks_queries_logits": outputs.masks_queries_logits,
        }
        predictions = [final, *(outputs.auxiliary_predictions or ())]
        mask_logits = [prediction["masks_queries_logits"] for prediction in predictions]
        self._check(final, mask_labels, class_labels, void_mask)
        if normalizers is None:
            normalizers = self.normalizers(class_labels, mask_logits[0].shape[1])
        normalizers = normalizers.to(mask_logits[0].device, torch.float32)
        num_masks = normalizers[0].clamp(min=1.0) / replicas
        class_sum = normalizers[1].clamp(min=1e-6) / replicas

        with torch.autocast(mask_logits[0].device.type, enabled=False):
            class_logits = torch.stack([prediction["class_queries_logits"].float() for prediction in predictions])
            valid = void = share = None
            if void_mask is not None and not _surely_without_void(void_mask):
                valid = ValidPixels.from_void(void_mask)
                void, share = void_cells(void_mask, *mask_logits[0].shape[-2:])
            targets = self._pack(mask_labels, None if valid is None else void_mask)
            pairs = self.matcher(class_logits, mask_logits, targets, class_labels, valid, void, self.uniform)
            in_void = None
            if valid is not None and share is not None and self.void_query_threshold < 1.0:
                in_void = self._queries_in_void(mask_logits, share, valid)
            class_term = self._class_term(class_logits, pairs, torch.cat(list(class_labels)), in_void) / class_sum
            losses, sums = [self.class_weight * class_term], torch.zeros(2, device=targets.device)
            for logits, query, target in zip(mask_logits, pairs.query, pairs.target, strict=True):
                loss, terms = self._mask_terms(logits, query, target, pairs.image, targets, valid, void, num_masks)
                losses.append(loss)
                sums += terms
        return {
            "loss": torch.stack(losses).sum(),
            "loss_class": class_term.detach(),
            "loss_mask": sums[0],
            "loss_dice": sums[1],
            "matched_queries": len(pairs.image),
            "nonfinite_costs": pairs.nonfinite_costs,
        }

    def _check(
        self, final: dict[str, Tensor], masks: Sequence[Tensor], labels: Sequence[Tensor], void: Tensor | None
    ) -> None:
        batch, _, columns = final["class_queries_logits"].shape
        if columns != self.num_labels + 1:
            raise ValueError(
                f"class_queries_logits has {columns} columns; a loss for {self.num_labels} classes needs one each and "
                f"one for 'no object': {self.num_labels + 1}"
            )
        if not len(masks) == len(labels) == batch:
            raise ValueError(
                f"{batch} images need as many mask_labels and class_labels, not {len(masks)}, {len(labels)}"
            )
        size = masks[0].shape[1:] if void is None else void.shape[1:]
        for image, (mask, label) in enumerate(zip(masks, labels, strict=True)):
            if mask.shape != (len(label), *size):
                raise ValueError(
                    f"mask_labels[{image}] has shape {tuple(mask.shape)}; {len(label)} class_labels and images of "
                    f"{tuple(size)} pixels need {(len(label), *size)}"
                )
        if void is not None and len(void) != batch:
            raise ValueError(f"void_mask holds {len(void)} images, predictions hold {batch}")

    @staticmethod
    def _pack(masks: Sequence[Tensor], void: Tensor | None) -> Tensor:
        """All targets one after another, as `corner_codes`."""
        voids = [None] * len(masks) if void is None else list(void)
        return torch.cat([corner_codes(mask.bool(), image) for mask, image in zip(masks, voids, strict=True)])

    @torch.no_grad()
    def _queries_in_void(self, mask_logits: Sequence[Tensor], share: Tensor, valid: ValidPixels) -> Tensor:
        """(L, B, Q) bool: queries whose predicted mask lies in void, and all queries of images that are all void."""
        all_void = valid.count[:, None] == 0
        found = []
        excess = (share - self.void_query_threshold).flatten(1)[:, None]
        for logits in mask_logits:
            # The share of void above the threshold, summed over the cells of the mask.
            found.append((excess @ (logits > 0).flatten(2).float().transpose(1, 2))[:, 0] > 0)
        return torch.stack(found) | all_void

    def _class_term(self, logits: Tensor, pairs: Assignment, labels: Tensor, in_void: Tensor | None) -> Tensor:
        """Weighted cross-entropy, summed over all queries of all predictions; not normalised."""
        target = torch.full(logits.shape[:3], self.num_labels, dtype=torch.int64, device=logits.device)
        layer = torch.arange(len(logits), device=logits.device)[:, None]
        target[layer, pairs.image, pairs.query] = labels[pairs.target]
        weight = self.class_term_weights[target]
        if in_void is not None:
            weight = weight.masked_fill(in_void & (target == self.num_labels), 0.0)
        cross_entropy = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
        return (weight.flatten() * cross_entropy).sum()

    def _mask_terms(
        self,
        logits: Tensor,
        query: Tensor,
        target: Tensor,
        image: Tensor,
        targets: Tensor,
        valid: ValidPixels | None,
        void: Tensor | None,
        num_masks: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One prediction's weighted mask loss, differentiable in `logits`, and its two terms, (2,), detached."""
        differentiable = torch.is_grad_enabled() and logits.requires_grad
        if not len(query):
            zero = num_masks.new_zeros(2)
            nothing = logits.new_zeros(0, *logits.shape[-2:])
            return attach_gradient(logits, zero[0], nothing, (image, query)), zero
        matched = logits.detach()[image, query].float()
        void_rows = None if void is None else void[image]
        points = draw_uncertain_points(
            matched,
            self.num_points,
            self.oversample_ratio,
            self.importance_sample_ratio,
            image,
            valid,
            void_rows,
            self.uniform,
        )
        truth = sample_masks(targets, target, points, image, valid)
        with torch.set_grad_enabled(differentiable):
            matched.requires_grad_(differentiable)
            sampled = sample_logits(matched[:, None], points, void_rows)[:, 0]
            terms = mask_and_dice(sampled, truth)
            if valid is not None:
                terms = terms * valid.has_any()[image]
            terms = terms.sum(1) / num_masks
            loss = self.mask_weight * terms[0] + self.dice_weight * terms[1]
        if differentiable:
            (gradient,) = torch.autograd.grad(loss, matched)
            loss = attach_gradient(logits, loss, gradient, (image, query))
        return loss, terms.detach()


def _surely_without_void(void_mask: Tensor) -> bool:
    """Whether the shorter way may be taken. Asked only where the answer is at hand, without waiting for a device."""
    return void_mask.is_cpu and not bool(void_mask.any())


def mask_and_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy (mean over points) and Dice loss of each row.

    Args:
        logits: (R, P). targets: (R, P) in [0, 1].

    Returns:
        (2, R).
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    probability = logits.sigmoid()
    overlap = (probability * targets).sum(1)
    dice = 1.0 - (2.0 * overlap + 1.0) / (probability.sum(1) + targets.sum(1) + 1.0)
    return torch.stack([cross_entropy, dice])
