"""What this package raises on purpose.

The message of each is complete: what was found, where, and what to do. The command line prints it and adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


class DinoSegError(Exception):
    """Base of all errors that this package raises on purpose.

    Attributes:
        exit_code: with which the command line ends.
    """

    exit_code = 1


class LabelError(DinoSegError, ValueError):
    """A mask or a label space that contradicts itself."""


class DataError(DinoSegError, ValueError):
    """Files that are missing, broken or contradict one another.

    A DataLoader rebuilds its worker's error from the formatted traceback (`torch._utils.ExceptionWrapper`). Only the
    message at the traceback's end helps the user, so only that is kept.

    Example:
        >>> str(DataError("a.png: the file is empty."))
        'a.png: the file is empty.'
    """

    def __init__(self, message: str) -> None:
        marker = f"{type(self).__module__}.{type(self).__qualname__}: "
        if message.startswith("Caught ") and marker in message:
            message = message.rpartition(marker)[2].rstrip("\n")
        super().__init__(message)


class ImageError(DataError):
    """An image or mask file that cannot be opened."""


class NoSuchFileError(ImageError, FileNotFoundError):
    """A path that leads to no file."""


class TooLargeError(ImageError):
    """A file whose head says that it unpacks to more pixels than are allowed.

    Attributes:
        pixels: how many it has; 0 where that is not known.
    """

    def __init__(self, message: str, pixels: int = 0) -> None:
        super().__init__(message)
        self.pixels = pixels


class OneHotError(ImageError):
    """An array with a plane for each class where a mask of ids is expected.

    Attributes:
        what: the array, without the file's name.
        cure: the line that makes ids of it.
    """

    def __init__(self, message: str, what: str = "", cure: str = "") -> None:
        super().__init__(message)
        self.what, self.cure = what, cure


class RecipeError(DinoSegError, ValueError):
    """A recipe that cannot be used; the message lists every fault.

    Args:
        faults: one line each, starting with the dotted field.
        where: the file or thing that holds the faults.
    """

    exit_code = 2

    def __init__(self, faults: Sequence[str], where: str = "recipe") -> None:
        self.faults = list(faults)
        self.where = where
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__("\n  ".join([f"{where}: {count}", *self.faults]))


class ModelError(DinoSegError, ValueError):
    """A model or checkpoint that cannot be loaded, or whose parts do not fit."""


class RunError(DinoSegError, RuntimeError):
    """A run that cannot start or go on, as opposed to a wrong recipe or wrong data."""


class InputError(DinoSegError, ValueError):
    """An argument, option or input that cannot be used."""


_EXTRAS = {"demo": "gradio", "onnx": "onnx onnxscript onnxruntime", "lora": "peft", "tiff": "tifffile"}


def how_to_install(extra: str) -> str:
    """How to install an optional part. This package itself is on no index.

    Args:
        extra: one of those in setup.cfg.
    """
    return f"`pip install {_EXTRAS[extra]}`, or `pip install -e '.[{extra}]'` in a clone of this package"
