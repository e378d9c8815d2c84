"""One process at a time in an output folder."""

from __future__ import annotations

import datetime
import logging
import os
import socket
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from ..errors import RunError
from .manifest import LOCK_FILE, Manifest

logger = logging.getLogger(__name__)

# for which the workers of a process that was killed may still hold what it held
_ORPHANS_LIVE = 20.0


class FolderLock:
    """The lock of an output folder. The kernel gives it up with the process that has it, however that ends, so it is
    never stale; who has it stands in the manifest.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK_FILE)

    def acquire(self) -> None:
        """
        Raises:
            RunError: if another process has it; the message says which.
        """
        try:
            self._take()
        except (OSError, NotImplementedError) as error:
            if isinstance(error, (Timeout, PermissionError)) or not self.folder.exists():
                raise
            if is_alive(holder := self._holder()):
                raise RunError(self._in_use(holder)) from error
            logger.warning(
                "%s lies on a file system without locks (%s): see to it that no other run uses it.", self.folder, error
            )
        if (holder := self._holder()) and holder["host"] != socket.gethostname():
            logger.warning(
                "%s was last used by process %s on %s, which did not sign off. Its lock is free, so it is taken for "
                "dead.",
                self.folder,
                holder["pid"],
                holder["host"],
            )

    def check(self) -> None:
        """Raise as `acquire` would, and take nothing."""
        if (self.folder / LOCK_FILE).exists():
            try:
                self._take()
            except (OSError, NotImplementedError):
                return  # `acquire` tells
            self.release()

    def owner(self) -> dict[str, Any]:
        """This process, as a manifest names it."""
        return this_process()

    def release(self) -> None:
        self._lock.release()

    def _take(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._holder()
            if holder is None or is_alive(holder):
                raise RunError(self._in_use(holder)) from None
            logger.info("Waiting for the workers of process %s, which is dead, to go.", holder["pid"])
            try:
                self._lock.acquire(timeout=_ORPHANS_LIVE)
            except Timeout:
                raise RunError(self._in_use(holder)) from None

    def _holder(self) -> dict[str, Any] | None:
        manifest = Manifest.load(self.folder)
        return manifest.holder if manifest else None

    def _in_use(self, holder: dict[str, Any] | None) -> str:
        who = "another process"
        if holder is not None:
            since = datetime.datetime.fromtimestamp(holder["started"]).strftime("%Y-%m-%d %H:%M")
            who = f"process {holder['pid']} on {holder['host']}, started {since}"
        return (
            f"{self.folder} is in use by {who}. Wait until it ends, or stop it (with SIGTERM it saves first); or "
            "choose another folder: training.output_dir=…"
        )


def this_process() -> dict[str, Any]:
    """Host, number and start of this process: together no other has them."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_alive(holder: dict[str, Any] | None) -> bool:
    """Whether a process may still run. Of one on another host nothing is known, so it may."""
    if holder is None:
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        # numbers are given again, so the start decides; it is counted in hundredths of a second
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1
    except psutil.Error:
        return False
