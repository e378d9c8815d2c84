"""Masks that were saved by NumPy: `.npy` files of whole numbers. Nothing in them is ever executed.

A *cell* is what `datasets.Image(decode=False)` yields: `{"path": str | None, "bytes": bytes | None}`; bytes win. A
plain path is a cell too.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError

Cell = Mapping[str, Any] | str | os.PathLike[str]

_MAGIC = b"\x93NUMPY"


def cell_name(cell: Cell) -> str:
    """What to call a cell in an error."""
    if isinstance(cell, Mapping):
        return str(cell.get("path") or "<bytes without a file name>")
    return os.fspath(cell)


def is_npy(cell: Cell) -> bool:
    """Whether a cell is an array saved by NumPy: by its first bytes, or, of a file not yet read, by its ending."""
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    if data is not None:
        return bytes(data[: len(_MAGIC)]) == _MAGIC
    return cell_name(cell).lower().endswith(".npy")


def read_npy(cell: Cell) -> np.ndarray:
    """The array in a `.npy` file: (H, W), or (H, W, 3 or 4), of bool or whole numbers, in this machine's byte order.

    An axis of length 1 before or after height and width is dropped. Objects, which NumPy would unpickle and thereby
    execute, are refused unread; so is a file that is shorter or longer than its head says.

    Raises:
        DataError: naming the file, if it is missing, broken, or holds anything else.
    """
    name = cell_name(cell)
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    try:
        if data is None:
            data = Path(cell["path"] if isinstance(cell, Mapping) else cell).read_bytes()
        if not data:
            raise DataError(f"{name}: the file is empty (0 bytes). Restore it or remove it together with its partner.")
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error).rstrip(".")
        raise DataError(f"{name}: cannot be read as a NumPy array ({reason}). Save it again with numpy.save.") from None
    if dtype.kind not in "bui":
        raise DataError(
            f"{name}: an array of {dtype}; label ids are whole numbers. Save it as one of NumPy's integer types."
        )
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if found != expected:
        raise DataError(
            f"{name}: the file holds {found} bytes of values where its head promises {expected} (shape {shape}, "
            f"{dtype}). It is broken or truncated; save it again, or remove it together with its partner."
        )
    array: np.ndarray = np.frombuffer(data, dtype, offset=stream.tell()).reshape(
        shape, order="F" if fortran_order else "C"
    )
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)) or not array.size:
        raise DataError(f"{name}: an array of shape {shape}; a mask is (height, width), or of colours (.., .., 3).")
    return np.ascontiguousarray(array, dtype.newbyteorder("="))
