"""Masks that were saved by NumPy: `.npy` files of whole numbers. Nothing in them is ever executed."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError, NoSuchFileError, OneHotError
from .opening import Cell, cell_name, cell_source

_MAGIC = b"\x93NUMPY"


def is_npy(cell: Cell) -> bool:
    """Whether a cell is an array saved by NumPy: by its first bytes, or, of a file not yet read, by its ending."""
    source = cell_source(cell)
    if isinstance(source, bytes):
        return source.startswith(_MAGIC)
    return cell_name(cell).lower().endswith(".npy")


def read_npy(cell: Cell) -> np.ndarray:
    """The array in a `.npy` file: (H, W), or (H, W, 3 or 4), of bool or whole numbers, in this machine's byte order.

    An axis of length 1 before or after height and width is dropped. Objects, which NumPy would unpickle and thereby
    execute, are refused unread; so is a file that is shorter or longer than its head says.

    Raises:
        OneHotError: if it holds a plane for each class.
        ImageError: naming the file, if it is missing, broken, or holds anything else.
    """
    name, source = cell_name(cell), cell_source(cell)
    try:
        data = source if isinstance(source, bytes) else Path(source or "").read_bytes()
        if not data:
            raise ImageError(f"{name}: the file is empty (0 bytes). Restore it or remove it together with its partner.")
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except FileNotFoundError:
        raise NoSuchFileError(f"{name}: there is no such file.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = str(error).rstrip(".")
        raise ImageError(
            f"{name}: cannot be read as a NumPy array ({reason}). Save it again with numpy.save."
        ) from None
    if dtype.kind not in "buif":
        raise _no_ids(name, dtype)
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if found != expected:
        raise ImageError(
            f"{name}: the file holds {found} bytes of values where its head promises {expected} (shape {shape}, "
            f"{dtype}). It is broken or truncated; save it again, or remove it together with its partner."
        )
    array: np.ndarray = np.frombuffer(data, dtype, offset=stream.tell()).reshape(
        shape, order="F" if fortran_order else "C"
    )
    if array.ndim == 3 and (axis := _class_axis(array)) is not None:
        what = f"{array.shape} of {array.dtype}, axis {axis} counts the classes"
        kind = "uint8" if array.shape[axis] <= 256 else "uint16"
        path = repr(cell_name(cell))
        cure = f"numpy.save({path}, numpy.load({path}).argmax(axis={axis}).astype(numpy.{kind}))"
        raise OneHotError(
            f"{name}: a one-hot array, {what}; a mask holds one id a pixel. Make it so: {cure}", what, cure
        )
    if dtype.kind == "f":
        raise _no_ids(name, dtype)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)) or not array.size:
        raise ImageError(
            f"{name}: an array of shape {shape}; a mask is (height, width), or of colours (.., .., 3). If one axis "
            "counts classes, save numpy.argmax over it."
        )
    return np.ascontiguousarray(array, dtype.newbyteorder("="))


def _no_ids(name: str, dtype: np.dtype[Any]) -> ImageError:
    return ImageError(
        f"{name}: an array of {dtype}; label ids are whole numbers. Save it as one of NumPy's integer types; of "
        "scores, with an axis that counts classes, save numpy.argmax over that axis."
    )


def _class_axis(array: np.ndarray) -> int | None:
    """The axis along which exactly one value of every pixel is set, and all that are set are equal; None if there is
    none. Three or four planes of other values than 1 at the end are colours: pure red, green and blue."""
    for axis in (2, 0):
        planes = array.shape[axis]
        if planes < 2 or not array.size:
            continue
        value = array.max()
        if planes in (3, 4) and axis == 2 and value != 1:
            continue
        on = array == value
        if value > 0 and (on.sum(axis=axis) == 1).all() and not array[~on].any():
            return axis
    return None
