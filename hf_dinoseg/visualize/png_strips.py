"""A label PNG written strip by strip, for maps that are never held in full."""

from __future__ import annotations

import os
import struct
import zlib
from types import TracebackType

import numpy as np

from ..errors import InputError
from ..labels import LabelSpace
from .palette import palette_image

_PALETTE, _GREY = 3, 0  # PNG colour types (https://www.w3.org/TR/png-3/#3colourType)


class PngStrips:
    """Writes what `palette_image(label_map, label_space).save(path)` writes: the same pixels, mode and palette.

    Pillow writes whole images only. For a map of 8192² it takes 210 MiB, this takes none beyond a band of rows
    (benchmarks/bench_files.py).

    The file has its name only once it is whole; one that is left early leaves nothing.

    Args:
        path: of the file; replaced if it is there.
        size: width and height.
        label_space: what the ids mean.
        transparent: as in `palette_image`.

    Example:
        >>> with PngStrips("map.png", (640, 480), label_space) as png:  # doctest: +SKIP
        ...     png.write(label_map[:240])
        ...     png.write(label_map[240:])
    """

    def __init__(
        self, path: str | os.PathLike[str], size: tuple[int, int], label_space: LabelSpace, transparent: bool = False
    ) -> None:
        self.path, (self.width, self.height), self.label_space = os.fspath(path), size, label_space
        self.transparent = transparent
        self._rows = 0
        self._pack = zlib.compressobj(level=3)

    def __enter__(self) -> PngStrips:
        self._file = open(self._unfinished, "wb")  # noqa: SIM115  # closed when the image is done
        self._file.write(b"\x89PNG\r\n\x1a\n")
        model = palette_image(np.full((1, 1), self.label_space.original_ids[0]), self.label_space, self.transparent)
        indexed = model.mode == "P"
        kind = (8, _PALETTE) if indexed else (16, _GREY)
        self._dtype = np.dtype(np.uint8 if indexed else ">u2")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, *kind, 0, 0, 0))
        if indexed:
            self._chunk(b"PLTE", bytes(model.getpalette() or []))
            if self.transparent:
                self._chunk(b"tRNS", model.info["transparency"])
        return self

    def write(self, original_ids: np.ndarray) -> None:
        """Add the next rows: (n, width) original ids.

        Raises:
            ValueError: on another width, more rows than there are, or an id that the label space does not know.
        """
        rows, width = original_ids.shape
        if width != self.width or self._rows + rows > self.height:
            raise InputError(
                f"rows {self._rows} to {self._rows + rows}, {width} wide, do not fit an image {self.width} wide and "
                f"{self.height} high."
            )
        ids = np.asarray(palette_image(original_ids, self.label_space)).astype(self._dtype)
        lines = np.zeros((rows, 1 + width * self._dtype.itemsize), dtype=np.uint8)  # each begins with its filter: none
        lines[:, 1:] = ids.view(np.uint8).reshape(rows, -1)
        self._rows += rows
        if packed := self._pack.compress(lines.tobytes()):
            self._chunk(b"IDAT", packed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = kind is None and self._rows == self.height
        if whole:
            self._chunk(b"IDAT", self._pack.flush())
            self._chunk(b"IEND", b"")
        self._file.close()
        if whole:
            os.replace(self._unfinished, self.path)
            return
        os.unlink(self._unfinished)
        if kind is None:
            raise InputError(f"{self.path}: {self._rows} of {self.height} rows were written.")

    @property
    def _unfinished(self) -> str:
        return f"{self.path}.part"

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
