"""The `checkpoint-<step>` folders of a run: what makes one whole, which is the newest, which of them go.

A checkpoint has a manifest of its own, written last. It is whole if every file that stands there has the size and the
hash that stand there; nothing else is asked, and no date.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import RunError
from .manifest import MANIFEST_FILE, VERSION, FileRecord, Manifest, as_record, record_file, write_whole

logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def checkpoint_name(step: int) -> str:
    return f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-<step>` folders in `folder`, newest step first, torn ones among them."""
    found = [path for path in folder.glob("*") if path.is_dir() and _CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says.

    Raises:
        ValueError: if it is not named as one.
    """
    if (match := _CHECKPOINT.fullmatch(checkpoint.name)) is None:
        raise ValueError(f"{checkpoint} is not named as a checkpoint")
    return int(match[1])


@dataclass
class CheckpointManifest:
    """What `manifest.json` in a checkpoint says.

    Attributes:
        run_id: of the run; None if that keeps no manifest.
        step: of training.
        processes: that trained.
        resumable: training can go on from here: it is more than a model.
        evaluation_due: an evaluation of this step was to follow.
        best: the best checkpoint so far, by its path below the run's folder.
        settings: those in force, as plain data.
        data: fingerprint of the data, by split.
        files: {path below the checkpoint: size and hash}.
        replacing: {path: what it is about to be}, while a file is replaced.
    """

    run_id: str | None
    step: int
    processes: int
    resumable: bool = True
    evaluation_due: bool = False
    best: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    replacing: dict[str, FileRecord] = field(default_factory=dict)

    @classmethod
    def load(cls, checkpoint: Path) -> CheckpointManifest:
        """
        Raises:
            FileNotFoundError: if there is none.
            OSError, ValueError, KeyError, TypeError, AttributeError: if it is none.
        """
        read = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
        if read.pop("version") > VERSION:
            raise ValueError("it is of a newer version of this package")
        for name in ("files", "replacing"):
            read[name] = {str(path): as_record(entry) for path, entry in read[name].items()}
        manifest = cls(**read)
        manifest.step, manifest.processes = int(manifest.step), int(manifest.processes)
        return manifest

    def save(self, checkpoint: Path) -> None:
        write_whole(checkpoint / MANIFEST_FILE, json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n")

    def seal(self, checkpoint: Path) -> None:
        """Write it of the files that are there now, which makes the checkpoint whole."""
        paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / MANIFEST_FILE)
        self.files = {path.relative_to(checkpoint).as_posix(): record_file(path) for path in paths}
        self.save(checkpoint)

    def replace(self, checkpoint: Path, name: str, text: str) -> None:
        """Put a text file in the place of one; the checkpoint is whole at any time."""
        new = checkpoint / f".{name}.new"
        write_whole(new, text)
        self.replacing = {name: record_file(new)}
        self.save(checkpoint)
        new.replace(checkpoint / name)
        self.files |= self.replacing
        self.replacing = {}
        self.save(checkpoint)


def fault_of(checkpoint: Path, *, listed: bool = True) -> str | None:
    """Why training cannot go on from a checkpoint, in words that follow its name; None if it is whole.

    Args:
        listed: checkpoints of this run have manifests. Those of version 0.1 have not, and are looked at from outside.
    """
    try:
        manifest = CheckpointManifest.load(checkpoint)
    except FileNotFoundError:
        return "was not written to its end" if listed else _fault_from_outside(checkpoint)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a {MANIFEST_FILE} that cannot be read ({error})"
    if not manifest.resumable:
        return "holds a model and nothing to go on from (training.save_only_model)"
    for name, entry in manifest.files.items():
        path = checkpoint / name
        try:
            size = path.stat().st_size
            expected = [entry, *(other for key, other in manifest.replacing.items() if key == name)]
            if size not in {each["size"] for each in expected}:
                return f"is damaged: {name} has {size} bytes of {entry['size']}"
            if record_file(path) not in expected:
                return f"is damaged: {name} holds other bytes than were written"
        except FileNotFoundError:
            return f"is damaged: {name} is missing"
        except OSError as error:
            return f"cannot be read: {name}: {error.strerror or error}"
    return None


class ModelFault(NamedTuple):
    """A model that is not as its run wrote it: what was seen, and what to do."""

    seen: str
    cure: str


def model_faults(folder: Path, patterns: Iterable[str]) -> list[ModelFault]:
    """What is wrong with a finished model by the manifest that lies beside it, of a run or of a checkpoint. Nothing is
    said of a folder without one.

    Args:
        patterns: names of the files that are looked at.
    """
    patterns = tuple(patterns)
    try:
        run = Manifest.load(folder)
    except RunError:  # a checkpoint's, or something else's
        try:
            run = Manifest(folder, files=CheckpointManifest.load(folder).files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []
    if run is None:
        return []
    if any(fnmatchcase(name, pattern) for name in run.in_progress for pattern in patterns):
        return [ModelFault(f"{folder}: the run was not over when it wrote this model.", "Go on with --resume.")]
    changed = [name for name in run.changed(patterns) if "/" not in name]
    return [ModelFault(f"{folder / name} is not as the run wrote it.", "Copy it anew.") for name in changed]


def _fault_from_outside(checkpoint: Path) -> str | None:
    """What can be said without hashes: the Trainer writes its state last, and weights tell their own length."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            return f"is damaged: {TRAINER_STATE_NAME} is no state of training"
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="pt"):  # reads the header, and compares it with the file's length
                pass
    except (OSError, ValueError, SafetensorError):
        return "was not written to its end"
    if any(path.is_dir() for path in checkpoint.iterdir()):
        return None  # sharded by FSDP or DeepSpeed: weights and the optimiser are in folders of their own
    if not any(checkpoint.glob("*.safetensors")):
        return "is damaged: its weights are missing"
    lacking = [name for name in (OPTIMIZER_NAME, SCHEDULER_NAME) if not (checkpoint / name).is_file()]
    if not any(checkpoint.glob("rng_state*.pth")):
        lacking.append("rng_state.pth")
    return f"is damaged: {lacking[0]} is missing" if lacking else None


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, by step, that training can go on from; why others are passed over is logged."""
    listed = (folder / MANIFEST_FILE).exists()
    passed_over: list[str] = []
    for checkpoint in checkpoints(folder):
        if (fault := fault_of(checkpoint, listed=listed)) is None:
            if passed_over:
                logger.warning("%s is the newest whole checkpoint: %s.", checkpoint, "; ".join(passed_over))
            return checkpoint
        passed_over.append(f"{checkpoint.name} {fault}")
    if passed_over:
        logger.warning("%s holds no whole checkpoint: %s.", folder, "; ".join(passed_over))
    return None


def rotate(folder: Path, keep: int | None, newest: int, best: int | None, manifest: Manifest | None = None) -> None:
    """Delete checkpoints until `keep` are left, those of the earliest steps first.

    Args:
        keep: at least 1; None deletes none. The newest and the best stay in any case.
        newest: the step that was just saved. Later ones are of a future that a resume gave up; they are left alone
            until their step comes again.
        best: the best one's step.
        manifest: of the run, whose files alone are deleted; without one the folders go.
    """
    if keep is None:
        return
    there = [path for path in checkpoints(folder) if step_of(path) <= newest]
    if manifest is not None:  # what a user put into a folder that went is no checkpoint
        there = [path for path in there if (path / MANIFEST_FILE).exists()]
    kept = {newest, best} & {step_of(path) for path in there}
    surplus = [path for path in reversed(there) if step_of(path) not in kept]
    for path in surplus[: max(len(there) - max(keep, len(kept)), 0)]:
        if manifest is None:
            shutil.rmtree(path, ignore_errors=True)
        else:
            manifest.delete(path.name)
    if manifest is not None:
        manifest.refresh()
