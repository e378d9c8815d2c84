"""The one place that opens image files: which formats, how large, upright, in RGB.

A *cell* is what `datasets.Image(decode=False)` yields: `{"path": str | None, "bytes": bytes | None}`; bytes win. A
plain path is a cell too.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import ImageError, NoSuchFileError, TooLargeError

Cell = Mapping[str, Any] | str | os.PathLike[str]

#: Images and masks of more pixels are refused unless asked for: half a gigabyte as RGB.
MAX_PIXELS = 180_000_000

#: Of a download or an upload, which anyone may have made, an image of more pixels is refused where it would be decoded
#: whole: those of a camera of 50 megapixels, 8192 × 6144.
MAX_FOREIGN_PIXELS = 3 << 24

#: What is opened, by what a file holds and not by its name. Pillow reads more; PostScript, for one, it gives to another
#: program.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "TGA")

ORIENTATION = 0x0112  # EXIF and TIFF tag; 1 is upright, 5 to 8 exchange width and height

# TIFF tags and values, https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_SUBFILE_TYPE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 254, 262, 277, 338
_COPY_OR_TRANSPARENCY = 0b101  # bits of the first
_ALPHA = (1, 2)  # values of the last

# Pillow's limit is a global variable. Two threads that set and restore it at the same time could leave it off for good,
# so one lock guards it and no other code sets it. Images within the limit do not touch it.
_LIMIT = threading.RLock()


def cell_name(cell: Cell) -> str:
    """What to call a cell in an error."""
    if isinstance(cell, Mapping):
        return str(cell.get("path") or "<bytes without a file name>")
    return os.fspath(cell)


def cell_source(cell: Cell) -> bytes | str | os.PathLike[str] | None:
    """The bytes of a cell, or its path; None if it has neither."""
    if not isinstance(cell, Mapping):
        return cell
    data = cell.get("bytes")
    return cell.get("path") if data is None else bytes(data)


@contextmanager
def open_image(cell: Cell, max_pixels: int | None = MAX_PIXELS, advice: str = "") -> Iterator[Image.Image]:
    """The first frame of an image file, not decoded yet. Whatever is wrong with the file until the block ends becomes
    one error.

    Args:
        cell: the file.
        max_pixels: a larger image is refused before it is decoded; None opens any size.
        advice: what to do about a file that cannot be read or is too large, a sentence or two.

    Raises:
        TooLargeError: if the head of the file says that it holds more than `max_pixels`; nothing has been decoded.
        ImageError: naming the file, if it is missing, empty, broken or of a format that is not in `FORMATS`.
    """
    name, source = cell_name(cell), cell_source(cell)
    advice = f" {advice}" if advice else ""
    try:
        if source is None:
            raise ImageError("a row holds neither a path nor bytes where an image or mask is expected.")
        empty = not source if isinstance(source, bytes) else os.stat(source).st_size == 0
        if empty:
            raise ImageError(f"{name}: the file is empty (0 bytes).{advice}")
        with _opened(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise TooLargeError(
                    f"{name}: refused, it would unpack to {width}×{height} = {width * height} pixels; the limit is "
                    f"{max_pixels}. If it is meant to be so large, write data.max_pixels: {width * height}; otherwise "
                    "remove it together with its partner.",
                    width * height,
                )
            yield image
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise NoSuchFileError(f"{name}: there is no such file.") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: this is a folder, not a file.") from None
    except PermissionError:
        raise ImageError(f"{name}: the file may not be read; permit reading it.") from None
    except Image.DecompressionBombError as error:  # a frame within that is larger than the head said
        raise TooLargeError(f"{name}: refused, it would unpack to a size fit to exhaust memory. {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError) as error:
        # Pillow's decoders raise many kinds on broken input; all of them mean the same here.
        raise ImageError(f"{name}: cannot be read as an image ({_reason(error)}).{advice}") from error
    except Exception as error:  # struct.error, zlib.error, and what libraries below Pillow call theirs
        if type(error).__module__.partition(".")[0] not in ("struct", "zlib", "PIL", "lzma"):
            raise
        raise ImageError(f"{name}: cannot be read as an image ({_reason(error)}).{advice}") from error


@contextmanager
def _opened(file: Any) -> Iterator[Image.Image]:
    """Open a file whatever its size; while a large one is decoded, Pillow's own limit stands aside."""
    with _limit_lifted():
        image = Image.open(file, formats=FORMATS)
    with image:
        if image.width * image.height <= (Image.MAX_IMAGE_PIXELS or 0):
            yield image
            return
        with _limit_lifted():
            yield image


