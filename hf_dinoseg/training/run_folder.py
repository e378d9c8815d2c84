"""The output folder: who owns it, where a run goes on, and what counts as a whole checkpoint."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import RunError

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"
_CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-<step>` folders in `folder`, newest step first, torn ones among them."""
    found = [(int(m.group(1)), p) for p in folder.glob("*") if p.is_dir() and (m := _CHECKPOINT.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is there from end to end: the Trainer writes its state last, and what it deletes may have
    lost its weights first."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="pt"):  # reads the header, and compares it with the file's length
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    # sharded by FSDP or DeepSpeed, weights are in folders of their own
    return any(checkpoint.glob("*.safetensors")) or any(path.is_dir() for path in checkpoint.iterdir())


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that training can resume from; torn ones are passed over with a warning."""
    for checkpoint in checkpoints(folder):
        if is_whole(checkpoint):
            return checkpoint
        logger.warning("%s was not written to its end and is ignored.", checkpoint)
    return None


def inspect(folder: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Whether a run may use `folder`; nothing is written or deleted.

    Returns:
        The checkpoint to resume from, or None for a run from the start.

    Raises:
        RunError: if the folder holds another run and neither `resume` nor `overwrite` was asked for, if it holds
            files that are no run of ours, or if there is nothing to resume.
    """
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite deletes it; give one of the two.")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; training.output_dir names a folder.")
    used = folder.is_dir() and any(folder.iterdir())
    ours = (folder / RECIPE_FILE).exists()
    if resume:
        if found := newest_whole_checkpoint(folder) if used else None:
            return found
        raise RunError(
            f"{folder} holds no whole checkpoint to resume from. Start the run without --resume"
            + (" and with --overwrite, since the folder is not empty." if used else ".")
        )
    if used and not overwrite:
        raise RunError(
            f"{folder} already holds {'a run' if ours else 'files'}. Go on with it by --resume, replace it by "
            "--overwrite, or choose another folder: training.output_dir=…"
        )
    if used and not ours:
        raise RunError(
            f"{folder} is not empty and holds no {RECIPE_FILE}, so it is no run of this package and --overwrite will "
            "not delete it. Choose another folder: training.output_dir=…"
        )
    return None


def claim(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make `folder` this run's own: created, and emptied of the run that it replaces. Called by one process, as late
    as possible, so that a run that cannot start costs no finished work.

    Raises:
        RunError: as `inspect`, or if the folder cannot be written.
    """
    inspect(folder, resume=resume, overwrite=overwrite)
    try:
        if overwrite and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}. Choose another training.output_dir.") from error
