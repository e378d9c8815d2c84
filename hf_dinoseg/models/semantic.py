"""How queries become pixels: the only copy.

A pixel's score for a class is the sum over queries of the query's probability of that class times its mask's
probability at that pixel ("MaskFormer", https://arxiv.org/abs/2107.06278, §3.4); the linear head's scores are soft-max
probabilities.
Everything is computed in strips of rows, so that neither queries × height × width nor classes × height × width is held
beyond what is returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: values held per strip; 2^24 float32 are 64 MiB
STRIP_VALUES = 1 << 24


def semantic_scores(outputs: Any, size: tuple[int, int]) -> Tensor:
    """Scores of every class at every pixel.

    Args:
        outputs: with `class_queries_logits` (B, Q, C + 1) and `masks_queries_logits` (B, Q, h, w), or with `logits`
            (B, C, h, w).
        size: height and width to compute at.

    Returns:
        (B, C, height, width) float32; of mask heads not normalised, a pixel's scores need not sum to one.
    """
    height, width = int(size[0]), int(size[1])
    scores = torch.empty(0)
    for top, strip in _score_strips(outputs, height, width):
        if top == 0:
            scores = strip.new_empty((*strip.shape[:2], height, width))
        scores[:, :, top : top + strip.shape[2]] = strip
    return scores


def semantic_label_map(outputs: Any, size: tuple[int, int]) -> Tensor:
    """The class with the highest score at every pixel: (B, height, width) int64 train ids."""
    return semantic_labels_and_scores(outputs, size)[0]


def semantic_labels_and_scores(outputs: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Label map (B, height, width) int64 and the winning score at every pixel, float32, of the same shape."""
    best, labels = [], []
    for _, strip in _score_strips(outputs, int(size[0]), int(size[1])):
        score, label = strip.max(dim=1)
        best.append(score)
        labels.append(label)
    return torch.cat(labels, dim=1), torch.cat(best, dim=1)


def _score_strips(outputs: Any, height: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, scores (B, C, rows, width)) strip by strip, top to bottom."""
    logits = getattr(outputs, "logits", None)
    if logits is not None:
        for top, strip in _resized_strips(logits, height, width):
            yield top, strip.softmax(dim=1)
        return
    with torch.autocast(outputs.class_queries_logits.device.type, enabled=False):
        classes = outputs.class_queries_logits.float().softmax(dim=-1)[..., :-1]
        weights = classes.transpose(1, 2).contiguous()
        for top, strip in _resized_strips(outputs.masks_queries_logits, height, width):
            scores = torch.bmm(weights, strip.sigmoid().flatten(2))
            yield top, scores.view(*scores.shape[:2], strip.shape[2], width)


def _resized_strips(maps: Tensor, height: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """Strips of `interpolate(maps, (height, width), mode="bilinear", align_corners=False)`, in float32."""
    batch, channels, rows, columns = maps.shape
    per_strip = max(1, STRIP_VALUES // max(1, batch * channels * width))
    # Row by row the bilinear rule is a mix of two source rows, clamped at the edges.
    place = ((torch.arange(height, dtype=torch.float32, device=maps.device) + 0.5) * (rows / height) - 0.5).clamp(min=0)
    above = place.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    share = (place - above)[:, None]
    for top in range(0, height, per_strip):
        part = slice(top, min(top + per_strip, height))
        if rows == height:
            strip = maps[:, :, part].float()
        else:
            strip = torch.lerp(maps[:, :, above[part]].float(), maps[:, :, below[part]].float(), share[part])
        if columns != width:
            strip = F.interpolate(strip, size=(strip.shape[2], width), mode="bilinear", align_corners=False)
        yield top, strip


__all__ = ["semantic_label_map", "semantic_labels_and_scores", "semantic_scores"]
