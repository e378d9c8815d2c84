"""The one error that data raise: what was found, in which file, and what to do about it."""

from __future__ import annotations


class DataError(ValueError):
    """Files that are missing, broken or contradict one another; the message names them and says what to do.

    A DataLoader rebuilds what its worker raised from the formatted traceback (`torch._utils.ExceptionWrapper`); only
    the message at its end is of use to the user, so that is what is kept.

    Example:
        >>> str(DataError("a.png: the file is empty."))
        'a.png: the file is empty.'
    """

    def __init__(self, message: str) -> None:
        marker = f"{type(self).__module__}.{type(self).__qualname__}: "
        if message.startswith("Caught ") and marker in message:
            message = message.rpartition(marker)[2].rstrip("\n")
        super().__init__(message)


class TooLargeError(DataError):
    """A file whose head says that it unpacks to more pixels than are allowed."""
