"""The CHECKPOINT argument: a folder that a run left, or a Hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

from ..errors import ModelError

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder or Hub id.", show_default=False)
]


class CheckpointError(ModelError):
    """A checkpoint that is neither here nor on the Hub, or whose weights are broken."""


def check_checkpoint(checkpoint: str) -> None:
    """Tell early what a path lacks that is meant as a checkpoint folder; what may be a Hub id passes.

    Raises:
        typer.BadParameter: with exit code 2.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inside = sorted(p.parent.name for p in folder.glob("*/config.json"))
            hint = f" These folders in it do: {', '.join(inside[:5])}." if inside else ""
            raise typer.BadParameter(f"{checkpoint} holds no config.json, so it is no checkpoint.{hint}")
    elif folder.exists():
        raise typer.BadParameter(f"{checkpoint} is a file; name the checkpoint's folder.")
    elif checkpoint.count("/") != 1 or checkpoint.startswith((".", "/", "~")):
        raise typer.BadParameter(f"there is no folder {checkpoint}.")


@contextmanager
def loading(checkpoint: str) -> Iterator[None]:
    """Add to what the Hub says that there is no folder of that name either.

    Raises:
        CheckpointError: in place of the Hub's OSError, and of what safetensors says of a file that was cut short.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or Path(checkpoint).is_dir():
            raise
        raise CheckpointError(f"{checkpoint}: there is no such folder here, and the Hub says: {error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{checkpoint}: its weights are broken ({error}); copy or download them anew.") from error
