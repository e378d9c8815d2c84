"""What verbs write to standard output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer

_SUMMARY = ("mean_iou", "mean_dice", "mean_accuracy", "overall_accuracy")
_PER_CLASS = {"IoU": "per_category_iou", "Dice": "per_category_dice", "accuracy": "per_category_accuracy"}


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Send what libraries print (the Trainer's progress bar, its logs) to standard error instead."""
    import sys

    with redirect_stdout(sys.stderr):
        yield


def print_json(data: Any) -> None:
    """One JSON document; a figure that does not exist (NaN) is null, as JSON knows no NaN."""
    from ..figures import without_nan

    typer.echo(json.dumps(without_nan(data), indent=2, ensure_ascii=False))


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """The means and, below, a line for each class; figures in per cent, a dash where there is none."""
    from ..figures import percent, void_text

    for name in _SUMMARY:
        if name in metrics:
            typer.echo(f"{name:18}{percent(metrics[name]):>8}")
    if void := void_text(metrics):
        typer.echo(void)
    columns = {title: metrics[key] for title, key in _PER_CLASS.items() if metrics.get(key)}
    if not columns:
        return
    names = list(next(iter(columns.values())))
    width = max(len("class"), *map(len, names)) + 2
    typer.echo(f"\n{'class':{width}}" + "".join(f"{title:>10}" for title in columns))
    for name in names:
        typer.echo(f"{name:{width}}" + "".join(f"{percent(column.get(name)):>10}" for column in columns.values()))
