"""Arguments and choices that several verbs offer."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Palette(str, Enum):
    dataset = "dataset"
    colorblind = "colorblind"


class Background(str, Enum):
    none = "none"
    threshold = "threshold"


class EvaluatedBackground(str, Enum):
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


__all__ = ["Background", "EvaluatedBackground", "Palette", "Threshold", "a_folder", "check_background"]
