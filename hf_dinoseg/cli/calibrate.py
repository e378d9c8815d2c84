"""`dinoseg calibrate CHECKPOINT [RECIPE] [section.key=value …]`"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoint import check_place
from ._errors import Debug
from ._options import (
    Background,
    Checkpoint,
    OtherRecipe,
    Overrides,
    check_background,
    folder_option,
    recipe_of,
)
from ._output import only_results_on_stdout, print_json

if TYPE_CHECKING:
    from ..calibrate import Calibration


class By(StrEnum):
    mean_iou = "mean_iou"
    mean_iou_id0_as_class = "mean_iou_id0_as_class"


def calibrate(
    checkpoint: Checkpoint,
    recipe: OtherRecipe = None,
    overrides: Overrides = None,
    background: Annotated[
        Background | None,
        typer.Option(help="none to look at, or go back to, no threshold at all.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="T", help="The threshold to choose in place of the best.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, folder_option("Write calibration.json and the curves, calibration.png, there.")
    ] = None,
    write: Annotated[
        bool,
        typer.Option("--write", help="Store the choice in the checkpoint, with the figures and the card it leads to."),
    ] = False,
    by: Annotated[
        By, typer.Option(help="The figure that must not get worse: --write refuses if it does.")
    ] = By.mean_iou,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the last --write replaced.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Choose the score below which a pixel gets no class, where label 0 has none.

    Tries every threshold on the validation split, whose masks know id 0, and shows what some of them would do. The
    checkpoint is changed by --write only, and not if it would get worse by that.
    """
    check_place(checkpoint)
    check_background(background, threshold)
    if undo:
        if write or output or threshold is not None or background:
            raise typer.BadParameter("it goes alone.", param_hint="--undo")
        _undo(checkpoint, json)
        return
    if background is Background.threshold and threshold is None:
        background = None  # the best one
    with only_results_on_stdout():
        checked = recipe_of(checkpoint, recipe, overrides or [])
        from .. import calibrate as calibration
        from ..inference import Background as Choice

        asked = Choice.resolve(background.value if background else None, threshold) if background or threshold else None
        found = calibration.calibrate(checkpoint, checked, asked)
        if output is not None:
            found.save(output)
    if not json:
        _show(found, output)
    kept = None
    try:
        if write:
            with only_results_on_stdout():
                kept = calibration.write(checkpoint, checked, found, by.value)
    finally:
        if json:
            print_json({**found.to_dict(), "kept": None if kept is None else str(kept)})
    if json:
        return
    if kept is None:
        typer.echo("\nNothing was written into the checkpoint; --write does that.")
        return
    what = "no threshold" if found.chosen is None else f"threshold {found.chosen:.3f}"
    typer.echo(
        f"\n{what} stored in {checkpoint}: config, metrics and card; curves: {kept.parent}/{calibration.CURVE_FILE}"
    )
    typer.echo(f"what was there before: {kept}; it comes back with: dinoseg calibrate {checkpoint} --undo")


def _undo(checkpoint: str, as_json: bool) -> None:
    from ..calibrate import undo

    names = undo(checkpoint)
    print_json({"put_back": names}) if as_json else typer.echo(f"{checkpoint} is as before: {', '.join(names)}")


def _show(found: Calibration, output: Path | None) -> None:
    from ..calibrate import CURVE_FILE, TITLES

    short = ("IoU of id 0", "mean IoU, 0 a class", "mean IoU, 0 not counted")
    typer.echo(f"{'threshold':>9}" + "".join(f"{title:>{len(title) + 3}}" for title in short))
    for row in found.table():
        threshold = row["threshold"]
        figures = "".join(f"{_percent(row[name]):>{len(title) + 3}}" for name, title in zip(TITLES, short, strict=True))
        notes = {"as it is": found.current, "best": found.best, "chosen": found.chosen}
        told = ", ".join(note for note, of in notes.items() if of == threshold)
        typer.echo(f"{'none' if threshold is None else format(threshold, '.3f'):>9}{figures}   {told}".rstrip())
    typer.echo(f"\n{found.num_images} images; IoU of id 0 if no pixel had a class: {_percent(found.curve.silence_iou)}")
    typer.echo(f"curves: {output / CURVE_FILE}" if output else "the curves are drawn with --output DIR")


def _percent(value: Any) -> str:
    return "-" if value is None or value != value else f"{100 * value:.2f}"
