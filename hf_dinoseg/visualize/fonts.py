"""The font of labels in images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont


@lru_cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows Latin letters with all their accents, Greek and Cyrillic;
    Pillow's own font has no ß, Å or Ø."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of it as `width` pixels have room for."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
