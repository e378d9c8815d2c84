"""`dinoseg calibrate CHECKPOINT [RECIPE] [section.key=value …]`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ._checkpoint import Checkpoint, check_checkpoint, loading
from ._errors import Debug
from ._output import only_results_on_stdout, print_json
from .evaluate import _recipe
from .train import Overrides


def calibrate(
    checkpoint: Checkpoint,
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="The recipe that names the data; the checkpoint's own recipe.yaml if left out.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Choose the score below which a pixel gets no class, where label 0 has none.

    Tries every threshold on the validation split, whose masks know id 0, keeps the one at which "no class" overlaps
    best with 0, and stores it in the checkpoint, with calibration.json and the curve, calibration.png.
    """
    check_checkpoint(checkpoint)
    with loading(checkpoint), only_results_on_stdout():
        checked = _recipe(checkpoint, [*([recipe] if recipe else []), *(overrides or [])])
        from ..calibrate import CURVE_FILE
        from ..calibrate import calibrate as run

        result = run(checkpoint, checked)
    if json:
        print_json(result)
        return
    typer.echo(f"threshold {result['threshold']:.3f}, stored in {checkpoint}; curve: {checkpoint}/{CURVE_FILE}")
    typer.echo(f"IoU of id 0 if no pixel had a class: {_percent(result['id0_iou_of_silence'])}\n")
    typer.echo(f"{'':32}{'without':>9}{'with':>9}")
    for title, key in _ROWS.items():
        typer.echo(f"{title:32}{_percent(result['without'][key]):>9}{_percent(result[key]):>9}")


_ROWS = {
    "IoU of id 0": "id0_iou",
    "mean IoU, id 0 as a class": "mean_iou_id0_as_class",
    "mean IoU, id 0 not counted": "mean_iou",
}


def _percent(value: Any) -> str:
    return "-" if value is None or value != value else f"{100 * value:.2f}"
