"""How well a threshold on the score tells id 0 from the classes, drawn for every threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def draw_threshold_curve(path: Path, thresholds: np.ndarray, id0_iou: np.ndarray, chosen: float) -> None:
    """Write a picture of the curve, the chosen threshold marked.

    Args:
        path: of the picture; its ending names the format.
        thresholds, id0_iou: the curve, arrays of one length.
        chosen: one of the thresholds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    last = np.flatnonzero(id0_iou != id0_iou[-1])  # beyond it every pixel is below the threshold
    right = max(1.0, chosen, float(thresholds[last[-1]]) if last.size else 0.0)
    best = float(id0_iou[int(np.argmin(np.abs(thresholds - chosen)))])
    axes.plot(thresholds, id0_iou, color="#0072b2")
    axes.axvline(chosen, color="#d55e00", linestyle="--", linewidth=1)
    axes.plot([chosen], [best], "o", color="#d55e00", label=f"chosen: {chosen:.3f}, IoU {100 * best:.1f} %")
    axes.set(
        xlabel="threshold: pixels whose best score is below it get no class",
        ylabel="IoU of no class with id 0",
        xlim=(0, 1.05 * right),
        ylim=(0, 1),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    figure.savefig(path)
