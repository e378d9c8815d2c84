"""What the tests of `dinoseg convert` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hf_dinoseg.cli import app

WIDTH = 96  # of the backbone that they convert heads onto


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def failure(*arguments: str | Path) -> str:
    """The message of a conversion that has to fail, on one line."""
    result = run(*arguments)
    assert result.exit_code in (1, 2) and "Traceback" not in result.stderr, result.output
    return str(result.stderr)