@contextmanager
def _limit_lifted() -> Iterator[None]:
    with _LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _reason(error: Exception) -> str:
    """Why Pillow cannot read a file, in words that do not repeat its name."""
    if isinstance(error, UnidentifiedImageError):
        return (
            f"it is broken, or none of {', '.join(FORMATS)}; of TIFFs grey, RGB and RGB with alpha of 8 or 16 bits are "
            "read"
        )
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF tag says, in place; the same object."""
    ImageOps.exif_transpose(image, in_place=True)
    return image


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """The image, turned as its EXIF tag says (in place), in 8-bit RGB: one rule for training and for prediction.

    16-bit greys keep their upper byte; transparency is dropped; of several frames the first is taken.

    Args:
        image: as it was opened.
        name: what messages call it.

    Raises:
        ImageError: if it holds floating-point values, or whole numbers of more than 16 bits.
    """
    image.load()
    upright(image)
    if image.mode == "F":
        raise ImageError(f"{name}: holds floating-point pixels, whose range is not known. Convert it to 8 bits.")
    if image.mode.startswith("I"):  # Pillow's own conversion makes all above 255 white
        values = np.asarray(image)
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if not 0 <= low <= high <= 65535:
            raise ImageError(
                f"{name}: pixel values run from {low} to {high}; images of 8 or 16 bits a channel are read. Convert it "
                "to one of these."
            )
        image = Image.fromarray((values >> 8 if image.mode != "I" or high > 255 else values).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def image_size(cell: Cell) -> tuple[int, int]:
    """(width, height) as stored, from the file's head alone, whatever its size.

    Raises:
        ImageError: if the file is no image.
    """
    with open_image(cell, max_pixels=None) as image:
        return image.size


def stored_upright_size(cell: Cell) -> tuple[int, int]:
    """(width, height) as the image is shown, turned as its tag says; from the file's head alone, so a file that was cut
    short is not noticed (`reading.upright_size` notices).

    Raises:
        ImageError: if the file is no image.
    """
    with open_image(cell, max_pixels=None) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(ORIENTATION) in (5, 6, 7, 8) else (width, height)


def dropped_parts(cell: Cell) -> str:
    """What an image file holds beside what is read of it, which is its first page and three colours at most.

    Reduced copies of a TIFF's first page (overviews) and transparency are nothing that is missed, nor are the further
    images of a camera's JPEG.

    Returns:
        Such as `pages 2 to 12`, `band 4`, or both; nothing for most files, and for those that cannot be read.
    """
    try:
        with open_image(cell, max_pixels=None) as image:
            bands, pages = _more_bands(image), _more_pages(image)
    except ImageError:
        return ""
    word = "page" if image.format == "TIFF" else "frame"
    return " and ".join(filter(None, (_numbered(word, pages), _numbered("band", bands))))


def _more_bands(image: Image.Image) -> list[int]:
    """Numbers, from 1, of a TIFF's bands that are neither colour nor said to be transparency."""
    if not isinstance(image, TiffImageFile):
        return []
    tags = image.tag_v2
    colors = {2: 3, 5: 4, 6: 3}.get(tags.get(_PHOTOMETRIC, 1), 1)  # RGB, CMYK, YCbCr; others have one
    extra = list(tags.get(_EXTRA_SAMPLES, ()))
    further = range(colors, tags.get(_SAMPLES_PER_PIXEL, 1))
    return [n + 1 for n in further if n - colors >= len(extra) or extra[n - colors] not in _ALPHA]


def _more_pages(image: Image.Image) -> list[int]:
    """Numbers, from 2, of pages or frames after the first. The image is left at any of them."""
    if image.format not in ("TIFF", "GIF", "WEBP", "PNG") or not getattr(image, "is_animated", False):
        return []
    if not isinstance(image, TiffImageFile):
        return list(range(2, getattr(image, "n_frames", 1) + 1))
    numbers: list[int] = []
    place = 0
    while True:
        place += 1
        try:
            image.seek(place)
        except EOFError:
            return numbers
        except (OSError, SyntaxError, ValueError, KeyError, TypeError):
            numbers.append(place + 1)  # a page that Pillow cannot read is there all the same
        else:
            if not image.tag_v2.get(_SUBFILE_TYPE, 0) & _COPY_OR_TRANSPARENCY:
                numbers.append(place + 1)


def _numbered(word: str, numbers: list[int]) -> str:
    if len(numbers) < 2:
        return "".join(f"{word} {n}" for n in numbers)
    return f"{word}s {numbers[0]} to {numbers[-1]}"
