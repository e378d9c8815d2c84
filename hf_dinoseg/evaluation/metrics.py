"""The figures of an evaluation as people read them: a table, in text and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..figures import percent, void_text

_SUMMARY = ("mean_iou", "mean_dice", "mean_accuracy", "overall_accuracy")
_PER_CLASS = {"IoU": "per_category_iou", "Dice": "per_category_dice", "accuracy": "per_category_accuracy"}


class Metrics(dict[str, Any]):
    """What `metrics.json` holds, a plain dict that shows itself as a table: the means, and a row for each class.

    Example:
        >>> print(Metrics(mean_iou=0.5, per_category_iou={"0 background": 0.75, "1 vein": 0.25}))
        mean_iou             50.00
        <BLANKLINE>
        class                IoU
        0 background       75.00
        1 vein             25.00
    """

    def __str__(self) -> str:
        return metrics_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks."""
        means, classes = _means(self), _columns(self)
        parts = [_table(["", "%"], [[name, figure] for name, figure in means])]
        if classes:
            names = next(iter(classes.values()))
            rows = [[name, *(percent(column.get(name)) for column in classes.values())] for name in names]
            parts.append(_table(["class", *classes], rows))
        void = void_text(self)
        return "".join(parts) + (f"<p>{escape(void)}</p>" if void else "")


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """The means and, below, a line for each class; figures in per cent, a dash where there is none.

    Args:
        metrics: what `metrics.json` holds.
    """
    lines = [f"{name:18}{figure:>8}" for name, figure in _means(metrics)]
    if void := void_text(metrics):
        lines.append(void)
    if columns := _columns(metrics):
        names = list(next(iter(columns.values())))
        width = max(len("class"), *map(len, names)) + 2
        lines += ["", f"{'class':{width}}" + "".join(f"{title:>10}" for title in columns)]
        for name in names:
            figures = (percent(column.get(name)) for column in columns.values())
            lines.append(f"{name:{width}}" + "".join(f"{figure:>10}" for figure in figures))
    return "\n".join(lines)


def _means(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, percent(metrics[name])) for name in _SUMMARY if name in metrics]


def _columns(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {title: metrics[key] for title, key in _PER_CLASS.items() if metrics.get(key)}


def _table(head: list[str], rows: list[list[str]]) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table>"
