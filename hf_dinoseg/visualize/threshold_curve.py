"""What each threshold on the score does where label 0 has no class, drawn for every threshold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_COLORS = ("#0072b2", "#009e73", "#cc79a7")


def draw_threshold_curve(
    path: Path, thresholds: np.ndarray, figures: Mapping[str, np.ndarray], chosen: float | None
) -> None:
    """Write an image of the curves, the chosen threshold marked if there is one.

    Args:
        path: of the image; its ending names the format.
        thresholds: rising, an array.
        figures: up to three curves (0 to 1) of the same length, by the names that the legend gives.
        chosen: one of the thresholds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    right = max(1.0, chosen or 0.0)
    for (name, values), color in zip(figures.items(), _COLORS, strict=False):
        moving = np.flatnonzero(np.nan_to_num(values) != np.nan_to_num(values[-1]))  # beyond, every score is lower
        right = max(right, float(thresholds[moving[-1]]) if moving.size else 0.0)
        axes.plot(thresholds, values, color=color, label=name)
    if chosen is not None:
        axes.axvline(chosen, color="#d55e00", linestyle="--", linewidth=1, label=f"threshold {chosen:.3f}")
    axes.set(xlabel="threshold: pixels whose best score is below it get no class", xlim=(0, 1.05 * right), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    figure.savefig(path)
