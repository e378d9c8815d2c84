"""Per-pixel losses of the linear head: cross-entropy and soft Dice over upsampled logits, void left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .loss import Loss, label_maps
from .loss_gradient import attach_gradient


class PixelLoss(Loss):
    """Cross-entropy and/or Dice loss between class scores and a label map; void pixels take no part.

    Cross-entropy is the mean over the valid pixels of the batch (weighted, with `class_weights`). Dice is the mean,
    over the classes present in each image, of 1 - (2 sum p t + 1) / (sum p + sum t + 1), the sums over the image's
    valid pixels (V-Net, arXiv:1606.04797). Images are taken one at a time and their gradient at once, so that memory
    holds one image at full resolution, not the batch.

    `normalizers` and `replicas` make the loss exact over accumulation steps and processes, as described at
    `Loss`: sum `normalizers(labels)` of all steps and processes, and pass the sum to every call.

    Args:
        num_labels: number of classes C.
        ignore_index: the label of void pixels.
        ce_weight, dice_weight: weights of the terms; a term of weight 0 is not computed.
        class_weights: (C,) weights of the classes in the cross-entropy; None for ones.
        ce_divisor: what the sum of cross-entropies is divided by: `valid` pixels (their weights), or `all` pixels, so
            that crops with much void teach less.
    """

    settings = {
        "pixel_ce_weight": "ce_weight",
        "pixel_dice_weight": "dice_weight",
        "pixel_ce_divisor": "ce_divisor",
    }
    counted: ClassVar[Literal["masks", "pixels"]] = "pixels"
    ce_class_weights: Tensor

    def __init__(
        self,
        num_labels: int,
        ignore_index: int = 255,
        ce_weight: float = 1.0,
        dice_weight: float = 0.0,
        class_weights: Tensor | Sequence[float] | None = None,
        ce_divisor: Literal["valid", "all"] = "valid",
    ) -> None:
        super().__init__()
        if ce_weight < 0 or dice_weight < 0 or ce_weight + dice_weight == 0:
            raise ValueError(
                f"ce_weight {ce_weight} and dice_weight {dice_weight}: at least one must be above 0, none below"
            )
        if ce_divisor not in ("valid", "all"):
            raise ValueError(f"ce_divisor is {ce_divisor!r}; choose valid or all.")
        weights = torch.ones(num_labels) if class_weights is None else torch.as_tensor(class_weights).float()
        if weights.shape != (num_labels,):
            raise ValueError(
                f"class_weights has shape {tuple(weights.shape)}; give one weight for each of {num_labels}"
            )
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight
        self.ce_divisor = ce_divisor
        self.register_buffer("ce_class_weights", weights, persistent=False)

    @property
    def class_weights(self) -> Tensor:
        return self.ce_class_weights

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        labels = batch.get("labels")
        if labels is None:
            labels = label_maps(batch["mask_labels"], batch["class_labels"], self.ignore_index)
        return {"labels": labels}

    def counts(self, batch: Mapping[str, Any], num_queries: int) -> Tensor:
        return self.normalizers(self.targets(batch)["labels"])

    def normalizers(self, labels: Tensor) -> Tensor:
        """Additive counts of a batch: (2,) float32, [sum of class weights over valid pixels (or the number of all
        pixels, see `ce_divisor`), classes present per image summed over images].

        Args:
            labels: (B, H, W) train ids with `ignore_index`, any integer type.
        """
        # One more bin, for void, that is dropped again.
        slot = labels.flatten(1).long()
        slot = torch.where(slot == self.ignore_index, self.num_labels, slot)
        counts = torch.zeros(len(labels), self.num_labels + 1, dtype=torch.int64, device=labels.device)
        counts = counts.scatter_add_(1, slot, torch.ones_like(slot))[:, :-1]
        weighted = (counts * self.ce_class_weights.to(labels.device)).sum()
        if self.ce_divisor == "all":
            weighted = weighted.new_tensor(float(labels.numel()))
        return torch.stack([weighted, (counts > 0).sum().float()])

    def forward(
        self, outputs: Any, labels: Tensor, normalizers: Tensor | None = None, replicas: int = 1
    ) -> dict[str, Tensor]:
        """Compute the loss, in float32 whatever autocast says.

        Args:
            outputs: has `logits` (B, C, h, w), resized bilinearly (align_corners=False) to the labels' size.
            labels: (B, H, W) train ids with `ignore_index`, any integer type.
            normalizers: (2,) what `normalizers` returns, summed over all accumulation steps and processes; None: this
                batch is all there is.
            replicas: number of processes whose gradients will be averaged.

        Returns:
            "loss": scalar, weighted. "loss_ce", "loss_dice": detached scalars, unweighted; 0 for a term of weight 0.

        Raises:
            ValueError: shapes that do not belong together.
        """
        logits: Tensor = outputs.logits
        if logits.shape[1] != self.num_labels or len(logits) != len(labels):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)}; {len(labels)} label maps of {self.num_labels} classes need "
                f"({len(labels)}, {self.num_labels}, h, w)"
            )
        if normalizers is None:
            normalizers = self.normalizers(labels)
        divisors = normalizers.to(logits.device, torch.float32).clamp(min=1e-6) / replicas
        differentiable = torch.is_grad_enabled() and logits.requires_grad
        gradients: list[Tensor] = []
        terms = torch.zeros(2, device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            for image, label in zip(logits.detach(), labels.long(), strict=True):
                image = image.float().requires_grad_(differentiable)
                with torch.set_grad_enabled(differentiable):
                    term = self._image_terms(image, label) / divisors
                    weighted = self.ce_weight * term[0] + self.dice_weight * term[1]
                if differentiable:
                    gradients.append(torch.autograd.grad(weighted, image)[0])
                terms += term.detach()
        loss = self.ce_weight * terms[0] + self.dice_weight * terms[1]
        if differentiable:
            every = torch.arange(len(logits), device=logits.device)
            loss = attach_gradient(logits, loss, torch.stack(gradients), (every,))
        return {"loss": loss, "loss_ce": terms[0], "loss_dice": terms[1]}

    def _image_terms(self, logits: Tensor, label: Tensor) -> Tensor:
        """Summed, not normalised, cross-entropy and Dice of one image; logits (C, h, w), label (H, W): (2,)."""
        scores = F.interpolate(logits[None], size=label.shape, mode="bilinear", align_corners=False)[0]
        cross_entropy = dice = scores.new_zeros(())
        if self.ce_weight:
            cross_entropy = F.cross_entropy(
                scores[None],
                label[None],
                weight=self.ce_class_weights,
                ignore_index=self.ignore_index,
                reduction="sum",
            )
        if self.dice_weight:
            valid = (label != self.ignore_index).flatten()
            slot = label.flatten().masked_fill(~valid, 0)[None]
            probability = scores.flatten(1).softmax(0).masked_fill(~valid, 0.0)
            own = probability.gather(0, slot)[0]
            overlap = scores.new_zeros(self.num_labels).index_add(0, slot[0], own)
            truth = scores.new_zeros(self.num_labels).index_add(0, slot[0], valid.float())
            per_class = 1.0 - (2.0 * overlap + 1.0) / (probability.sum(1) + truth + 1.0)
            dice = (per_class * (truth > 0)).sum()
        return torch.stack([cross_entropy, dice])
