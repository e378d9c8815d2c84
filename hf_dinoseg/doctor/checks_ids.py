"""Checks of mask values against the label space: the one question is what the numbers in the files mean.

At most one finding is given for unknown values: what they most likely mean, and what else they may (`readings`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..labels import LabelSpace
from .readings import readings
from .report import Finding, share_text, some
from .survey import MOSTLY_LINES, PairFacts, Survey, raw_ids, unpack, zero_in_lines

Surveys = Mapping[str, Survey]
_EIGHT_BITS = ("1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "bool", "int8", "uint8")


def check_values(surveys: Surveys, space: LabelSpace) -> list[Finding]:
    """Values or colours in masks that the label space does not know, and known ones that mean something else."""
    pairs = [
        pair
        for survey in surveys.values()
        for pair in survey.pairs
        if pair.values and not pair.mask.paged  # the first page of several does not tell what the ids are
    ]
    findings = []
    if space.encoding == "rgb":
        findings += _unknown_colors(pairs, space)
    elif colored := [pair for pair in pairs if pair.colored]:
        findings.append(_color_masks(colored, len(pairs), space))
    plain = [pair for pair in pairs if not pair.colored and pair.mask.format != "JPEG"]
    if space.encoding != "rgb" and plain:
        findings += _too_few_bits(plain, space)
        findings += _check_ids(plain, space, all(survey.complete for survey in surveys.values()))
        findings += _palettes(plain)
    elif plain:
        findings.append(
            Finding(
                "error",
                "masks-not-colour",
                f"{len(plain)} masks hold 16- or 32-bit numbers, not colours: {some([p.mask.name for p in plain])}.",
                "Write `labels.encoding: index`.",
            )
        )
    return findings


def _check_ids(pairs: list[PairFacts], space: LabelSpace, complete: bool) -> list[Finding]:
    found = _total(pairs)
    known = set(raw_ids(space))
    unknown = set(found) - known
    if space.encoding == "index" and 255 in found and set(found) <= {0, 255} and 255 not in space.classes:
        voids = " 255 is void in the recipe, so every pixel of it would be left out." if 255 in space.ignore else ""
        certain = complete or 255 in unknown  # where 255 is void, masks that were not read may hold classes
        return [
            Finding(
                "error" if certain else "warning",
                "masks-0-255",
                f"the masks hold only 0 and 255: {_shares(found, found)}, such as {_holding(255, pairs)}.{voids}",
                "Write `labels.encoding: binary`, `classes: {0: background, 1: <name>}` and no 255 in `ignore`. If 255 "
                "is indeed void, name a class that occurs.",
            )
        ]
    if space.encoding == "binary" and 1 in unknown and set(found) <= {0, 1}:
        return [
            Finding(
                "error",
                "masks-0-1",
                f"the recipe reads 0 and 255, they hold 0, 1: {_shares(found, found)}, such as {_holding(1, pairs)}.",
                "Write `labels.encoding: index`.",
            )
        ]
    if not unknown:
        return _already_reduced(found, space)
    seen = (
        f"{_shares(unknown, found)} in {sum(bool(unknown & set(p.values)) for p in pairs)} of {len(pairs)} masks, such "
        f"as {next(p.mask.name for p in pairs if unknown & set(p.values))}. "
    )
    if space.encoding == "binary":
        cure = "`encoding: binary` takes 0 and 255 only. Write `labels.encoding: index` and name the ids in `classes`."
        return [Finding("error", "unknown-ids", f"ids that 0/255 masks do not have: {seen}", cure)]
    told = readings(found, space, zero_in_lines(pairs) > MOSTLY_LINES)
    palette = ""
    if told[0].code == "unknown-ids" and any(unknown & set(pair.palette) for pair in pairs):
        palette = (
            " These are palette masks, of which the index is read; if the colour names the class, write "
            "`labels.encoding: rgb` and `labels.colors`."
        )
    absent = some(sorted(known - set(found)), 8) or "none"
    return [
        Finding(
            "error",
            told[0].code,
            f"{told[0].seen}: {seen}Declared and never found: {absent}.",
            " ".join(reading.cure for reading in told) + palette,
        )
    ]


def _too_few_bits(pairs: list[PairFacts], space: LabelSpace) -> list[Finding]:
    """Ids above 255 are named, but no mask has room for them."""
    highest = max(*space.original_ids, *space.merge, 0)
    if highest <= 255 or any(pair.mask.mode not in _EIGHT_BITS for pair in pairs):
        return []
    return [
        Finding(
            "error",
            "masks-8-bit",
            f"the recipe names ids up to {highest}, but all {len(pairs)} masks that were read have 8 bits a pixel, "
            f"such as {pairs[0].mask.name}. These hold 0 to 255; saved so, id 256 has become 0, 257 has become 1.",
            "Export the masks again as 16-bit PNG or TIFF: as arrays of numpy.uint16, never uint8. What was cut off "
            "cannot be told from these files.",
        )
    ]


def _already_reduced(found: Counter[int], space: LabelSpace) -> list[Finding]:
    """`reduce_zero_label` on masks that were reduced when they were made: nothing is unknown, everything is wrong."""
    last = max(space.original_ids)
    if not (space.reduce_zero_label and 255 in space.ignore and found[0] and found[255] and not found[last]):
        return []
    return [
        Finding(
            "warning",
            "zero-reduced-twice",
            f"`reduce_zero_label` makes 0 void, yet the masks hold 255 as void already ({_shares([0, 255], found)}), "
            f"and never the last id, {last} ({space.classes[last]}).",
            "If the masks were reduced before they were saved, write `labels.reduce_zero_label: false` and classes "
            "from 0.",
        )
    ]


def _color_masks(pairs: list[PairFacts], count: int, space: LabelSpace) -> Finding:
    total = _total(pairs)
    told = ", ".join(f"{unpack(c)} {share_text(n / total.total())}" for c, n in total.most_common(6))
    if len(total) > max(64, 4 * len(space.classes)):
        what = f"{len(total)} different colours; so many are an image, or colours blurred by JPEG or resizing."
        cure = "Check `data.mask`. If these are masks, export them again as PNG, one exact colour a class."
    else:
        what = f"{len(total)} colours: {told}."
        listed = ", ".join(f"{i}: {list(unpack(c))}" for i, (c, _) in enumerate(total.most_common(3)))
        cure = (
            "Write `labels.encoding: rgb` and `labels.colors` with each id's own colour, as the dataset documents "
            f"them: {{{listed}, …}}."
        )
    seen = f"{len(pairs)} of {count} masks are colour images, such as {pairs[0].mask.name}. They hold {what}"
    return Finding("error", "colour-masks", seen, cure)


def _unknown_colors(pairs: list[PairFacts], space: LabelSpace) -> list[Finding]:
    found = _total([pair for pair in pairs if pair.colored])
    unknown = set(found) - set(raw_ids(space))
    if not unknown:
        return []
    largest = sorted(unknown, key=lambda c: -found[c])
    told = ", ".join(f"{unpack(c)} {share_text(found[c] / found.total())}" for c in largest[:8])
    more = f" and {len(largest) - 8} more" if len(largest) > 8 else ""
    where = next(pair.mask.name for pair in pairs if pair.colored and unknown & set(pair.values))
    if space.unknown_colors == "nearest":
        share = share_text(sum(found[c] for c in unknown) / found.total())
        return [
            Finding(
                "warning",
                "nearest-colours",
                f"{share} of pixels have a colour that is not listed: {told}{more}, as in {where}.",
                "They are read as the nearest listed colour. Look at the edges on the contact sheet.",
            )
        ]
    if all(r == g == b for r, g, b in map(unpack, found)):
        cure = "All are greys: if the grey is the id, write `labels.encoding: index`."
    elif len(unknown) > max(64, 4 * len(space.classes)):
        cure = "So many are colours blurred by JPEG or resizing: export the masks again as PNG, one colour a class."
    else:
        cure = "Add them to `labels.colors`, and their ids to `labels.classes` or `labels.ignore`."
    return [
        Finding(
            "error", "unknown-colours", f"colours that the recipe does not know: {told}{more}, as in {where}.", cure
        )
    ]


def _palettes(pairs: list[PairFacts]) -> list[Finding]:
    """Palette masks whose indices mean different colours in different files: there the colour is the label."""
    first: dict[int, tuple[tuple[int, int, int], str]] = {}
    for pair in pairs:
        for value, color in pair.palette.items():
            known, name = first.setdefault(value, (color, pair.mask.name))
            if known != color:
                return [
                    Finding(
                        "warning",
                        "palettes-differ",
                        f"index {value} is {known} in the palette of {name} and {color} in that of {pair.mask.name}. "
                        "Of palette masks the index is read, never the colour.",
                        "If the colour names the class, write `labels.encoding: rgb` and `labels.colors`.",
                    )
                ]
    return []


def _total(pairs: list[PairFacts]) -> Counter[int]:
    total: Counter[int] = Counter()
    for pair in pairs:
        total.update(pair.values)
    return total


def _holding(value: int, pairs: list[PairFacts]) -> str:
    return next(pair.mask.name for pair in pairs if value in pair.values)


def _shares(ids: object, found: Counter[int]) -> str:
    ordered = sorted(ids)  # type: ignore[call-overload]
    told = [f"{i} ({found[i]} pixels, {share_text(found[i] / found.total())})" for i in ordered[:8]]
    return ", ".join(told) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")
