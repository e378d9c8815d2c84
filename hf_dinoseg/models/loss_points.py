"""Points at which masks are compared: how they are drawn, and how predictions and targets are read there.

Points are (x, y) in [0, 1] over the whole image, as in PointRend (arXiv:1912.08193). Void pixels take no part: points
that fall on one are moved to a valid pixel, and a bilinear reading leaves out void neighbours and shares their weight
among the others. Neighbours outside the image count as zeros, as `grid_sample(padding_mode="zeros")` has it, so that
without void every reading equals `grid_sample(align_corners=False)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Uniform = Callable[..., Tensor]
"""Draws numbers uniform in [0, 1): called as `uniform(*shape, device=device)`, like `torch.rand`."""

# A point inside a valid pixel has at least 1/4 of its bilinear weight on that pixel; less occurs only in all void.
_MIN_WEIGHT = 1e-3


# Golden ratio times 2^24: its multiples modulo 2^24 spread evenly, from any start, and are exact in float32.
_GOLDEN = 10368889

# Bounds the working memory of moving points; large enough to keep an accelerator busy.
_POINTS_AT_ONCE = 2**18


def corner_codes(masks: Tensor, void: Tensor | None = None) -> Tensor:
    """Pack, for every corner between pixels, the four pixels around it into one number.

    A bilinear reading then costs one look-up, not four, and the border needs no special care. Bits 0 to 3 are the
    pixels up-left, up-right, down-left and down-right of the corner; pixels outside the image are 0.

    Args:
        masks: (M, H, W) bool.
        void: (H, W) bool, pixels that count as 0, or None.

    Returns:
        (M, H + 1, W + 1) uint8.
    """
    if void is not None:
        masks = masks & ~void
    number, height, width = masks.shape
    codes = torch.zeros(number, height + 1, width + 1, dtype=torch.uint8, device=masks.device)
    pixels = masks.to(torch.uint8)
    codes[:, 1:, 1:] = pixels
    codes[:, 1:, :-1].add_(pixels, alpha=2)
    codes[:, :-1, 1:].add_(pixels, alpha=4)
    codes[:, :-1, :-1].add_(pixels, alpha=8)
    return codes


@dataclass(frozen=True)
class ValidPixels:
    """Which pixels of a batch of B label maps of H x W pixels are not void, made ready for drawing among them.

    Attributes:
        void: (B, H, W) bool.
        codes: (B, H + 1, W + 1) uint8, `corner_codes` of `void`.
        order: (B, H * W + 1, 2) int16: row b starts with (column, row) of the valid pixels of image b.
        count: (B,) int64: number of valid pixels.
    """

    void: Tensor
    codes: Tensor
    order: Tensor
    count: Tensor

    @classmethod
    def from_void(cls, void: Tensor) -> ValidPixels:
        """Build from `void` (B, H, W) bool, without asking the device for any number."""
        batch, height, width = void.shape
        rank = (~void).flatten(1).cumsum(1, dtype=torch.int32)
        # Valid pixel number k goes to slot k; void pixels all go to the last slot, which is never read.
        slot = torch.where(void.flatten(1), height * width, rank - 1).long()
        row = torch.arange(height, dtype=torch.int16, device=void.device)[:, None].expand(height, width)
        column = torch.arange(width, dtype=torch.int16, device=void.device).expand(height, width)
        pixel = torch.stack([column, row], dim=-1).view(1, -1, 2).expand(batch, -1, -1)
        order = torch.zeros(batch, height * width + 1, 2, dtype=torch.int16, device=void.device)
        order.scatter_(1, slot[..., None].expand(-1, -1, 2), pixel)
        return cls(void, corner_codes(void), order, rank[:, -1].long())

    def has_any(self) -> Tensor:
        """(B,) float32: 1 where the image has a valid pixel, else 0."""
        return (self.count > 0).float()

    def move_points(self, points: Tensor, image: Tensor, uniform: Uniform) -> Tensor:
        """Move points that fall on void to a random valid pixel, keeping their place inside the pixel.

        Points uniform over the image become uniform over its valid area. Other points stay as they are, to the bit.

        Args:
            points: (R, P, 2) in [0, 1].
            image: (R,) int64, the image of each row.
            uniform: the source of random numbers; asked for one a row, from which its points step in golden ratio.
        """
        steps = torch.arange(points.shape[1], device=points.device).mul_(_GOLDEN).remainder_(2**24).float().div_(2**24)
        starts = uniform(len(points), 1, device=points.device)
        some = max(1, _POINTS_AT_ONCE // points.shape[1])
        parts = zip(points.split(some), image.split(some), starts.split(some), strict=True)
        return torch.cat([self._move(part, owner, (start + steps).frac_()) for part, owner, start in parts])

    def _move(self, points: Tensor, image: Tensor, pick: Tensor) -> Tensor:
        """`move_points` with the new pixel of every point given as a share (R, P), in [0, 1), of the valid ones."""
        height, width = self.void.shape[1:]
        size = points.new_tensor([width, height])
        inside = points * size
        pixel = inside.floor()
        column, row = pixel.long().unbind(-1)
        index = row.clamp_(max=height - 1).mul_(width).add_(column.clamp_(max=width - 1))
        on_void = self.void.view(-1).take(index.add_((image * (height * width))[:, None]))
        count = self.count[image, None]
        chosen = torch.minimum(pick.mul_(count).long(), count - 1).clamp_(min=0)
        chosen += (image * (height * width + 1))[:, None]
        target = self.order.view(-1, 2).index_select(0, chosen.flatten()).view(points.shape)
        moved = inside.sub_(pixel).add_(target).div_(size)
        return torch.where(on_void[..., None], moved, points)


class _Location(NamedTuple):
    """Where points lie between pixels: (R, P) flat index of the corner, and the distance from its up-left pixel."""

    corner: Tensor
    across: Tensor
    down: Tensor

    @classmethod
    def of(cls, points: Tensor, height: int, width: int) -> _Location:
        """Locate `points` (R, P, 2), step by step as `grid_sample` does, so that rounding agrees too."""
        x, y = (
            points[..., axis].mul(2.0).sub_(1.0).add_(1.0).mul_(size).sub_(1.0).mul_(0.5)
            for axis, size in enumerate((width, height))
        )
        left, top = x.floor(), y.floor()
        row, column = top.long().add_(1).clamp_(0, height), left.long().add_(1).clamp_(0, width)
        return cls(row.mul_(width + 1).add_(column), x.sub_(left), y.sub_(top))

    def read(self, codes: Tensor, rows: Tensor) -> Tensor:
        """Bilinear reading of the packed masks `rows` (R,): (R, P) float32."""
        code = codes.view(-1).take(self.corner + (rows * codes[0].numel())[:, None])
        upper = torch.lerp((code & 1).float(), (code & 2).float().mul_(0.5), self.across)
        lower = torch.lerp((code & 4).float().mul_(0.25), (code & 8).float().mul_(0.125), self.across)
        return upper.lerp_(lower, self.down)


def sample_masks(
    codes: Tensor, rows: Tensor, points: Tensor, image: Tensor, valid: ValidPixels | None, owner: Tensor | None = None
) -> Tensor:
    """Read boolean target masks at points, bilinearly, without ever making them float.

    With void, a reading is sum(w m v) / sum(w v) over the four neighbours (w weight, m mask, v not void).

    Args:
        codes: (M, H + 1, W + 1) uint8, `corner_codes` of the masks, void taken out.
        rows: (R,) int64: the masks to read.
        points: (S, P, 2): sets of points.
        image: (S,) int64: the image that each set of points belongs to.
        valid: the batch's valid pixels, or None when there is no void.
        owner: (R,) int64: the set of points at which each mask is read; None where R = S and each has its own.

    Returns:
        (R, P) float32 in [0, 1].
    """
    location = _Location.of(points, codes.shape[1] - 1, codes.shape[2] - 1)
    weight = None
    if valid is not None:
        weight = location.read(valid.codes, image).neg_().add_(1.0).clamp_(min=_MIN_WEIGHT)
    if owner is not None:
        location = _Location(*(part[owner] for part in location))
        weight = None if weight is None else weight[owner]
    reading = location.read(codes, rows)
    return reading if weight is None else reading.div_(weight)


def void_cells(void_mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Void at the resolution of predicted masks that cover exactly the image.

    Args:
        void_mask: (B, H, W) bool.
        height, width: size of the predicted masks.

    Returns:
        (B, height, width) bool, the cells that lie wholly in void, and (B, height, width) float32, the share of each
        cell's pixels that is void.
    """
    void = void_mask[:, None].float()
    share = F.adaptive_avg_pool2d(void, (height, width))[:, 0]
    wholly = -F.adaptive_max_pool2d(-void, (height, width))[:, 0] > 0
    return wholly, share


