"""The output folder: whether a run may use it, who is at work in it, and from which checkpoint it goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoint import RECIPE_FILE
from ..errors import RunError
from .checkpoints import CheckpointManifest, checkpoints, newest_whole_checkpoint, step_of
from .lock import FolderLock
from .manifest import LOCK_FILE, MANIFEST_FILE, Manifest


def inspect(folder: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Whether a run may use `folder`; nothing is written or deleted.

    Returns:
        The checkpoint to resume from, or None for a run from the start.

    Raises:
        RunError: if another process trains there, if the folder holds another run and neither `resume` nor
            `overwrite` was asked for, if it holds files that no run has listed as its own, or if there is nothing to
            resume.
    """
    _check_folder(folder, resume=resume, overwrite=overwrite)
    FolderLock(folder).check()
    if not resume:
        return None
    if found := newest_whole_checkpoint(folder):
        return found
    used = folder.is_dir() and any(folder.iterdir())
    raise RunError(
        f"{folder} holds no whole checkpoint to resume from. Start the run without --resume"
        + (", and if the folder is not accepted then, with --overwrite." if used else ".")
    )


def _check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite deletes it; give one of the two.")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; training.output_dir names a folder.")
    used = folder.is_dir() and any(path.name != LOCK_FILE for path in folder.iterdir())
    if resume or not used:
        return
    manifest = Manifest.load(folder)
    if manifest is None:
        raise RunError(_unknown(folder, overwrite))
    if manifest.begun and not overwrite:
        raise RunError(
            f"{folder} already holds a run. Go on with it by --resume, replace it by --overwrite (in Python: "
            "resume=True, overwrite=True), or choose another folder: training.output_dir=…"
        )
    if strangers := manifest.strangers():
        raise RunError(
            f"{folder} holds what its run did not make: {_some(strangers)}. Nothing was deleted. Move it to another "
            "place, or choose another folder for the run: training.output_dir=…"
        )


def claim(folder: Path, *, resume: bool, overwrite: bool) -> Manifest:
    """Make `folder` this run's own: created, locked, and emptied of the run that it replaces, or of one that came to no
    step. Called by one process, as late as possible: a run that cannot start then deletes nothing.

    Returns:
        The list of what the run makes, which is in the folder now; of a run that is resumed, the list that it has.
        The folder is this process's until `Manifest.release`.

    Raises:
        RunError: as `inspect`, or if the folder cannot be written.
    """
    _check_folder(folder, resume=resume, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        lock.acquire()
        try:
            _check_folder(folder, resume=resume, overwrite=overwrite)  # which may have changed before it was locked
            earlier = Manifest.load(folder)
            if earlier is not None and not resume:
                earlier.delete()
            manifest = earlier if earlier is not None and resume else Manifest(folder)
            manifest.begun = manifest.begun or resume
            manifest.hold(lock)
            if earlier is None and resume:
                _seal_unlisted(folder, manifest)
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}. Choose another training.output_dir.") from error
    return manifest


def _seal_unlisted(folder: Path, manifest: Manifest) -> None:
    """Give the checkpoints of a run of version 0.1 manifests: it is a run of this version now."""
    for checkpoint in checkpoints(folder):
        if not (checkpoint / MANIFEST_FILE).exists():
            processes = len(list(checkpoint.glob("rng_state*.pth")))
            CheckpointManifest(manifest.run_id, step_of(checkpoint), max(processes, 1)).seal(checkpoint)


def check_apart(folder: Path, inputs: Mapping[str, str | Path]) -> None:
    """Refuse an output folder that is, or lies above, something which a run reads.

    Args:
        inputs: files and folders, by the words that say what each is.

    Raises:
        RunError: naming the first of them that would lie in the output folder.
    """
    for what, place in inputs.items():
        if lies_in(place, folder):
            raise RunError(
                f"training.output_dir: {folder} is, or holds, {place} ({what}); a run's folder holds nothing but what "
                "the run makes. Choose another folder, e.g. training.output_dir=out/run"
            )


def lies_in(place: str | Path, folder: Path) -> bool:
    """Whether a place is a folder or lies below it, as it is written or where its links lead."""
    outer = {Path(os.path.abspath(folder)), Path(os.path.realpath(folder))}
    inner = [Path(os.path.abspath(place)), Path(os.path.realpath(place))]
    above = {part for path in inner for part in (path, *path.parents)}
    if outer & above:
        return True
    try:
        status = os.stat(folder)
    except OSError:  # a folder that is still to be made holds nothing
        return False
    # by number too: a file system may take `Data` and `data` for one folder
    return any(_same(status, part) for part in above)


def _same(status: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(status, os.stat(path))
    except OSError:
        return False


def _unknown(folder: Path, overwrite: bool) -> str:
    """What is said of a folder that holds files and no manifest."""
    other = "choose another folder: training.output_dir=…"
    if (folder / RECIPE_FILE).exists():
        resume = "Go on with it by --resume, or " if checkpoints(folder) and not overwrite else ""
        return (
            f"{folder} already holds files, {RECIPE_FILE} among them, but no {MANIFEST_FILE}: it is a project of "
            "yours, or a run of version 0.1, which did not list what it made. So --overwrite deletes nothing here. "
            + (resume + other if resume else other.capitalize())
        )
    return (
        f"{folder} already holds files, but no {MANIFEST_FILE}, so it is no run of this package, and --overwrite will "
        f"not delete them. {other.capitalize()}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
