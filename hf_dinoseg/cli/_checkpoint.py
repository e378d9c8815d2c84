"""The CHECKPOINT argument: a folder that a run left, or a Hub id."""

from __future__ import annotations

from typing import Annotated

import typer

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder or Hub id.", show_default=False)
]
