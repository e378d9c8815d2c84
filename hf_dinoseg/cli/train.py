"""`dinoseg train RECIPE [section.key=value …]`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ._errors import Debug
from ._output import print_metrics

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Changes to the recipe, e.g. training.max_steps=100 labels.ignore=[255]. Values are read as YAML.",
        show_default=False,
    ),
]


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)],
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in training.output_dir.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in training.output_dir.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Train although a check of the data finds an error (dinoseg doctor).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, print it with every default, and train nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe.

    The checkpoint, its metrics, pictures and model card are left in training.output_dir. For several processes:
    accelerate launch train.py RECIPE [SECTION.KEY=VALUE]...
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume keeps the run that is there and --overwrite deletes it; give one of them.")
    from ..recipe import load_recipe

    checked = load_recipe(recipe, overrides or ())
    if dry_run:
        typer.echo(checked.to_yaml(), nl=False)
        return
    from .. import build

    unchecked = {"force": True} if force else {}
    metrics = build.train(checked, resume=resume, overwrite=overwrite, **unchecked)
    if os.environ.get("RANK", "0") == "0":
        print_metrics(metrics)
        typer.echo(f"\ncheckpoint: {checked.training['output_dir']}")
