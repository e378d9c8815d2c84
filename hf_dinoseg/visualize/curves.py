"""Curves: how a training went, over its steps, and what thresholds would do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CURVES_FILE = "curves.png"

_MOST_NAMED = 6  # learning rates; more of them, as with one a layer, are told apart by shade
_SCORES = {"eval_mean_iou": "mean IoU", "eval_mean_boundary_iou": "mean boundary IoU"}

Curve = tuple[list[float], list[float]]


def save_curves(history: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw what a Trainer's `state.log_history` holds.

    The evaluation after the training, which measures the weights that are kept on all images, is a ring of its own.

    Args:
        history: entries with `step` and any of `loss`, `loss_…`, `learning_rate`, `learning_rate_…`, `eval_mean_iou`.
        path: a .png file; replaced if it is there.

    Returns:
        Whether there was something to draw; nothing is written otherwise.
    """
    end = next((i for i, entry in enumerate(history) if "train_runtime" in entry), len(history))
    training, after = history[:end], history[end:]
    names = list(dict.fromkeys(name for entry in training for name in entry))
    losses = {n: _curve(training, n) for n in names if n == "loss" or n.startswith("loss_")}
    if not losses:
        return False
    scores = {text: curve for name, text in _SCORES.items() if (curve := _curve(training, name))[0]}
    finals = {text: curve for name, text in _SCORES.items() if (curve := _curve(after, name))[0]}
    rates = {n: _curve(training, n) for n in names if n.startswith("learning_rate")}
    _draw(path, losses, scores, finals, rates)
    return True


def _curve(history: Sequence[Mapping[str, Any]], name: str) -> Curve:
    pairs = [(entry["step"], float(entry[name])) for entry in history if entry.get(name) is not None]
    return [step for step, value in pairs if math.isfinite(value)], [v for _, v in pairs if math.isfinite(v)]


def _draw(
    path: Path, losses: dict[str, Curve], scores: dict[str, Curve], finals: dict[str, Curve], rates: dict[str, Curve]
) -> None:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    rows = 1 + bool(scores or finals) + bool(rates)
    figure = Figure(figsize=(8, 1 + 2.6 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, sharex=True, squeeze=False)[:, 0])
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("step")

    top = axes.pop(0)
    for name, curve in losses.items():
        thick = {"color": "#222", "linewidth": 1.8} if name == "loss" else {"linewidth": 1.1}
        top.plot(*curve, label="loss" if name == "loss" else name.removeprefix("loss_"), **_dots(curve), **thick)
    top.set_ylabel("loss; terms before weights")
    if all(value > 0 for _, values in losses.values() for value in values):
        top.set_yscale("log")
        top.yaxis.set_major_formatter("{x:g}")
        top.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    top.legend(ncols=len(losses), fontsize=9)

    if scores or finals:
        middle = axes.pop(0)
        for (text, curve), color in zip(scores.items(), ("#0072b2", "#999999"), strict=False):
            percent = [100 * value for value in curve[1]]
            middle.plot(curve[0], percent, marker=".", label=text, color=color)
        if "mean IoU" in scores:
            best, step = max(zip(scores["mean IoU"][1], scores["mean IoU"][0], strict=True))
            middle.plot([step], [100 * best], "o", color="#d55e00", label=f"best: {100 * best:.1f} at step {step:g}")
        if "mean IoU" in finals:
            steps, values = finals["mean IoU"]
            middle.plot(
                steps[-1:], [100 * values[-1]], "o", ms=11, mfc="none", color="#222", label="in the end, all images"
            )
        middle.set_ylabel("validation, per cent")
        middle.legend(fontsize=9)

    if rates:
        bottom, shades = axes.pop(0), colormaps["viridis"]
        for index, (name, curve) in enumerate(rates.items()):
            shade: Any = "#222" if name == "learning_rate" else shades(0.9 * index / max(len(rates) - 1, 1))
            label = name.removeprefix("learning_rate").strip("_").replace("_", " ") or "head"
            many = len(rates) > _MOST_NAMED
            shown = label if not many or index in (0, 1, len(rates) - 1) else None
            front = {"zorder": 3, "linestyle": "--"} if name == "learning_rate" else {}
            bottom.plot(*curve, label=shown, color=shade, **front, **_dots(curve))
        bottom.set_ylabel("learning rate")
        bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        bottom.legend(fontsize=9)
    figure.savefig(path)


def _dots(curve: Curve) -> dict[str, Any]:
    return {"marker": "."} if len(curve[0]) < 3 else {}  # one or two points make no line to be seen


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
