"""Checks of the files themselves: readable, of one size with their partner, not lossy, not there twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .duplicates import Twins
from .file_facts import HUGE_PIXELS, FileFacts
from .report import Finding, some
from .survey import Survey

Surveys = Mapping[str, Survey]
_SEEN_ON_OPENING = ("broken-file", "refused-file", "one-hot-mask")
_WORDS = {
    "missing-file": ("missing", "Restore them, or remove them together with their partners."),
    "empty-file": ("empty (0 bytes)", "Restore them, or remove them together with their partners."),
    "refused-file": (
        "refused, as they would unpack to a size fit to exhaust memory",
        "Cut them and their masks into tiles; if such a size is not meant, remove them together with their partners.",
    ),
    "one-hot-mask": (
        "one-hot: planes of classes, where a mask holds one id a pixel",
        "Make ids of every such array:",
    ),
    "broken-file": (
        "unreadable (broken, cut short, or of a type that is not read)",
        "Restore or convert them, or remove them together with their partners.",
    ),
}


def check_readable(surveys: Surveys) -> list[Finding]:
    """Files that are missing, empty, broken, or so large that they are not opened."""
    by_code: dict[str, list[FileFacts]] = {}
    for survey in surveys.values():
        for file in survey.absent:
            by_code.setdefault(str(file.fault_code), []).append(file)
        for file in (file for pair in survey.pairs for file in (pair.image, pair.mask)):
            if file.fault_code in _SEEN_ON_OPENING:
                by_code.setdefault(file.fault_code, []).append(file)
    findings = []
    for code, files in sorted(by_code.items()):
        what, cure = _WORDS[code]
        told = [f"{f.name} ({f.fault})" if code in _SEEN_ON_OPENING else f.name for f in files]
        if files[0].fault_cure:
            cure = f"{cure} `{files[0].fault_cure}`."
        findings.append(Finding("error", code, f"{_files(len(files))} {what}: {some(told)}.", cure))
    return findings


def check_sizes(surveys: Surveys) -> list[Finding]:
    """Images and masks of different size, lying on their side, or turned by a tag that only one of them has."""
    other, lying, turned = [], [], []
    for pair in (pair for survey in surveys.values() for pair in survey.pairs):
        image, mask = pair.image, pair.mask
        if image.size is None or mask.size is None:
            continue
        told = f"{image.name} {image.size[0]}×{image.size[1]}, its mask {mask.name} {mask.size[0]}×{mask.size[1]}"
        if image.size == mask.size:
            if image.orientation != mask.orientation:
                turned.append(f"{image.name} (tag {image.orientation}, its mask {mask.orientation})")
        elif image.size == mask.size[::-1]:
            lying.append(told)
        else:
            other.append(told)
    findings = []
    if other:
        findings.append(
            Finding(
                "error",
                "size-mismatch",
                f"{_pairs(len(other))} of different size (width×height): {some(other)}.",
                "Give each image the mask that was drawn on it, at the same size; resize masks by nearest neighbour.",
            )
        )
    if lying:
        findings.append(
            Finding(
                "error",
                "orientation-mismatch",
                f"{_pairs(len(lying))} of which one lies on its side (width×height): {some(lying)}.",
                "An EXIF orientation tag turns one file and not its partner. Save both upright, without the tag.",
            )
        )
    if turned:
        findings.append(
            Finding(
                "warning",
                "exif-turns-one",
                f"{_pairs(len(turned))} of equal size whose EXIF orientation tags differ: {some(turned)}. Tags are "
                "followed, so the image is turned over a mask that is not.",
                "Look at the contact sheet. If image and mask disagree there, save both upright, without the tag.",
            )
        )
    return findings


def check_lossy_masks(surveys: Surveys, known: set[int]) -> list[Finding]:
    """Masks in JPEG, which alters values at every edge.

    Args:
        known: raw values that the label space knows.
    """
    masks = [pair for survey in surveys.values() for pair in survey.pairs if pair.mask.format == "JPEG"]
    if not masks:
        return []
    altered = [pair for pair in masks if set(pair.values) - known]
    seen = f"{len(masks)} masks are JPEG files, {len(altered)} of them with values that no class has: "
    return [
        Finding(
            "error" if altered else "warning",
            "jpeg-mask",
            seen + f"{some([pair.mask.name for pair in altered or masks])}.",
            "JPEG alters values at every edge. Export the masks again as PNG; converting these does not bring the "
            "labels back.",
        )
    ]


def check_huge(surveys: Surveys) -> list[Finding]:
    """Images that take seconds to decode."""
    huge = [
        f"{pair.image.name} ({pair.image.size[0]}×{pair.image.size[1]})"
        for survey in surveys.values()
        for pair in survey.pairs
        if pair.image.size is not None and pair.image.size[0] * pair.image.size[1] > HUGE_PIXELS
    ]
    if not huge:
        return []
    return [
        Finding(
            "warning",
            "huge-image",
            f"{len(huge)} images of more than {HUGE_PIXELS // 1_000_000} million pixels: {some(huge)}. Each is "
            "decoded whole for every crop.",
            "Cut them and their masks into tiles.",
        )
    ]


def check_duplicates(twins: Sequence[Twins]) -> list[Finding]:
    """Images that are there more than once, as `find_twins` finds them."""
    findings = []
    if across := [twin for twin in twins if twin.splits[0] != twin.splits[1]]:
        findings.append(
            Finding(
                "warning",
                "duplicate-across-splits",
                f"{_images(len(across), across[0].splits[1])} in {across[0].splits[0]} too{_as_files(across)}.",
                "Take them out of one of the splits: the score is else partly taken on what was learned.",
            )
        )
    for split in dict.fromkeys(twin.splits[0] for twin in twins):
        if within := [twin for twin in twins if twin.splits == (split, split)]:
            findings.append(
                Finding(
                    "warning",
                    "duplicate-in-split",
                    f"{_images(len(within), split)} there already{_as_files(within)}.",
                    "Keep one of each: what is there twice is learned, or counts in the score, twice.",
                )
            )
    if contradicting := [twin for twin in twins if twin.masks_differ]:
        findings.append(
            Finding(
                "warning",
                "duplicate-masks-differ",
                f"{len(contradicting)} of these have another mask than their twin: {_told(contradicting)}.",
                "Find out which mask is right, and remove the other with its image: both cannot be learned.",
            )
        )
    return findings


def _images(count: int, split: str) -> str:
    return f"1 {split} image is" if count == 1 else f"{count} {split} images are"


def _as_files(twins: Sequence[Twins]) -> str:
    exact = sum(twin.same_bytes for twin in twins)
    how = (
        "byte for byte"
        if exact == len(twins)
        else f"{exact} of them byte for byte, the others saved again"
        if exact
        else "saved again"
    )
    return f", {how}{'' if exact == len(twins) else ' (or resized, mirrored or turned)'}: {_told(twins)}"


def _told(twins: Sequence[Twins]) -> str:
    return some([f"{twin.first} = {twin.second}" for twin in twins], 3)


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"
