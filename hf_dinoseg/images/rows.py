"""Rows of an image that is too large to be held in memory as numbers.

A TIFF of 8-bit grey or colour, as scanners and satellites' mosaics make them, is read strip by strip (or tile by tile)
by tifffile. Any other file is decoded whole by Pillow, which takes 4 bytes a pixel, and handed out by rows.
"""

from __future__ import annotations

import logging
import os
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TooLargeError, how_to_install
from .opening import ORIENTATION, image_size, open_image, upright_rgb

logger = logging.getLogger(__name__)

#: The largest image that is opened at all: 23 170 × 23 170, 2 GiB in Pillow's memory
LARGEST = 1 << 29

_ROWS_AT_ONCE = 64


def has_strips(path: str | os.PathLike[str]) -> bool:
    """Whether a file is read piece by piece, so that no more of it than a band is ever decoded."""
    return _TiffPieces.of(Path(path)) is not None


class RowReader:
    """Parts of an image as RGB bytes, asked for from top to bottom.

    Args:
        path: the file.
        max_pixels: a larger image is refused.

    Attributes:
        size: (height, width) of the upright image.
        streamed: whether the file is read piece by piece.

    Raises:
        ImageError: if the file is no image, or too large.
    """

    def __init__(self, path: str | os.PathLike[str], max_pixels: int = LARGEST) -> None:
        self.path = Path(path)
        width, height = image_size(path)
        if width * height > max_pixels:
            raise TooLargeError(
                f"{self.path}: {width}×{height} pixels are more than {max_pixels}, the most that is opened. Cut it "
                "into tiles, or reduce it.",
                width * height,
            )
        self._tiff = _TiffPieces.of(self.path)
        self.streamed = self._tiff is not None
        if self._tiff is not None:
            self.size = self._tiff.size
            self._first, self._rows = 0, np.empty((0, self.size[1], 3), np.uint8)
            return
        with open_image(path, max_pixels) as image:
            self._image = upright_rgb(image, str(self.path))
        self.size = (self._image.height, self._image.width)

    def crop(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """(height, width, 3) uint8. `top` never decreases from call to call."""
        if self._tiff is None:
            return np.asarray(self._image.crop((left, top, left + width, top + height)))
        return self._read(self._tiff, top, top + height)[:, left : left + width]

    def again(self) -> RowReader:
        """Another reader of the same image, from its top."""
        other = copy(self)
        if self._tiff is not None:
            other._tiff = _TiffPieces(self._tiff.file, self._tiff.page)
            other._first, other._rows = 0, self._rows[:0]
        return other

    def _read(self, tiff: _TiffPieces, top: int, bottom: int) -> np.ndarray:
        above = min(top - self._first, len(self._rows))
        if above > 0:
            self._rows = self._rows[above:].copy()
            self._first += above
        parts = [self._rows]
        have = self._first + len(self._rows)
        while have < bottom:
            parts.append(tiff.next_rows())
            have += len(parts[-1])
        if len(parts) > 1:
            self._rows = np.concatenate(parts)
        return self._rows[top - self._first : bottom - self._first]


class _TiffPieces:
    """The strips, or rows of tiles, of a TIFF's first page, from the top; see `of` for which files."""

    def __init__(self, file: Any, page: Any) -> None:
        self.file, self.page = file, page
        self.size = (page.imagelength, page.imagewidth)
        self._piece_rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        if page.is_contiguous:  # plain bytes, often as one strip of everything: any rows can be read
            self._piece_rows = _ROWS_AT_ONCE
        self._across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        self._next = 0

    @classmethod
    def of(cls, path: Path) -> _TiffPieces | None:
        """None if the file is no TIFF of upright 8-bit grey or colour, or tifffile cannot decode it."""
        if path.suffix.lower() not in (".tif", ".tiff"):
            return None
        try:
            import tifffile
        except ImportError:
            logger.warning("%s is decoded whole; to read it strip by strip: %s.", path, how_to_install("tiff"))
            return None
        try:
            file = tifffile.TiffFile(path)
            page: Any = file.pages[0]
            upright = page.tags.valueof(ORIENTATION, 1) == 1
            plain = page.photometric.name in ("RGB", "MINISBLACK") and page.dtype == np.uint8
            if not (upright and plain and page.planarconfig == 1 and page.imagedepth == 1):
                return None
            pieces = cls(file, page)
            pieces._decode(0)  # codecs that are not installed show themselves here
        except (
            Exception
        ) as error:  # tifffile and its codecs raise many kinds; Pillow then says what is wrong, if anything
            logger.info("%s is decoded whole: %s", path, error)
            return None
        return pieces

    def next_rows(self) -> np.ndarray:
        """The next (n, width, 3) uint8."""
        height, width = self.size
        top = self._next * self._piece_rows
        count = min(self._piece_rows, height - top)
        pieces = [self._decode(self._next * self._across + i)[:count] for i in range(self._across)]
        self._next += 1
        rows = np.concatenate(pieces, axis=1)[:, :width] if len(pieces) > 1 else pieces[0][:, :width]
        return np.repeat(rows[..., :1], 3, axis=2) if rows.shape[2] < 3 else rows[..., :3]  # alpha is dropped

    def _decode(self, index: int) -> np.ndarray:
        """(rows, columns, samples) of one strip or tile."""
        handle = self.file.filehandle
        if self.page.is_contiguous:
            shape = (min(_ROWS_AT_ONCE, self.size[0] - index * _ROWS_AT_ONCE), self.size[1], self.page.samplesperpixel)
            handle.seek(self.page.dataoffsets[0] + index * _ROWS_AT_ONCE * shape[1] * shape[2])
            return np.frombuffer(handle.read(shape[0] * shape[1] * shape[2]), np.uint8).reshape(shape)
        handle.seek(self.page.dataoffsets[index])
        data = handle.read(self.page.databytecounts[index]) or None
        segment, _, shape = self.page.decode(data, index, jpegtables=self.page.jpegtables)
        if segment is None:  # a piece left out of a sparse file
            return np.zeros(shape[1:], np.uint8)
        return segment[0, : shape[1], : shape[2]]
