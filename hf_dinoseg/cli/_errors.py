"""The one place where an exception becomes a message and an exit code."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from ..errors import DinoSegError

_DEBUG = "hf_dinoseg.debug"

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


class _ToStandardError(logging.Handler):
    """Log lines between the progress bars, which are drawn on standard error as well."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        try:
            tqdm.write(f"{kind}{self.format(record)}", file=sys.stderr)
        except Exception:
            self.handleError(record)


def _start_logging(context: typer.Context, debug: bool) -> bool:
    context.meta[_DEBUG] = debug
    quiet = os.environ.get("RANK", "0") != "0"
    ours = logging.getLogger(__name__.partition(".")[0])
    ours.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _ToStandardError) for handler in ours.handlers):
        ours.addHandler(_ToStandardError())
    return debug


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_start_logging, help="Show the traceback of an error, and log in detail."),
]


class ErrorBoundary(TyperGroup):
    """Runs a verb. An error that the package foresaw is one message; any other keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            message = message_for(error)
            if message is None:
                raise
            if ctx.meta.get(_DEBUG):
                traceback.print_exc()
            _say(message)
            raise typer.Exit(_exit_code(error)) from None


def message_for(error: Exception) -> str | None:
    """What the user is told of an error; None if the package did not foresee it, which makes it a fault of the
    program: the traceback is then the message."""
    if isinstance(error, DinoSegError):
        return str(error)
    if (
        type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, MemoryError)
        or "DefaultCPUAllocator" in str(error)
    ):
        return (
            f"out of memory ({_first_line(error)}). Lower training.per_device_train_batch_size (and raise "
            "training.gradient_accumulation_steps), data.crop_size or evaluation.batch_size."
        )
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        if error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror}."
        return str(error) or type(error).__name__  # the Hub's: whole sentences with the cure in them
    return None


def _exit_code(error: Exception) -> int:
    return error.exit_code if isinstance(error, DinoSegError) else FAILED


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(message: str) -> None:
    """Print an error, once however many processes of one launch come to say it."""
    world, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if world == "1":
        typer.echo(f"dinoseg: {message}", err=True)
    elif _is_first_to_say(message):
        typer.echo(f"dinoseg (process {rank} of {world}): {message}", err=True)


def _is_first_to_say(message: str) -> bool:
    """Whether no other process of this machine and launch said the same.

    torchrun, which `accelerate launch` uses, gives each process a file for its error, in folders that belong to one
    launch alone; a mark beside those is taken by the first process. Where there is none, every process speaks: better
    twice than never, since the error may be of one process only (a broken image in its share).
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not error_file:
        return True
    mark = Path(error_file).parent.parent / f"dinoseg-{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
