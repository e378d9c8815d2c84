"""What verbs write to standard output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer


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
    """The means and a line for each class."""
    from ..evaluation.metrics import metrics_text

    typer.echo(metrics_text(metrics))