def sample_logits(logits: Tensor, points: Tensor, void: Tensor | None) -> Tensor:
    """Read predictions at points, bilinearly, leaving out cells that lie wholly in void; differentiable in `logits`.

    Args:
        logits: (R, K, h, w) float32: K maps that share the points of their row.
        points: (R, P, 2).
        void: (R, h, w) bool, cells wholly in void (`void_cells`), or None.

    Returns:
        (R, K, P) float32.
    """
    grid = (2.0 * points - 1.0)[:, :, None]
    if void is None:
        return F.grid_sample(logits, grid, align_corners=False).squeeze(3)
    sampled = F.grid_sample(logits.masked_fill(void[:, None], 0.0), grid, align_corners=False).squeeze(3)
    void_weight = F.grid_sample(void[:, None].float(), grid, align_corners=False).squeeze(3)
    return sampled / (1.0 - void_weight).clamp_(min=_MIN_WEIGHT)


@torch.no_grad()
def draw_points(rows: int, num_points: int, image: Tensor, valid: ValidPixels | None, uniform: Uniform) -> Tensor:
    """Draw `num_points` points for each of `rows` rows, uniform over the image's valid area: (rows, num_points, 2)."""
    points = uniform(rows, num_points, 2, device=image.device)
    return points if valid is None else valid.move_points(points, image, uniform)


@torch.no_grad()
def draw_uncertain_points(
    logits: Tensor,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    image: Tensor,
    valid: ValidPixels | None,
    void: Tensor | None,
    uniform: Uniform,
) -> Tensor:
    """Draw points where a mask is undecided: of `oversample_ratio * num_points` candidates those with the smallest
    |logit|, and a rest of `1 - importance_sample_ratio` drawn at random (PointRend, section 3.1).

    Args:
        logits: (R, h, w) float32.
        image, valid, void, uniform: as in the functions above.

    Returns:
        (R, num_points, 2).
    """
    rows = logits.shape[0]
    candidates = draw_points(rows, int(num_points * oversample_ratio), image, valid, uniform)
    decidedness = sample_logits(logits[:, None], candidates, void)[:, 0].abs()
    num_uncertain = int(importance_sample_ratio * num_points)
    chosen = decidedness.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
    points = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    if num_uncertain == num_points:
        return points
    return torch.cat([points, draw_points(rows, num_points - num_uncertain, image, valid, uniform)], dim=1)
