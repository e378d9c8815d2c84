"""`dinoseg doctor RECIPE [section.key=value …]`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoint import check_place
from ._errors import FAILED, Debug
from ._options import Overrides, RecipeFile, folder_option
from ._output import only_results_on_stdout, print_json

SHEET_FILE, REPORT_FILE = "contact_sheet.png", "doctor.json"
_DRAWN = 12  # images that the contact sheet shows


def doctor(
    recipe: RecipeFile,
    overrides: Overrides = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT", help="Also predict a few images with it, and judge them.", show_default=False
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pairs of each split that are read, spread evenly.")
    ] = 1000,
    output: Annotated[Path | None, folder_option(f"Write {SHEET_FILE} and {REPORT_FILE} there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Read the data of a recipe and say what is wrong with it, and what to write instead.

    Exit code 1 if a finding is an error: training would fail, or learn something else than is meant. A fast part of
    this runs before every training.
    """
    if checkpoint is not None:
        check_place(checkpoint)
    if output is not None and output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is a file; name a folder.", param_hint="--output")
    from ..recipe import load_recipe

    checked = load_recipe(recipe, overrides or ())
    with only_results_on_stdout():
        from ..run import examine_run

        report, drawn = examine_run(checked, checkpoint, samples)
    if output is not None:
        from ..doctor import contact_sheet

        output.mkdir(parents=True, exist_ok=True)
        contact_sheet(drawn, checked.labels, report, min(samples, _DRAWN)).save(output / SHEET_FILE)
        (output / REPORT_FILE).write_text(report.to_json() + "\n", encoding="utf-8")
    print_json(report.to_dict()) if json else typer.echo(report.text())
    if output is None and not json:
        typer.echo(f"To see the masks over their images, give --output DIR: it writes {SHEET_FILE}.", err=True)
    if report.errors:
        raise typer.Exit(FAILED)
