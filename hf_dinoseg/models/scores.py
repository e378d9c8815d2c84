"""How queries become pixels: the only copy.

A pixel's score for a class is the sum over queries of the query's probability of that class times its mask's
probability at that pixel ("MaskFormer", https://arxiv.org/abs/2107.06278, §3.4); the linear head's scores are soft-max
probabilities.
Everything is computed some rows at a time, so that neither queries × height × width nor classes × height × width is
held beyond what is returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: values held per strip of rows on an accelerator; 2^24 float32 are 64 MiB
STRIP_VALUES = 1 << 24
#: and on a processor, where strips that fit its cache are about twice as fast as large ones
CACHED_VALUES = 1 << 19


class ScoreMap:
    """Class scores of a model's output at some size, computed for the rows that are asked for.

    Args:
        outputs: with `class_queries_logits` (B, Q, C + 1) and `masks_queries_logits` (B, Q, h, w), or with `logits`
            (B, C, h, w).
        size: height and width to compute at.
        raw: leave `logits` as they are, without a soft-max.

    Attributes:
        num_labels: C.
        row_values: the most values that are held for each row while rows are computed.
    """

    def __init__(self, outputs: Any, size: tuple[int, int], raw: bool = False) -> None:
        self.raw = raw
        # while a graph of any size is exported, sizes are symbols, which int() would turn into constants
        self.height, self.width = (n if isinstance(n, torch.SymInt) else int(n) for n in size)
        masks = getattr(outputs, "masks_queries_logits", None)
        self._weights: Tensor | None = None
        if masks is None:
            self._maps, self.num_labels = outputs.logits, outputs.logits.shape[1]
        else:
            self._maps = masks
            classes = outputs.class_queries_logits.float().softmax(dim=-1)[..., :-1]
            self._weights = classes.transpose(1, 2).contiguous()
            self.num_labels = classes.shape[-1]
        self.row_values = max(self._maps.shape[1], self.num_labels) * self.width
        if not torch.compiler.is_exporting():
            # Row by row the bilinear rule is a mix of two source rows, clamped at the edges.
            rows = self._maps.shape[2]
            place = ((torch.arange(self.height) + 0.5) * (rows / self.height) - 0.5).clamp(min=0)
            above = place.long().clamp(max=rows - 1)
            self._above: list[int] = above.tolist()
            self._share = (place - above)[:, None].to(self._maps.device)

    def rows(self, top: int, bottom: int) -> Tensor:
        """(B, C, bottom - top, width) float32 scores; of mask heads not normalised, a pixel's need not sum to one."""
        with torch.autocast(self._maps.device.type, enabled=False):
            maps = self._resized(top, bottom)
            if self._weights is None:
                return maps if self.raw else maps.softmax(dim=1)
            scores = torch.bmm(self._weights, maps.sigmoid().flatten(2))
            return scores.view(*scores.shape[:2], bottom - top, self.width)

    def strips(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, scores of some rows from there on), top to bottom."""
        if torch.compiler.is_exporting():  # a graph has no loop of unknown length
            yield 0, self.rows(0, self.height)
            return
        per_strip = rows_per_strip(self._maps, self.row_values)
        for top in range(0, self.height, per_strip):
            yield top, self.rows(top, min(top + per_strip, self.height))

    def _resized(self, top: int, bottom: int) -> Tensor:
        """Rows of `interpolate(maps, (height, width), mode="bilinear", align_corners=False)`, in float32."""
        if torch.compiler.is_exporting():
            whole = F.interpolate(self._maps.float(), size=(self.height, self.width), mode="bilinear")
            return whole[:, :, top:bottom]
        rows, columns = self._maps.shape[2:]
        if (rows, columns) == (self.height, self.width):
            return self._maps[:, :, top:bottom].float()
        above = list(range(top, bottom)) if rows == self.height else self._above[top:bottom]
        first, last = above[0], min(above[-1] + (rows != self.height), rows - 1)
        source = self._maps[:, :, first : last + 1].detach().float()
        if columns != self.width:  # of the few source rows, before they become many
            source = F.interpolate(source, size=(len(source[0, 0]), self.width), mode="bilinear", align_corners=False)
        if rows == self.height:
            return source
        strip = source.new_empty((*source.shape[:2], bottom - top, self.width))
        start = 0
        for row, same in groupby(above):  # rows between the same two source rows, without a copy of either
            end = start + len(list(same))
            upper, lower = (source[:, :, n : n + 1] for n in (row - first, min(row + 1, last) - first))
            share = self._share[top + start : top + end]
            torch.lerp(upper, lower, share, out=strip[:, :, start:end])
            start = end
        return strip


def rows_per_strip(like: Tensor, values_per_row: int) -> int:
    """How many rows to compute at once, for a batch and on the device of `like`."""
    budget = CACHED_VALUES if like.device.type == "cpu" else STRIP_VALUES
    return max(1, budget // max(1, like.shape[0] * values_per_row))


def semantic_scores(outputs: Any, size: tuple[int, int]) -> Tensor:
    """Scores of every class at every pixel.

    Args:
        outputs, size: as for `ScoreMap`.

    Returns:
        (B, C, height, width) float32; of mask heads not normalised, a pixel's scores need not sum to one.
    """
    scores = torch.empty(0)
    for top, strip in ScoreMap(outputs, size).strips():
        if top == 0:
            scores = strip.new_empty((*strip.shape[:2], *size))
        scores[:, :, top : top + strip.shape[2]] = strip
    return scores


def semantic_labels_and_scores(outputs: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Label map (B, height, width) int64 and the winning score at every pixel, float32, of the same shape."""
    best, labels = [], []
    for _, strip in ScoreMap(outputs, size).strips():
        score, label = strip.max(dim=1)
        best.append(score)
        labels.append(label)
    return torch.cat(labels, dim=1), torch.cat(best, dim=1)


def without_unlikely(labels: Tensor, scores: Tensor, threshold: float | None, void: int) -> Tensor:
    """Labels, `void` where the winning score is below the threshold: all of them with None. Shapes are the same.

    The only copy of the rule; `inference.background` decides what the threshold is.
    """
    return labels if threshold is None else labels.masked_fill(scores < threshold, void)


__all__ = ["ScoreMap", "semantic_labels_and_scores", "semantic_scores", "without_unlikely"]
