"""What the pages that show label maps over images are given: images as data URIs, and the script that draws them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: the script; it defines `labelView`
SCRIPT = Path(__file__).with_name("label_view.js")


def image_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """An image as a data URI, in a format of Pillow with its options of `save`."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def numbers_uri(numbers: np.ndarray, size: tuple[int, int]) -> str:
    """A map of numbers as a PNG.

    Args:
        numbers: (H, W) from 0 to 65535. Red holds the low byte, green the high one.
        size: width and height to show it in; the number of the nearest pixel is taken.
    """
    number = numbers.astype(np.uint16)
    channels = np.dstack((number & 255, number >> 8, np.zeros_like(number))).astype(np.uint8)
    return image_uri(Image.fromarray(channels).resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)
