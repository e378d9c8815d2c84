"""Bipartite matching of queries and target masks (DETR, arXiv:2005.12872; costs of Mask2Former, arXiv:2112.01527)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .loss_points import Uniform, ValidPixels, draw_points, sample_logits, sample_masks

logger = logging.getLogger(__name__)

# Stands for a cost that is NaN or infinite: above any cost of a healthy model, and harmless in float64 sums.
_NONFINITE_COST = 1e9


@dataclass(frozen=True)
class Assignment:
    """Which query answers for which target, for L predictions of B images with M matched pairs in all.

    Every prediction matches min(N_b, Q) targets of image b, so that pairs form a rectangle.

    Attributes:
        query: (L, M) int64, the query of each pair.
        target: (L, M) int64, the pair's row among the concatenated targets of the batch.
        image: (M,) int64, the pair's image.
        nonfinite_costs: number of costs that were NaN or infinite.
    """

    query: Tensor
    target: Tensor
    image: Tensor
    nonfinite_costs: int


def _to_host(costs: Tensor) -> np.ndarray:
    """The one place where the host waits for the device."""
    return costs.cpu().numpy()


def mask_costs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and Dice between every query and every target.

    Cross-entropy is mean_p(softplus(x_p) - x_p t_p): one pass over the logits, and a product for all pairs.

    Args:
        logits: (B, Q, P) float32; overwritten.
        targets: (B, N, P) float32 in [0, 1].

    Returns:
        two (B, Q, N) float32.
    """
    columns = targets.transpose(1, 2)
    cross_entropy = (F.softplus(logits).sum(-1, keepdim=True) - logits @ columns) / logits.shape[-1]
    probability = logits.sigmoid_()
    overlap = probability @ columns
    area = probability.sum(-1)[:, :, None] + targets.sum(-1)[:, None, :]
    return cross_entropy, 1.0 - (2.0 * overlap + 1.0) / (area + 1.0)


def solve(costs: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Assign for every prediction and image at once.

    Args:
        costs: (L, B, Q, N_max).
        counts: number of targets of each image.

    Returns:
        query (L, M) and target (L, M) int64, the latter counted over the batch's concatenated targets; queries ascend
        within an image. And the number of non-finite costs, which are replaced by a very high one.
    """
    # Late, and allowed to be missing: transformers does not need it, and a checkpoint's code has to load without it.
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("the loss matches queries and masks by scipy, which is missing: pip install scipy") from error
    offsets = np.cumsum([0, *counts])
    queries: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    nonfinite = 0
    for layer in costs:
        for image, count in enumerate(counts):
            cost = layer[image, :, :count].astype(np.float64)
            finite = np.isfinite(cost)
            if not finite.all():
                nonfinite += int(cost.size - finite.sum())
                cost = np.where(finite, cost, _NONFINITE_COST)
            query, target = linear_sum_assignment(cost)
            queries.append(query)
            targets.append(target + offsets[image])
    shape = (len(costs), -1)
    return (
        np.concatenate(queries).astype(np.int64).reshape(shape),
        np.concatenate(targets).astype(np.int64).reshape(shape),
        nonfinite,
    )


class Matcher:
    """Matches the queries of all predictions (final and auxiliary) of a batch, with one copy from device to host.

    The cost of a pair is `class_weight` * -probability of the target's class + `mask_weight` * cross-entropy +
    `dice_weight` * Dice, the latter two over `num_points` random points, drawn anew per image and prediction.

    Args:
        class_weight, mask_weight, dice_weight: weights of the costs.
        num_points: points per image and prediction.
    """

    def __init__(self, class_weight: float, mask_weight: float, dice_weight: float, num_points: int) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self._warned = False

    @torch.no_grad()
    def __call__(
        self,
        class_logits: Tensor,
        mask_logits: Sequence[Tensor],
        targets: Tensor,
        class_labels: Sequence[Tensor],
        valid: ValidPixels | None,
        void: Tensor | None,
        uniform: Uniform,
    ) -> Assignment:
        """Match; autocast must be off.

        Args:
            class_logits: (L, B, Q, C + 1) float32.
            mask_logits: L tensors (B, Q, h, w), any floating type.
            targets: (M_all, H + 1, W + 1) uint8, `corner_codes` of the masks of all images one after another.
            class_labels: B tensors (N_b,) int64.
            valid, void: valid pixels and wholly void cells (B, h, w), or None when there is no void.
            uniform: the source of random numbers.
        """
        counts = [len(labels) for labels in class_labels]
        device = class_logits.device
        pair_image = torch.tensor(
            [image for image, count in enumerate(counts) for _ in range(min(count, class_logits.shape[2]))],
            dtype=torch.int64,
            device=device,
        )
        if not len(pair_image):
            empty = pair_image.new_zeros(len(mask_logits), 0)
            return Assignment(empty, empty, pair_image, 0)
        # Ragged targets live in the first counts[b] columns of a rectangle; the rest costs nothing but its own space.
        most = max(counts)
        rows, place = _rectangle(counts, most, device)
        labels = torch.zeros(len(counts) * most, dtype=torch.int64, device=device)
        labels[place] = torch.cat(list(class_labels))
        labels = labels.view(len(counts), most)

        probability = class_logits.softmax(-1)
        columns = labels[None, :, None].expand(*probability.shape[:3], most)
        costs = probability.gather(-1, columns).mul_(-self.class_weight)
        for cost, logits in zip(costs, mask_logits, strict=True):
            cost += self._mask_cost(logits, targets, rows, place, most, valid, void, uniform)
        query, target, nonfinite = solve(_to_host(costs), counts)
        if nonfinite and not self._warned:
            self._warned = True
            logger.warning(
                "%d of the %d matching costs are NaN or infinite: the model has diverged, or was given broken numbers. "
                "They count as very high costs; later occurrences are counted but not logged here.",
                nonfinite,
                len(mask_logits) * class_logits.shape[2] * sum(counts),
            )
        pairs = torch.from_numpy(np.stack([query, target])).to(device, non_blocking=True)
        return Assignment(pairs[0], pairs[1], pair_image, nonfinite)

    def _mask_cost(
        self,
        logits: Tensor,
        targets: Tensor,
        rows: Tensor,
        place: Tensor,
        most: int,
        valid: ValidPixels | None,
        void: Tensor | None,
        uniform: Uniform,
    ) -> Tensor:
        """Weighted mask costs of one prediction, (B, Q, N_max)."""
        batch = logits.shape[0]
        image = torch.arange(batch, device=logits.device)
        points = draw_points(batch, self.num_points, image, valid, uniform)
        at_points = points.new_zeros(batch * most, self.num_points)
        at_points[place] = sample_masks(
            targets, torch.arange(len(rows), device=rows.device), points, image, valid, owner=rows
        )
        sampled = sample_logits(logits.float(), points, void)
        cross_entropy, dice = mask_costs(sampled, at_points.view(batch, most, self.num_points))
        # In an image that is all void every reading is 0 and all pairs cost the same: the class alone decides.
        return self.mask_weight * cross_entropy + self.dice_weight * dice


def _rectangle(counts: Sequence[int], most: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For targets one after another: the image of each, and its place in a flattened (B, most) rectangle."""
    image = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([index * most + np.arange(count) for index, count in enumerate(counts)])
    both = torch.from_numpy(np.stack([image, place]).astype(np.int64)).to(device)
    return both[0], both[1]
