"""`dinoseg evaluate CHECKPOINT [RECIPE] [section.key=value …]`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoint import check_place
from ._errors import Debug
from ._options import (
    Checkpoint,
    EvaluatedBackground,
    OtherRecipe,
    Overrides,
    Palette,
    Threshold,
    check_background,
    folder_option,
    recipe_of,
)
from ._output import only_results_on_stdout, print_json, print_metrics


def evaluate(
    checkpoint: Checkpoint,
    recipe: OtherRecipe = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        folder_option(
            "Write metrics.json, per_class.csv, per_image.csv, confusion.png, panels/ and report.html there."
        ),
    ] = None,
    palette: Annotated[
        Palette | None,
        typer.Option(
            help="Colours of the images, short for evaluation.palette=…: dataset, or colorblind for ones that "
            "everybody can tell apart.",
            show_default=False,
        ),
    ] = None,
    background: Annotated[
        EvaluatedBackground | None,
        typer.Option(
            help="What is answered where no class is likely, short for evaluation.background=…: none for the best "
            "class all the same, threshold for no class below a score, truth to draw void where the truth has it.",
            show_default=False,
        ),
    ] = None,
    threshold: Threshold = None,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Measure a checkpoint on the validation split of a recipe, as training did."""
    check_place(checkpoint)
    check_background(background, threshold)
    with only_results_on_stdout():
        colors = [f"evaluation.palette={palette.value}"] if palette else []
        choice = _background_overrides(background, threshold)
        checked = recipe_of(checkpoint, recipe, [*(overrides or []), *colors, *choice])
        from .. import run

        metrics = run.evaluate(checkpoint, checked, None if output is None else str(output))
    if os.environ.get("RANK", "0") != "0":
        return
    print_json(metrics) if json else print_metrics(metrics)


def _background_overrides(background: EvaluatedBackground | None, threshold: float | None) -> list[str]:
    """The overrides for the recipe's two background fields, which depend on each other: setting one resets the
    other."""
    if background is None and threshold is None:
        return []
    fields = [f"evaluation.background={background.value if background else 'threshold'}"]
    if background is not EvaluatedBackground.threshold or threshold is not None:
        fields.append(f"evaluation.background_threshold={'null' if threshold is None else threshold}")
    return fields
