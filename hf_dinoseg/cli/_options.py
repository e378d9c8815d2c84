"""Arguments and choices that several verbs offer."""

from __future__ import annotations

from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoint import checkpoint_recipe

if TYPE_CHECKING:
    from ..recipe import Recipe


class Palette(StrEnum):
    dataset = "dataset"
    colorblind = "colorblind"


class Background(StrEnum):
    none = "none"
    threshold = "threshold"


class EvaluatedBackground(StrEnum):
    none = "none"
    threshold = "threshold"
    truth = "truth"


Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        metavar="T",
        help="Pixels whose best score is below it get no class; the checkpoint's own if not given.",
        show_default=False,
    ),
]


def a_folder(output: Path | None) -> Path | None:
    """Refuse `-`, which elsewhere means standard output, before a folder of that name is made.

    Raises:
        typer.BadParameter: with exit code 2.
    """
    if output is not None and str(output) == "-":
        raise typer.BadParameter("results are files and do not go to standard output; name a folder.")
    return output


def folder_option(help: str) -> Any:
    """`--output DIR`; each verb says what goes there."""
    return typer.Option("--output", "-o", metavar="DIR", callback=a_folder, help=help, show_default=False)


def recipe_of(checkpoint: str, recipe: str | None, overrides: list[str]) -> Recipe:
    """The recipe that is named, or else the checkpoint's own.

    What stands where a recipe may be left out can be an override: `dinoseg evaluate CHECKPOINT data.root=elsewhere`.
    """
    from ..recipe import load_recipe

    if recipe is not None and ("=" not in recipe or Path(recipe).is_file()):
        return load_recipe(recipe, overrides)
    return load_recipe(checkpoint_recipe(checkpoint), [*([recipe] if recipe else []), *overrides])


def check_background(policy: Enum | None, threshold: float | None) -> None:
    """Tell early of a policy and a threshold that contradict one another, and of a threshold that is none.

    Raises:
        typer.BadParameter: with exit code 2.
    """
    if threshold is None:
        return
    from ..inference import Background as Choice

    try:
        Choice.resolve(policy.value if policy else None, threshold)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--background, --threshold") from error


Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder or Hub id.", show_default=False)
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)]
OtherRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="The recipe that names data and measure; the checkpoint's own recipe.yaml if left out.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Changes to the recipe, e.g. training.max_steps=100 labels.ignore=[255]. Values are read as YAML.",
        show_default=False,
    ),
]
