"""What a run has made in its output folder, so that nothing else is ever deleted."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ..errors import RunError

MANIFEST_FILE = "manifest.json"
VERSION = 1

_UNFINISHED = f".{MANIFEST_FILE}.tmp"  # what a kill leaves while the manifest is being written


class Manifest:
    """The list of a run's files: `manifest.json` in the output folder, kept by the first process.

    What is about to be written is named before, so that the files of a run that is killed in between are known as its
    own too; when it is there as a whole, its files are listed one by one.

    Attributes:
        run_id: the same through all resumes.
        files: {path below the folder, with `/`: size in bytes}.
        in_progress: paths of folders and files that are being written; `*` in one stands for anything but `/`.
        begun: a step of training was done. Until then the folder holds nothing that anybody would miss.

    Example:
        >>> manifest = Manifest(Path("out/eyes"))
        >>> with manifest.filling("checkpoint-500"):
        ...     save(Path("out/eyes/checkpoint-500"))
        >>> Manifest.load(Path("out/eyes")).files
        {'checkpoint-500/config.json': 1843, 'checkpoint-500/model.safetensors': 104857600}
    """

    def __init__(
        self,
        folder: Path,
        run_id: str | None = None,
        files: Mapping[str, int] | None = None,
        in_progress: Iterable[str] = (),
        begun: bool = False,
    ) -> None:
        self.folder = folder
        self.run_id = run_id or uuid.uuid4().hex
        self.files = dict(files or {})
        self.in_progress = list(in_progress)
        self.begun = begun

    @classmethod
    def load(cls, folder: Path) -> Manifest | None:
        """The manifest of a folder, if there is one.

        Raises:
            RunError: if it is no manifest.
        """
        path = folder / MANIFEST_FILE
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                folder,
                str(read["run_id"]),
                {str(name): int(size) for name, size in read["files"].items()},
                [str(name) for name in read["in_progress"]],
                bool(read["begun"]),
            )
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
            "in_progress": self.in_progress,
            "files": self.files,
        }
        new = self.folder / _UNFINISHED
        with new.open("w", encoding="utf-8") as file:
            file.write(json.dumps(data, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.folder / MANIFEST_FILE)

    def begin(self, *names: str) -> None:
        """Say that these are about to be written."""
        self.in_progress += [name for name in names if name not in self.in_progress]
        self.save()

    def finish(self, *names: str) -> None:
        """Say that these are whole: what there is of them is listed."""
        self.in_progress = [name for name in self.in_progress if name not in names]
        self.refresh(names)

    @contextmanager
    def filling(self, *names: str) -> Iterator[None]:
        """`begin`, and `finish` if what is done within did not fail."""
        self.begin(*names)
        yield
        self.finish(*names)

    def refresh(self, names: Iterable[str] = ()) -> None:
        """Bring the list up to date: files that are gone leave it, those of `names` come into it."""
        names = tuple(names)
        found = {path for path in _walk(self.folder) if path in self.files or _among(path, names)}
        self.files = {path: (self.folder / path).lstat().st_size for path in sorted(found)}
        self.save()

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

    def delete(self) -> None:
        """Delete the run's files, then the folders that they leave empty. The manifest stays until it is replaced, so
        that this can be interrupted."""
        mine = [path for path in _walk(self.folder) if self._owns(path)]
        emptied = {part for path in mine for part in _upwards(path)[1:]}
        for path in mine:
            if path != MANIFEST_FILE:
                (self.folder / path).unlink(missing_ok=True)
        for parent, _, _ in os.walk(self.folder, topdown=False):
            place = Path(parent).relative_to(self.folder).as_posix()
            if place in emptied or _among(place, self.in_progress):
                try:
                    os.rmdir(parent)
                except OSError:  # not empty
                    pass

    def _owns(self, path: str) -> bool:
        return path in (MANIFEST_FILE, _UNFINISHED) or path in self.files or _among(path, self.in_progress)


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
