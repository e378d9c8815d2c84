"""`dinoseg train RECIPE [section.key=value …]`"""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._errors import Debug
from ._options import Overrides, RecipeFile
from ._output import only_results_on_stdout, print_json, print_metrics

REPORT_FILE = "report.html"  # as `evaluation.results` names it, whose imports `--help` does without

if TYPE_CHECKING:
    from ..recipe import Recipe


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in training.output_dir.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in training.output_dir.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Train although a check of the data finds an error (dinoseg doctor), or resume although "
            "the data changed.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the recipe with every default, and try it: two steps with a tiny backbone on generated "
            "images. No data, no download, nothing written.",
        ),
    ] = False,
    print_recipe: Annotated[
        bool, typer.Option("--print", help="Print the recipe with its base and every default filled in, and stop.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the metrics, what a dry run did, or the recipe as JSON.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe.

    The checkpoint, its metrics, images and model card are left in training.output_dir. For several processes:
    accelerate launch train.py RECIPE [SECTION.KEY=VALUE]...
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume keeps the run that is there and --overwrite deletes it; give one of them.")
    if print_recipe and dry_run:
        raise typer.BadParameter("--dry-run prints the recipe too; give one of --print and --dry-run.")
    from ..recipe import load_recipe

    checked = load_recipe(recipe, overrides or ())
    if print_recipe:
        if json:
            print_json(checked.to_dict())
        else:
            typer.echo(checked.to_yaml(), nl=False)
            typer.echo(_protocol_text(checked), nl=False)
        return
    if dry_run:
        _dry_run(checked, json)
        return
    from .. import run

    with only_results_on_stdout() if json else nullcontext():
        metrics = run.train(checked, resume=resume, overwrite=overwrite, force=force)
    if os.environ.get("RANK", "0") == "0":
        if json:
            print_json(metrics)
            return
        print_metrics(metrics)
        _what_next(checked.training["output_dir"], metrics.get("step"))


def _what_next(folder: str, step: int | None) -> None:
    """Where the result is, and what to do with it."""
    weights = f" (weights of step {step})" if step is not None else ""
    typer.echo(f"\ncheckpoint: {folder}{weights}")
    if (report := Path(folder) / REPORT_FILE).is_file():
        typer.echo(f"report:     {report}")
    place = shlex.quote(folder)
    typer.echo(f"next:       dinoseg demo {place}    a page in the browser, to try your own images")
    typer.echo(f"            dinoseg predict {place} IMAGES --output predictions/")


def _protocol_text(recipe: Recipe) -> str:
    """As comments of a recipe, where it differs from its protocol; nothing without one."""
    from ..recipe import deviations, plain

    if recipe.protocol is None:
        return ""
    found = deviations(recipe)
    if not found:
        return f"# As protocol {recipe.protocol} in every field.\n"
    told = "".join(f"#   {d.field}: {plain(d.here)} (published: {plain(d.published)})\n" for d in found)
    return f"# Other than protocol {recipe.protocol}:\n{told}"


def _dry_run(recipe: Recipe, json: bool) -> None:
    """Print the resolved recipe and, as comments below it, what the rehearsal did."""
    with only_results_on_stdout():
        from ..testing.dry_run import dry_run as rehearse

        did = rehearse(recipe)
    if json:
        print_json({"recipe": recipe.to_dict(), "dry_run": did})
        return
    width, height = did["image_size"]
    losses = ", ".join(f"{loss:.3g}" for loss in did["losses"])
    typer.echo(recipe.to_yaml(), nl=False)
    typer.echo(_protocol_text(recipe), nl=False)
    typer.echo(
        f"# Dry run: {did['steps']} steps on generated images of {width} x {height}, losses {losses}, and an "
        f"evaluation of one.\n# {did['num_labels']} classes, head {did['head']}, tune {did['tune']}, a tiny "
        f"{did['backbone']} in place of {did['in_place_of']}.\n# {did['magnification']}\n"
        "# Nothing was downloaded, nothing is left on disk. "
        "Whether the data is there and fits: dinoseg doctor."
    )
