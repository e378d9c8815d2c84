"""What one image file is, and whether it can be read, without ever raising."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from PIL import Image

from ..errors import ImageError, OneHotError, TooLargeError
from ..images import MAX_PIXELS, cell_name, dropped_parts, is_shapes, open_image, read_shapes
from ..images.arrays import is_npy, read_npy

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METADATA_CHUNKS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 exchange width and height

#: images of more pixels than this take seconds to decode, at every epoch
HUGE_PIXELS = 50_000_000

#: side of `FileFacts.thumbnail`
THUMBNAIL = 24
#: pixels that a JPEG is decoded to at least; of fewer, its thumbnail would differ from that of other formats
_LEAST_DRAFT = 2 * THUMBNAIL


@dataclass(frozen=True)
class FileFacts:
    """A file as it was found.

    Attributes:
        size: (width, height), upright; None if it cannot be read.
        format: `JPEG`, `PNG` …
        mode: Pillow's mode of the pixels.
        orientation: the EXIF tag; 1 is upright.
        extrema: lowest and highest pixel value over all channels, if the pixels were read. Of a JPEG those of an
            eighth of its size.
        thumbnail: what it shows, if the pixels were read: `THUMBNAIL`² grey bytes, as stored and not turned. Nearly
            the same for one image saved twice, whatever its format, size and compression.
        dropped: what it holds beside what is read, such as `pages 2 to 3`; see `images.dropped_parts`.
        fault: why it cannot be read.
        fault_code: `missing-file`, `empty-file`, `refused-file`, `one-hot-mask` or `broken-file`.
        fault_cure: what to do about it, if the advice depends on the file.
    """

    name: str
    size: tuple[int, int] | None = None
    format: str = ""
    mode: str = ""
    orientation: int = 1
    extrema: tuple[float, float] | None = None
    thumbnail: bytes | None = None
    dropped: str = ""
    fault: str | None = None
    fault_code: str | None = None
    fault_cure: str | None = None

    @property
    def paged(self) -> bool:
        """Whether there are pages or frames after the first, the only one that is read."""
        return "page" in self.dropped or "frame" in self.dropped

    def broken(self, reason: str) -> FileFacts:
        """The same file, found to be unreadable after all."""
        return FileFacts(self.name, fault=reason, fault_code="broken-file", format=self.format, mode=self.mode)


def named_cell(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """A row's `image` or `mask`, which the row's id names where the cell holds bytes and no file name."""
    cell = row[column]
    return dict(cell) if cell.get("path") else {**cell, "path": f"{row['id']} ({column})"}


def presence(cell: Mapping[str, Any]) -> FileFacts | None:
    """What is wrong with a file that is missing or holds nothing; None for all others."""
    name = cell_name(cell)
    size = byte_size(cell)
    if size is None:
        return FileFacts(name, fault="there is no such file", fault_code="missing-file")
    if size == 0:
        return FileFacts(name, fault="0 bytes", fault_code="empty-file")
    return None


def byte_size(cell: Mapping[str, Any]) -> int | None:
    """Bytes of the encoded file; None if there is no file."""
    if cell.get("bytes") is not None:
        return len(cell["bytes"])
    try:
        return os.stat(cell["path"]).st_size
    except (OSError, TypeError):
        return None


def digest(cell: Mapping[str, Any]) -> bytes | None:
    """A hash of the encoded file; None if it cannot be opened."""
    data = cell.get("bytes")
    if data is None:
        try:
            with open(cell["path"], "rb") as file:
                data = file.read()
        except OSError:
            return None
    return hashlib.blake2b(data, digest_size=16).digest()


def inspect_image(cell: Mapping[str, Any], decode: bool = True, max_pixels: int = MAX_PIXELS) -> FileFacts:
    """What kind of image a file is.

    Args:
        cell: `{"path", "bytes"}`.
        decode: also read the pixels, which notices a file that was cut short; otherwise only its head.
        max_pixels: a file of more is refused.
    """
    if (absent := presence(cell)) is not None:
        return absent
    name = cell_name(cell)
    if is_npy(cell):
        return _array_facts(cell, name)
    if is_shapes(cell):
        return _shapes_facts(cell, name, max_pixels)
    try:
        with open_image(cell, max_pixels) as image:
            facts = _facts(image, name, decode)
        return replace(facts, dropped=dropped_parts(cell))
    except ImageError as error:
        code = "refused-file" if isinstance(error, TooLargeError) else "broken-file"
        return FileFacts(name, fault=str(error).removeprefix(f"{name}: ").rstrip("."), fault_code=code)


def _array_facts(cell: Mapping[str, Any], name: str) -> FileFacts:
    try:
        array = read_npy(cell)
    except OneHotError as error:
        return FileFacts(name, fault=error.what, fault_code="one-hot-mask", fault_cure=error.cure, format="NPY")
    except ImageError as error:
        return FileFacts(name, fault=str(error).removeprefix(f"{name}: ").rstrip("."), fault_code="broken-file")
    return FileFacts(name, (array.shape[1], array.shape[0]), "NPY", str(array.dtype))


def _shapes_facts(cell: Mapping[str, Any], name: str, max_pixels: int) -> FileFacts:
    try:
        mask = read_shapes(cell, max_pixels)
    except ImageError as error:
        return FileFacts(name, fault=str(error).removeprefix(f"{name}: ").rstrip("."), fault_code="broken-file")
    return FileFacts(name, (mask.shape[1], mask.shape[0]), "shapes", str(mask.dtype))


def _facts(image: Image.Image, name: str, decode: bool) -> FileFacts:
    kind, mode, size = image.format or "", image.mode, image.size
    orientation = turned = _orientation(image)
    extrema = thumbnail = None
    if decode:
        drafted = image.draft("RGB", (max(_LEAST_DRAFT, size[0] // 8), max(_LEAST_DRAFT, size[1] // 8)))
        image.load()
        if drafted is None:  # a TIFF is turned, its tag removed, on loading
            size, turned = image.size, int(image.getexif().get(_ORIENTATION, 1))
        found = image.getextrema()
        bands = found if isinstance(found[0], tuple) else (found,)
        bands = bands[:3] if mode in ("RGBA", "RGBX") else bands[:1] if mode in ("LA", "La", "PA") else bands
        extrema = (float(min(band[0] for band in bands)), float(max(band[1] for band in bands)))
        thumbnail = _thumbnail(image, drafted[1] if drafted else (0, 0, *image.size))
    elif kind == "TIFF":
        image.load()
        size, turned = image.size, int(image.getexif().get(_ORIENTATION, 1))
    upright = (size[1], size[0]) if turned in (5, 6, 7, 8) else size
    return FileFacts(name, upright, kind, mode, orientation, extrema, thumbnail)


def _thumbnail(image: Image.Image, box: tuple[float, float, float, float]) -> bytes:
    """The image in grey, `THUMBNAIL` pixels wide and high.

    Args:
        box: (left, top, right, bottom) of what it shows; a JPEG decoded at an eighth is padded to whole pixels.
    """
    if image.mode[0] in "IF":  # more than 8 bits: their range is stretched to them
        values = np.asarray(image, np.float32)
        low, high = float(values.min()), float(values.max())
        grey = Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
    else:
        grey = image.convert("L")
    # smoothed over what it shrinks, or formats that are decoded at other sizes would differ
    return grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, box, reducing_gap=3.0).tobytes()


def _orientation(image: Image.Image) -> int:
    """The EXIF tag of an image just opened. For a PNG, Pillow reads all pixels to find it, as it may stand after them;
    here the chunks' headers tell first whether there is anything to find."""
    file = getattr(image, "fp", None)
    if image.format == "PNG" and file is not None and not _has_metadata(file):
        return 1
    return int(image.getexif().get(_ORIENTATION, 1))


def _has_metadata(png: IO[bytes]) -> bool:
    """Whether any chunk is of a kind that can hold EXIF data; the file is left where it was."""
    place = png.tell()
    png.seek(len(_PNG_SIGNATURE))
    found = False
    while not found and len(head := png.read(8)) == 8 and head[4:] != b"IEND":
        found = head[4:] in _METADATA_CHUNKS
        png.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    png.seek(place)
    return found
