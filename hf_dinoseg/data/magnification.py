"""How large the world is shown, in training and in evaluation: the one owner of both.

A backbone knows things by their size in pixels, so what is measured has to be shown about as large as what was taught.
Training resizes by `scale`, from the stored image or from a base size; evaluation resizes to a shorter side, or not.

What others count from. DINOv3's probes and Mask2Former resize the shorter side to `scale` times a base size, which is
their crop (https://github.com/facebookresearch/dinov3, https://github.com/facebookresearch/Mask2Former). EoMT jitters
with torchvision's `ScaleJitter`, which counts from the image that just fits the crop, so from its longer side, and
evaluates with the shorter side at the crop (https://github.com/tue-mps/eomt).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Side = Literal["shorter", "longer"]

_SCALES = 33  # resizes at which padding is looked at
_APART = 1.25  # how far the mean in training and evaluation may part


def base_factor(width: int, height: int, base_size: int | None, base_side: Side = "shorter") -> float:
    """What brings an image to its base size; 1 where there is none."""
    if base_size is None:
        return 1.0
    return base_size / (min if base_side == "shorter" else max)(width, height)


@dataclass(frozen=True)
class Magnification:
    """How large a recipe shows the world.

    Attributes:
        crop_size: side of the training crops, pixels.
        scale: bounds of the factor that training resizes by.
        base_size: what the factor counts from: images brought to this side. None: the stored image.
        base_side: which side that is.
        shortest_edge: shorter side that evaluation resizes to. None: the stored size.
    """

    crop_size: int
    scale: tuple[float, float]
    base_size: int | None = None
    base_side: Side = "shorter"
    shortest_edge: int | None = None

    def measure(self, sizes: Collection[tuple[int, int]]) -> dict[str, Any]:
        """What it comes to for images of these sizes.

        Args:
            sizes: (width, height) of each, one at least.

        Returns:
            `training` (mean magnification over images and draws), `training_range` (smallest and largest), `evaluation`
            (mean over images), `padding` (share of the crops that lies beyond the images, on average).
        """
        table = np.array(list(sizes), dtype=float)
        base = np.array([base_factor(w, h, self.base_size, self.base_side) for w, h in sizes])
        shown = np.array([base_factor(w, h, self.shortest_edge) for w, h in sizes])
        scales = np.linspace(*self.scale, _SCALES)[:, None] * base
        weights = np.full(_SCALES, 1.0)
        weights[[0, -1]] = 0.5  # the trapezoid rule
        seen = np.minimum(table * scales[..., None], self.crop_size).prod(axis=2).mean(axis=1)
        return {
            "training": float(sum(self.scale) / 2 * base.mean()),
            "training_range": [float(self.scale[0] * base.min()), float(self.scale[1] * base.max())],
            "evaluation": float(shown.mean()),
            "padding": float(1 - np.average(seen, weights=weights) / self.crop_size**2),
        }

    def text(self) -> str:
        """The rule in one sentence, for where no image has been seen."""
        low, high = self.scale
        base = "the stored size" if self.base_size is None else f"a {self.base_side} side of {self.base_size} pixels"
        shown = "the stored size" if self.shortest_edge is None else f"a shorter side of {self.shortest_edge}"
        mean = (low + high) / 2
        return f"Training shows images at {low:g} to {high:g} times {base} (mean {mean:g}), evaluation at {shown}."


def parted(measured: dict[str, Any]) -> bool:
    """Whether training and evaluation part by more than a quarter, by what `Magnification.measure` gives."""
    ratio = measured["training"] / measured["evaluation"]
    return bool(max(ratio, 1 / ratio) > _APART + 1e-6)
