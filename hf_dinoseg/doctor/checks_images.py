"""Checks of pixel values: images that would reach the model black, or not as they look."""

from __future__ import annotations

from collections.abc import Mapping

from .report import Finding, some
from .survey import Survey

Surveys = Mapping[str, Survey]

_DARK = 32  # of 255
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def check_ranges(surveys: Surveys) -> list[Finding]:
    """Bit depth and value range. Needs images that were decoded; of others only the type of pixels is judged."""
    images = [pair.image for survey in surveys.values() for pair in survey.pairs if pair.image.fault is None]
    findings = []
    if floats := [image.name for image in images if image.mode == "F"]:
        findings.append(
            Finding(
                "error",
                "float-image",
                f"{len(floats)} images hold floating-point pixels, whose range is not known: {some(floats)}.",
                "Convert them to 8 bits a channel, with one fixed range for all.",
            )
        )
    if wide := [image for image in images if image.mode in _SIXTEEN_BITS]:
        highest = max((image.extrema[1] for image in wide if image.extrema), default=65535.0)
        mixed = f" and {len(images) - len(wide)} of 8 bits" if len(wide) < len(images) else ""
        dark = (
            f" Their brightest pixel is {highest:.0f}, so they would look nearly black."
            if highest < 256 * _DARK
            else ""
        )
        findings.append(
            Finding(
                "warning" if dark or mixed else "info",
                "sixteen-bit-image",
                f"{len(wide)} images have 16 or more bits a pixel{mixed}: {some([i.name for i in wide])}. Their "
                f"upper byte is used.{dark}",
                "Convert them to 8 bits with the range that they really use, the same one for all and in deployment.",
            )
        )
    narrow = [image for image in images if image.extrema and image.mode in ("L", "RGB", "RGBA", "LA", "CMYK", "YCbCr")]
    if narrow and max(image.extrema[1] for image in narrow if image.extrema) < _DARK:
        top = max(image.extrema[1] for image in narrow if image.extrema)
        findings.append(
            Finding(
                "warning",
                "dark-images",
                f"the brightest pixel of {len(narrow)} images is {top:.0f} of 255. They reach the model as black.",
                "Bytes run from 0 to 255: scale the images (values 0 to 1 times 255) and save them again.",
            )
        )
    elif blank := [image.name for image in narrow if image.extrema and image.extrema[0] == image.extrema[1]]:
        findings.append(
            Finding(
                "warning",
                "blank-images",
                f"{len(blank)} images are of one colour throughout: {some(blank)}.",
                "Look at them; restore them, or remove them together with their masks.",
            )
        )
    return findings


def check_dropped(surveys: Surveys) -> list[Finding]:
    """Files of several pages or of more bands than colours, of which only a part is read."""
    pairs = [pair for survey in surveys.values() for pair in survey.pairs]
    findings = []
    if masks := [pair.mask for pair in pairs if pair.mask.paged]:
        told = some([f"{file.name} ({file.dropped} not read)" for file in masks])
        findings.append(
            Finding(
                "error",
                "paged-masks",
                f"masks of several pages, of which only the first is read: {told}. Such masks often have a page "
                "for each class; what the ids are cannot be told from the first.",
                "Save each mask as one page that holds one id a pixel. If pages 1, 2, … show where classes 1, 2, … "
                "are, that is `numpy.where(pages.any(0), pages.argmax(0) + 1, 0)` of the pages in one array.",
            )
        )
    files = [file for pair in pairs for file in (pair.image, pair.mask) if file.dropped and file not in masks]
    if files:
        told = some([f"{file.name} ({file.dropped})" for file in files])
        findings.append(
            Finding(
                "warning",
                "dropped-pages-or-bands",
                f"more is in these files than is read, which is the first page and its first three bands: {told}.",
                "If the rest matters, save each page as a file of its own, and the three bands that tell most as RGB.",
            )
        )
    return findings
