"""Files to pixels: pictures as upright RGB, masks as upright ids (or colours), never anything in between.

A *cell* is what `datasets.Image(decode=False)` yields: `{"path": str | None, "bytes": bytes | None}`; bytes win. A
plain path is a cell too. What the ids mean is not known here: `labels.LabelSpace` knows.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image, ImageOps

from ..pictures import PictureError, unreadable, upright_rgb
from .arrays import Cell, cell_name, is_npy, read_npy
from .errors import DataError, TooLargeError
from .jpeg import upper_part

#: pictures and masks of more pixels are refused unless asked for: half a gigabyte as RGB
MAX_PIXELS = 180_000_000

_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 exchange width and height
_CONTEXT = 2  # rows below a JPEG's last wanted one that its colours are interpolated from
_GREY_STEP = {"L;2": 85, "L;4": 17}  # Pillow stretches 2- and 4-bit greys to 0..255: undone, or id 3 would read as 255
_LABEL_HEADER = struct.Struct("<BII")  # bytes a pixel, height, width
_ZSTD = pyarrow.Codec("zstd", 1)


_PILLOW = threading.RLock()
_PILLOW_WARNS = 1024**3 // 4 // 3  # pixels: Pillow's own default


@contextmanager
def _pillow_allows(pixels: int | None) -> Iterator[None]:
    """Pillow's limit is of the process and fixed: a warning first, an error at twice as much. Here it stands aside."""
    with _PILLOW:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


