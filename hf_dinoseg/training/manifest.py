"""What a run has made in its output folder, so that nothing else is ever deleted, and what it was made with."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import RunError

if TYPE_CHECKING:
    from .lock import FolderLock

MANIFEST_FILE = "manifest.json"
LOCK_FILE = ".lock"
VERSION = 2

_UNFINISHED = f".{MANIFEST_FILE}.tmp"  # what a kill leaves while the manifest is being written
_PIECE = 1 << 20


class FileRecord(TypedDict):
    """What is known of a file: its size in bytes, and its SHA-256."""

    size: int
    sha256: str


def record_file(path: Path) -> FileRecord:
    """Size and hash of a file; of a link, those of where it leads to, which is not looked at.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    if path.is_symlink():
        target = os.fsencode(os.readlink(path))
        digest.update(target)
        return {"size": len(target), "sha256": digest.hexdigest()}
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def write_whole(path: Path, text: str) -> None:
    """Write a file so that the old one or the new one is there at any time, never a part."""
    new = path.with_name(f".{path.name}.tmp")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


class Manifest:
    """The list of a run's files: `manifest.json` in the output folder, kept by the first process.

    What is about to be written is named before, so that the files of a run that is killed in between are known as its
    own too; when it is there as a whole, its files are listed one by one.

    Attributes:
        run_id: the same through all resumes.
        files: {path below the folder, with `/`: size and hash}.
        in_progress: paths of folders and files that are being written; `*` in one stands for anything but `/`.
        begun: a step of training was done. Until then the folder holds nothing that anybody would miss.
        holder: the process that trains: `host`, `pid`, `started`; None when none does.
        settings: what was in force from which step on: first everything, then what changed; see `note_settings`.
        data: fingerprint of the data, by split.
        best: the best checkpoint so far, by its path below the folder.

    Example:
        >>> manifest = Manifest(Path("out/eyes"))
        >>> with manifest.filling("recipe.yaml"):
        ...     Path("out/eyes/recipe.yaml").write_text(text)
        >>> Manifest.load(Path("out/eyes")).files
        {'recipe.yaml': {'size': 1843, 'sha256': '1b4f0e98…'}}
    """

    def __init__(
        self,
        folder: Path,
        run_id: str | None = None,
        files: Mapping[str, FileRecord] | None = None,
        in_progress: Iterable[str] = (),
        begun: bool = False,
    ) -> None:
        self.folder = folder
        self.run_id = run_id or uuid.uuid4().hex
        self.files = dict(files or {})
        self.in_progress = list(in_progress)
        self.begun = begun
        self.holder: dict[str, Any] | None = None
        self.settings: list[dict[str, Any]] = []
        self.data: dict[str, Any] = {}
        self.best: str | None = None
        self._lock: FolderLock | None = None

    def hold(self, lock: FolderLock) -> None:
        """Take over a lock of the folder, which is acquired; and say so in the file."""
        self._lock, self.holder = lock, lock.owner()
        self.save()

    def release(self) -> None:
        """Give the folder free: whoever comes next may have it."""
        if self._lock is not None:
            try:
                self.holder = None
                self.save()
            finally:
                self._lock.release()
                self._lock = None

    @classmethod
    def load(cls, folder: Path) -> Manifest | None:
        """The manifest of a folder, if there is one.

        Raises:
            RunError: if it is no manifest.
        """
        path = folder / MANIFEST_FILE
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            manifest = cls(
                folder,
                str(read["run_id"]),
                {str(name): as_record(entry) for name, entry in read["files"].items()},
                [str(name) for name in read["in_progress"]],
                bool(read["begun"]),
            )
            manifest.holder = None if read["holder"] is None else dict(read["holder"])
            manifest.settings = [dict(entry) for entry in read["settings"]]
            manifest.data = dict(read["data"])
            manifest.best = None if read["best"] is None else str(read["best"])
            return manifest
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(
                f"{path} cannot be read as the list of a run's files ({error}), so it is not known which files here "
                "are the run's. Move the folder, or choose another: training.output_dir=…"
            ) from error

    def save(self) -> None:
        """Write it: the old one or the new one is there at any time, never a part."""
        data = {
            "version": VERSION,
            "run_id": self.run_id,
            "begun": self.begun,
            "holder": self.holder,
            "best": self.best,
            "data": self.data,
            "settings": self.settings,
            "in_progress": self.in_progress,
            "files": self.files,
        }
        write_whole(self.folder / MANIFEST_FILE, json.dumps(data, indent=1) + "\n")

    def begin(self, *names: str) -> None:
        """Say that these are about to be written."""
        self.in_progress += [name for name in names if name not in self.in_progress]
        self.save()

    def finish(self, *names: str, known: Mapping[str, FileRecord] | None = None) -> None:
        """Say that these are whole: what there is of them is listed.

        Args:
            known: files that need not be read for it.
        """
        self.in_progress = [name for name in self.in_progress if name not in names]
        self.refresh(names, known)

    @contextmanager
    def filling(self, *names: str) -> Iterator[None]:
        """`begin`, and `finish` if what is done within did not fail."""
        self.begin(*names)
        yield
        self.finish(*names)

    def refresh(self, names: Iterable[str] = (), known: Mapping[str, FileRecord] | None = None) -> None:
        """Bring the list up to date: files that are gone leave it, those of `names` come into it as they are now."""
        names, known = tuple(names), known or {}
        files = {}
        for path in sorted(_walk(self.folder)):
            if path in known:
                files[path] = known[path]
            elif _among(path, names) and path not in (LOCK_FILE, MANIFEST_FILE):
                files[path] = record_file(self.folder / path)
            elif path in self.files:
                files[path] = self.files[path]
        self.files = files
        self.save()

    def changed(self, patterns: Iterable[str] = ("*",)) -> list[str]:
        """The listed files, among those that match one of the patterns, that are not as the run left them: gone, or
        with other bytes."""
        return [
            path
            for path, entry in self.files.items()
            if any(fnmatchcase(path, pattern) for pattern in patterns) and not _is(self.folder / path, entry)
        ]

    def note_settings(self, step: int, entry: dict[str, Any]) -> None:
        """Write down what is in force from a step on; what was noted for that step or later never came to be."""
        kept = [noted for noted in self.settings if noted["from_step"] < step]
        self.settings = [*kept, {"from_step": step, **entry}]

    def strangers(self) -> list[str]:
        """What lies in the folder and is not the run's: files, or folders in which nothing is."""
        known = {part for path in self.files for part in _upwards(path)} | {
            part for name in self.in_progress for part in _upwards(name)
        }
        strangers = {}
        for path in _walk(self.folder):
            if not self._owns(path):
                # a whole folder of someone else's is named once, by its topmost name
                shown = next((part for part in reversed(_upwards(path)) if part not in known), path)
                strangers[shown if shown == path else f"{shown}/"] = True
        return list(strangers)

    def delete(self, below: str = "") -> None:
        """Delete the run's files, then the folders that they leave empty. The manifest stays until it is replaced, so
        that this can be interrupted.

        Args:
            below: only those in this folder of the run; all without it.
        """
        mine = [path for path in _walk(self.folder) if self._owns(path) and (not below or _among(path, [below]))]
        # a checkpoint is no whole one from the first file on
        mine.sort(key=lambda path: not path.endswith(f"/{MANIFEST_FILE}"))
        emptied = {part for path in mine for part in _upwards(path)[1:]}
        for path in mine:
            if path not in (MANIFEST_FILE, LOCK_FILE):
                (self.folder / path).unlink(missing_ok=True)
        for parent, _, _ in os.walk(self.folder, topdown=False):
            place = Path(parent).relative_to(self.folder).as_posix()
            if place in emptied or _among(place, self.in_progress) and (not below or _among(place, [below])):
                try:
                    os.rmdir(parent)
                except OSError:  # not empty
                    pass

    def _owns(self, path: str) -> bool:
        own = (MANIFEST_FILE, LOCK_FILE, _UNFINISHED)
        return path in own or path in self.files or _among(path, self.in_progress)


def as_record(entry: Any) -> FileRecord:
    """What stands in a manifest of a file.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    return {"size": int(entry["size"]), "sha256": str(entry["sha256"])}


def _is(path: Path, entry: FileRecord) -> bool:
    try:
        return (path.is_symlink() or path.stat().st_size == entry["size"]) and record_file(path) == entry
    except OSError:
        return False


def _walk(folder: Path) -> Iterator[str]:
    """Every file below, by its path from the folder. A link is a file: what it leads to is not looked at."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([*links, *names]):
            yield Path(parent, name).relative_to(folder).as_posix()


def _upwards(path: str) -> list[str]:
    """The path, the folder that it is in, the folder of that …"""
    pure = PurePosixPath(path)
    return [str(pure), *(str(parent) for parent in pure.parents if parent.name)]


def _among(path: str, names: Iterable[str]) -> bool:
    """Whether a path is one of these, or lies below one."""
    parts = path.split("/")
    wanted = [name.split("/") for name in names]
    return any(
        len(name) <= len(parts) and all(fnmatchcase(part, pattern) for part, pattern in zip(parts, name, strict=False))
        for name in wanted
    )
