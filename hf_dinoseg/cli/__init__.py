"""The command line: `dinoseg VERB …`, one file a verb.

Exit codes: 0 done, 1 the work failed, 2 wrong usage or recipe, 130 interrupted; of runs, those in docs/runs.md. Results
go to standard output, logs and errors to standard error. What a verb needs is imported inside the verb.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..version import __version__
from ._errors import ErrorBoundary
from .calibrate import calibrate
from .convert import convert
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .init import init
from .predict import predict
from .push import push
from .train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="dinoseg",
    cls=ErrorBoundary,
    help="Fine-tune DINOv3 for semantic segmentation, measure the result, and use it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command("init")(init)
app.command("train")(train)
app.command("evaluate")(evaluate)
app.command("predict")(predict)
app.command("calibrate")(calibrate)
app.command("doctor")(doctor)
app.command("push")(push)
app.command("export")(export)
app.command("demo")(demo)
app.add_typer(convert, name="convert")


def main(verb: str | None = None) -> None:
    """Run the command line.

    Args:
        verb: the verb, when the program stands for one (`train.py`); None reads it from the arguments.
    """
    app(args=None if verb is None else [verb, *sys.argv[1:]], prog_name="dinoseg")