@contextmanager
def open_picture(cell: Cell, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The cell's first frame, not decoded yet; what Pillow raises passes through.

    Raises:
        TooLargeError: if the head of the file says that it holds more than `max_pixels`; nothing has been decoded.
    """
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    with _pillow_allows(None):
        image = Image.open(io.BytesIO(data) if data is not None else path)  # type: ignore[arg-type]
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooLargeError(
                f"{cell_name(cell)}: refused, it would unpack to {width}×{height} = {width * height} pixels; the limit "
                f"is {max_pixels}. If it is meant to be so large, write data.max_pixels: {width * height}; otherwise "
                "remove it together with its partner."
            )
        if width * height <= _PILLOW_WARNS:
            yield image
        else:
            with _pillow_allows(max_pixels):
                yield image


@contextmanager
def _opened(cell: Cell, max_pixels: int) -> Iterator[Image.Image]:
    """As `open_picture`, but whatever Pillow raises until the block ends becomes a DataError."""
    name = cell_name(cell)
    try:
        data = cell.get("bytes") if isinstance(cell, Mapping) else None
        path = cell.get("path") if isinstance(cell, Mapping) else cell
        if data is None and path is None:
            raise DataError("a row holds neither a path nor bytes where a picture or mask is expected.")
        if data is not None and not data:
            raise DataError(f"{name}: the file is empty (0 bytes). Restore it or remove it together with its partner.")
        if data is None and os.stat(path).st_size == 0:  # type: ignore[arg-type]
            raise DataError(f"{name}: the file is empty (0 bytes). Restore it or remove it together with its partner.")
        with open_picture(cell, max_pixels) as image:
            yield image
    except (DataError, MemoryError):
        raise
    except PictureError as error:
        raise DataError(str(error)) from None
    except FileNotFoundError:
        raise DataError(f"{name}: no such file.") from None
    except Image.DecompressionBombError as error:  # a frame within that is larger than the head said
        raise DataError(f"{name}: refused, it would unpack to a size fit to exhaust memory. {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds on broken input; all of them mean the same here
        raise DataError(
            f"{name}: cannot be read as a picture ({unreadable(error)}). Restore or convert it, or remove it together "
            "with its partner."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF tag says; the same object where nothing is to be done."""
    ImageOps.exif_transpose(image, in_place=True)
    return image


def read_image(cell: Cell, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright 8-bit RGB picture.

    See `pictures.upright_rgb` for what becomes of other kinds.

    Raises:
        DataError: naming the file, if it is missing, empty, broken, truncated, of more than `max_pixels`, or holds
            floating-point values.
    """
    with _opened(cell, max_pixels) as image:
        return upright_rgb(image, cell_name(cell))


def read_upper(cell: Cell, rows: int, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upper rows of a picture whose size is known, as `read_image` gives them: an upright JPEG is decoded no
    further than asked, anything else whole.

    Args:
        cell: the file.
        rows: how many are wanted, counted from the top of the upright picture.
        size: (width, height) of the upright picture.
        max_pixels: larger pictures are refused.

    Returns:
        An RGB picture as wide as `size` says, of `rows` or more rows.

    Raises:
        DataError: as `read_image`, but a file cut short below the wanted rows is not noticed (`upright_size` notices);
            also if the picture is of another size.
    """
    width, height = size
    if rows + _CONTEXT < height and width * height <= max_pixels:
        if (upper := upper_part(_file_bytes(cell), rows + _CONTEXT, height)) is not None:
            with _opened({"path": cell_name(cell), "bytes": upper}, max_pixels) as image:
                if image.width == width and image.getexif().get(_ORIENTATION, 1) == 1:
                    image.load()
                    return image if image.mode == "RGB" else image.convert("RGB")
    image = read_image(cell, max_pixels)
    if image.size != size:
        raise DataError(
            f"{cell_name(cell)} is {image.width}×{image.height} (width×height), but was {width}×{height} when its mask "
            "was prepared. Leave files alone while a run uses them, and start it again."
        )
    return image


def _file_bytes(cell: Cell) -> bytes:
    """What the file holds; nothing where it cannot be read, which is for others to say."""
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    try:
        return Path(path).read_bytes() if data is None and path is not None else bytes(data or b"")
    except OSError:
        return b""


def read_mask(cell: Cell, encoding: str = "index", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A mask as it is stored, ready for `LabelSpace.encode`.

    Args:
        cell: the file: any picture that Pillow reads, or a NumPy array (`.npy`, see `arrays.read_npy`).
        encoding: the label space's `encoding`. `rgb` gives colours (a palette's too); `index` and `binary` give ids:
            of a palette picture the index, never the colour.
        max_pixels: larger files are refused before they are decoded.

    Returns:
        Upright. `index`, `binary`: (H, W) bool (1-bit files), uint8, uint16 or int32 (arrays as they were saved);
        (H, W, 3 or 4) uint8 where the file's channels differ, which the label space refuses. `rgb`: (H, W, 3) uint8.

    Raises:
        DataError: naming the file, if it cannot be read or holds floating-point values.
    """
    if is_npy(cell):
        return read_npy(cell)
    with _opened(cell, max_pixels) as image:
        tiles = getattr(image, "tile", None)  # how the file packs its pixels; gone after loading
        step = _GREY_STEP.get(str(tiles[0][3]), 1) if tiles else 1
        image.load()
        image = _upright(image)
        if image.mode == "F":
            raise DataError(f"{cell_name(cell)}: a mask of floating-point values; label ids are whole numbers.")
        if encoding == "rgb" and not image.mode.startswith("I"):
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
        pixels = np.array(image)
        if image.mode in ("LA", "PA", "La"):
            pixels = np.ascontiguousarray(pixels[..., 0])
        elif image.mode in ("RGB", "RGBA") and (pixels[..., :1] == pixels[..., 1:3]).all():
            pixels = np.ascontiguousarray(pixels[..., 0])  # grey saved in three channels: the grey is the id
        if not pixels.dtype.isnative:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        return pixels // step if step > 1 else pixels


def upright_size(cell: Cell, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) of the picture as `read_image` would give it, after reading the file to its end.

    A JPEG is decoded at an eighth of its size, which still notices a file that was cut short.

    Raises:
        DataError: as `read_image`.
    """
    with _opened(cell, max_pixels) as image:
        size = image.size
        drafted = image.draft("L", (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        width, height = size if drafted is not None else image.size  # a TIFF is turned, its tag removed, on loading
        return (height, width) if image.getexif().get(_ORIENTATION) in (5, 6, 7, 8) else (width, height)


def encode_label_map(label_map: np.ndarray) -> bytes:
    """A (H, W) uint8 or uint16 label map, packed without loss: type and shape, then its rows under Zstandard.

    Compared with PNG this takes two thirds of the space and a fifth of the time to read.
    """
    header = _LABEL_HEADER.pack(label_map.dtype.itemsize, *label_map.shape)
    return header + _ZSTD.compress(np.ascontiguousarray(label_map, label_map.dtype.newbyteorder("<")), asbytes=True)


def read_label_map(packed: bytes) -> np.ndarray:
    """The (H, W) uint8 or uint16 train ids that `encode_label_map` wrote."""
    itemsize, height, width = _LABEL_HEADER.unpack_from(packed)
    rows = _ZSTD.decompress(memoryview(packed)[_LABEL_HEADER.size :], itemsize * height * width)
    return np.frombuffer(rows, dtype=f"<u{itemsize}").reshape(height, width)
