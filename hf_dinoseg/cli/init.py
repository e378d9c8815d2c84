"""`dinoseg init IMAGES [MASKS]`"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ._errors import FAILED, Debug
from ._output import only_results_on_stdout


def init(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="The folder of images; or one that holds images and masks.", show_default=False
        ),
    ],
    masks: Annotated[
        Path | None, typer.Argument(metavar="[MASKS]", help="The folder of masks.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The recipe to write.")] = Path(
        "recipe.yaml"
    ),
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Names of the classes by id, e.g. background,vessel,disc.", show_default=False
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Hub id or folder of the backbone; DINOv3 ViT-S if not given."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take what is likeliest.")] = False,
    steps: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Train a few steps to say how long all will take.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Look at images and masks, and write a recipe that fits them, with its reasons.

    It never overwrites a file. What the masks cannot tell is asked.
    """
    if output.exists():
        raise typer.BadParameter(
            f"{output} is there already, and nothing is overwritten; name another file.", param_hint="-o"
        )
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}.", param_hint="-o")
    from ..errors import DinoSegError
    from ..new_recipe import make_recipe, measure
    from ..recipe import load_recipe

    asked: list[str] = []

    def ask(question: str, answers: Sequence[str]) -> str:
        if yes or not sys.stdin.isatty():
            asked.append(f"{question} {answers[0]} (likeliest; not asked)")
            return answers[0]
        shown = ", ".join(f"{number} {answer}" for number, answer in enumerate(answers, 1))
        while not 1 <= (choice := typer.prompt(f"{question}: {shown}", default=1, type=int)) <= len(answers):
            typer.echo(f"Write a number from 1 to {len(answers)}.")
        return answers[choice - 1]

    named = [name.strip() for name in classes.split(",")] if classes else []
    made = make_recipe(images, masks, output, ask, named, backbone)
    for name, stems in made.lists.items():
        _write(output.parent / name, "".join(f"{stem}\n" for stem in stems))
    _write(output, made.text)
    recipe = load_recipe(output)
    typer.echo(made.text, nl=False)
    typer.echo("")
    for line in [*made.told, *asked]:
        typer.echo(line)
    typer.echo(f"wrote {', '.join([str(output), *(str(output.parent / name) for name in made.lists)])}")

    from ..run import examine_run

    with only_results_on_stdout():
        report, _ = examine_run(recipe, None, 1000)
    for finding in report.findings:
        if finding.level != "info":
            typer.echo(f"{finding.level}: {finding.code}: {finding.seen} {finding.cure}")
    if not report.errors and steps:
        try:
            with only_results_on_stdout():
                cost = measure(recipe)
            typer.echo(f"time: {cost.text()}")
        except DinoSegError as error:
            typer.echo(f"time: could not be measured: {error}")
    typer.echo(f"next: dinoseg train {output}")
    if report.errors:
        raise typer.Exit(FAILED)


def _write(path: Path, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise typer.BadParameter(
            f"{path} is there already, and nothing is overwritten; name another recipe with -o.", param_hint="-o"
        ) from None
