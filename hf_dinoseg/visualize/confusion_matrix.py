"""The confusion matrix as an image: what each true class was taken for, in per cent of its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..labels import LabelSpace

CONFUSION_FILE = "confusion.png"

_MOST_WITH_FIGURES = 25  # classes; above, a figure in each cell could not be read
_LONGEST_NAME = 24


def save_confusion(matrix: np.ndarray, label_space: LabelSpace, path: Path) -> None:
    """Draw a confusion matrix, each row divided by its sum.

    Up to 25 classes every cell that is not empty shows its figure; the image grows with the number of classes, so
    that the names of 150 can still be read. A column "no answer" is there only if it holds something. The rows of
    classes that are not in the truth stay empty.

    Args:
        matrix: (C, C + 1) counts, see `evaluation.confusion_matrix`.
        label_space: the classes' names.
        path: a .png file; replaced if it is there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = np.asarray(matrix, dtype=np.float64)
    if not counts[:, -1].any():
        counts = counts[:, :-1]
    truth = counts.sum(axis=1, keepdims=True)
    share = 100 * np.divide(counts, truth, out=np.full_like(counts, np.nan), where=truth > 0)
    names = [_short(label_space.id2label[train_id]) for train_id in range(len(counts))]
    columns = [*names, "no answer"][: counts.shape[1]]
    few = len(names) <= _MOST_WITH_FIGURES
    side = 2.6 + len(columns) * (0.52 if few else 0.145)
    figure = Figure(figsize=(side + 1.0, side), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))  # small mistakes are to be seen
    size = 9 if few else 6.5
    axes.set_xticks(range(len(columns)), columns, rotation=90 if not few else 45, ha="center" if not few else "right",
                    rotation_mode="default" if not few else "anchor", fontsize=size)  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    axes.set_title("of each true class, per cent", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.7)
    if few:
        for row, column in np.argwhere(np.nan_to_num(share) >= 0.05):
            value = share[row, column]
            axes.text(column, row, f"{value:.0f}" if value >= 10 else f"{value:.1f}", ha="center", va="center",
                      fontsize=8.5, color="white" if value > 30 else "#222")  # fmt: skip
    figure.savefig(path)


def _short(name: str) -> str:
    name = name.replace("$", r"\$")  # a pair would be read as a formula
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
