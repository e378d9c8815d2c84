"""Files to pixels: images as upright RGB, masks as upright ids (or colours), never anything in between.

What the ids mean is not known here: `labels.LabelSpace` knows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ImageError
from .arrays import is_npy, read_npy
from .opening import MAX_PIXELS, ORIENTATION, Cell, cell_name, cell_source, open_image, upright, upright_rgb
from .shapes import is_shapes, read_shapes

_CONTEXT = 2  # rows below a JPEG's last wanted one that its colours are interpolated from
_GREY_STEP = {"L;2": 85, "L;4": 17}  # Pillow stretches 2- and 4-bit greys to 0..255: undone, or id 3 would read as 255
_ADVICE = "Restore or convert it, or remove it together with its partner."


def read_image(cell: Cell, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright 8-bit RGB image.

    See `upright_rgb` for what becomes of other kinds.

    Raises:
        ImageError: naming the file, if it is missing, empty, broken, truncated, of more than `max_pixels`, or holds
            floating-point values.
    """
    with open_image(cell, max_pixels, _ADVICE) as image:
        return upright_rgb(image, cell_name(cell))


def read_upper(cell: Cell, rows: int, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upper rows of an image whose size is known, as `read_image` gives them: an upright JPEG is decoded no
    further than asked, anything else whole.

    Args:
        cell: the file.
        rows: how many are wanted, counted from the top of the upright image.
        size: (width, height) of the upright image.
        max_pixels: larger images are refused.

    Returns:
        An RGB image as wide as `size` says, of `rows` or more rows.

    Raises:
        ImageError: as `read_image`, but a file cut short below the wanted rows is not noticed (`upright_size` notices);
            also if the image is of another size.
    """
    width, height = size
    if rows + _CONTEXT < height and width * height <= max_pixels:
        if (upper := upper_part(_file_bytes(cell), rows + _CONTEXT, height)) is not None:
            with open_image({"path": cell_name(cell), "bytes": upper}, max_pixels, _ADVICE) as image:
                if image.width == width and image.getexif().get(ORIENTATION, 1) == 1:
                    image.load()
                    return image if image.mode == "RGB" else image.convert("RGB")
    image = read_image(cell, max_pixels)
    if image.size != size:
        raise ImageError(
            f"{cell_name(cell)} is {image.width}×{image.height} (width×height), but was {width}×{height} when its mask "
            "was prepared. Leave files alone while a run uses them, and start it again."
        )
    return image


def _file_bytes(cell: Cell) -> bytes:
    """The file's bytes; empty if it cannot be read, in which case `read_image` raises the error."""
    source = cell_source(cell)
    try:
        return source if isinstance(source, bytes) else b"" if source is None else Path(source).read_bytes()
    except OSError:
        return b""


def read_mask(cell: Cell, encoding: str = "index", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A mask as it is stored, ready for `LabelSpace.encode`.

    Args:
        cell: the file: any image that Pillow reads, a NumPy array (`.npy`, see `arrays.read_npy`), or shapes, which
            are drawn (`shapes.read_shapes`).
        encoding: the label space's `encoding`. `rgb` gives colours (a palette's too); `index` and `binary` give ids:
            of a palette image the index, never the colour.
        max_pixels: larger files are refused before they are decoded.

    Returns:
        Upright. `index`, `binary`: (H, W) bool (1-bit files), uint8, uint16 or int32 (arrays as they were saved);
        (H, W, 3 or 4) uint8 where the file's channels differ, which the label space refuses. `rgb`: (H, W, 3) uint8.

    Raises:
        ImageError: naming the file, if it cannot be read or holds floating-point values.
    """
    if is_npy(cell):
        return read_npy(cell)
    if is_shapes(cell):
        return read_shapes(cell, max_pixels)
    with open_image(cell, max_pixels, _ADVICE) as image:
        tiles = getattr(image, "tile", None)  # how the file packs its pixels; gone after loading
        step = _GREY_STEP.get(str(tiles[0][3]), 1) if tiles else 1
        image.load()
        image = upright(image)
        if image.mode == "F":
            raise ImageError(f"{cell_name(cell)}: a mask of floating-point values; label ids are whole numbers.")
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
    """(width, height) of the image as `read_image` would give it, after reading the file to its end.

    A JPEG is decoded at an eighth of its size, which still notices a file that was cut short.

    Raises:
        ImageError: as `read_image`.
    """
    with open_image(cell, max_pixels, _ADVICE) as image:
        size = image.size
        drafted = image.draft("L", (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        width, height = size if drafted is not None else image.size  # a TIFF is turned, its tag removed, on loading
        return (height, width) if image.getexif().get(ORIENTATION) in (5, 6, 7, 8) else (width, height)


_BASELINE = (0xC0, 0xC1)  # frames that are decoded from the top down, each row once
_PASSED_OVER = (*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD)  # segments before the frame's: APPn, COM, DQT, DHT, DRI


def upper_part(data: bytes, rows: int, height: int) -> bytes | None:
    """A JPEG file made to say that it is `rows` high, so that decoders stop there.

    Pillow has no way to stop early. Stopping makes reading the rows of a crop of 512² 1.3 times as fast in images of
    2048 × 1024, and 1.6 times in images of 4096 × 3072 (benchmarks/bench_files.py).

    Rows are coded from the top down, and none depends on the rows below it. The one exception is the colours of
    subsampled files, which are interpolated between rows: the last two rows may differ. Whatever follows in the file
    is passed over. Markers and the frame's head: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.

    Args:
        data: the file.
        rows: 1 or more, fewer than `height`.
        height: what the file is expected to say.

    Returns:
        None if it is no JPEG, is progressive, or says that its height is another.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> Image.new("RGB", (40, 30)).save(file := io.BytesIO(), "JPEG")
        >>> with open_image({"bytes": upper_part(file.getvalue(), 20, height=30)}) as image:
        ...     image.size
        (40, 20)
    """
    place = 2
    if data[:place] != b"\xff\xd8":
        return None
    while len(data) >= place + 7 and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _BASELINE:
            place += 5  # marker, length, bits a sample
            if int.from_bytes(data[place : place + 2], "big") != height:
                return None
            return data[:place] + rows.to_bytes(2, "big") + data[place + 2 :]
        if marker not in _PASSED_OVER:
            return None
        place += 2 + length
    return None
