"""From whatever Pillow opens to an upright 8-bit RGB picture: one rule, for training and for prediction."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class PictureError(ValueError):
    """A picture whose pixels have no place in 8-bit RGB; the message says what to do."""


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """The picture, turned as its EXIF tag says (in place), in RGB.

    16-bit greys keep their upper byte; transparency is dropped; of several frames the first is taken.

    Args:
        image: as it was opened.
        name: what messages call it.

    Raises:
        PictureError: if it holds floating-point values, or whole numbers of more than 16 bits.
    """
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise PictureError(f"{name}: holds floating-point pixels, whose range is not known. Convert it to 8 bits.")
    if image.mode.startswith("I"):  # Pillow's own conversion makes all above 255 white
        values = np.asarray(image)
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if not 0 <= low <= high <= 65535:
            raise PictureError(
                f"{name}: pixel values run from {low} to {high}; pictures of 8 or 16 bits a channel are read. Convert "
                "it to one of these."
            )
        image = Image.fromarray((values >> 8 if image.mode != "I" or high > 255 else values).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def unreadable(error: Exception) -> str:
    """Why Pillow cannot read a file, in words that do not repeat its name."""
    if isinstance(error, UnidentifiedImageError):
        return (
            "it is broken, or of a kind that Pillow does not read; of TIFFs it reads grey, RGB and RGB with alpha of 8 "
            "or 16 bits"
        )
    return str(error).rstrip(".") or type(error).__name__
