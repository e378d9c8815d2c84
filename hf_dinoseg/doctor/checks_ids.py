"""Checks of mask values against the label space: the one question is what the numbers in the files mean.

At most one finding is given for unknown values: the most specific that fits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import gcd

from ..labels import LabelSpace
from .report import Finding, share_text, some
from .survey import PairFacts, Survey, raw_ids, unpack

Surveys = Mapping[str, Survey]
_LEAST_STRETCH = 3  # times
_SMOOTH = 12  # more unknown values than this, and more than classes, are no ids


def check_values(surveys: Surveys, space: LabelSpace) -> list[Finding]:
    """Values or colours in masks that the label space does not know, and known ones that mean something else."""
    pairs = [pair for survey in surveys.values() for pair in survey.pairs if pair.values]
    findings = []
    if space.encoding == "rgb":
        findings += _unknown_colors(pairs, space)
    elif colored := [pair for pair in pairs if pair.colored]:
        findings.append(_color_masks(colored, len(pairs), space))
    plain = [pair for pair in pairs if not pair.colored and pair.mask.format != "JPEG"]
    if space.encoding != "rgb" and plain:
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
    if (step := _stretch(set(found), space)) is not None:
        return [_stretched(step, seen, set(found), space)]
    if (shift := _offset(set(found), space)) is not None:
        return [_off_by_one(shift, seen, found, space)]
    if len(unknown) > max(_SMOOTH, len(known)):
        return [
            Finding(
                "error",
                "masks-smoothed",
                f"{len(unknown)} different values that the recipe does not know: {seen}Labels have few values; so many "
                "come from resizing with smoothing, from a grey image, or from instance ids.",
                "Export the masks at their own size, or resize them by nearest neighbour; check `data.mask`.",
            )
        ]
    declared = ", ".join(f"{i}: …" for i in sorted(unknown)[:6])
    palette = ""
    if any(unknown & set(pair.palette) for pair in pairs):
        palette = (
            " These are palette masks, of which the index is read; if the colour names the class, write "
            "`labels.encoding: rgb` and `labels.colors`."
        )
    return [
        Finding(
            "error",
            "unknown-ids",
            f"ids that the recipe does not know: {seen}Declared and never found: "
            f"{some(sorted(known - set(found)), 8) or 'none'}.",
            f"Name them, `labels.classes: {{{declared}}}`, or, if they mean 'not labelled', "
            f"`labels.ignore: {sorted(set(space.ignore) | set(sorted(unknown)[:6]))}`.{palette}",
        )
    ]


def _stretch(found: set[int], space: LabelSpace) -> float | None:
    """The factor by which declared ids seem to have been multiplied, as for masks that are to look good: 85 where 0,
    85, 170, 255 stand for 0 to 3. Three such values at least, and none but 0 and 255 that is a class as it is."""
    classes = set(space.classes)
    if len(found) < 3 or found & classes - {0, 255}:
        return None
    ids = sorted(classes | set(space.merge))
    for step in (255 / max(1, ids[-1]), 255 / (ids[-1] + 1), float(gcd(*found))):
        moved = {rounded(i * step) for i in (0, *ids) for rounded in (round, int)}
        if step >= _LEAST_STRETCH and found - {255} <= moved and len(found & moved) >= 3:
            return step
    return None


def _stretched(step: float, seen: str, found: set[int], space: LabelSpace) -> Finding:
    ids = [i for i in space.classes if {round(i * step), int(i * step)} & found]
    greys = {i: next(v for v in (round(i * step), int(i * step)) if v in found) for i in ids}
    void = sorted(found - set(greys.values()))
    renamed = ", ".join(f"{greys[i]}: {space.classes[i]}" for i in ids[:4]) + (", …" if len(ids) > 4 else "")
    also = f"; and `labels.ignore: {void}` for what is void" if void else ""
    return Finding(
        "error",
        "masks-stretched",
        f"the masks hold evenly spread greys, as if each id had been multiplied by {step:.4g}: {seen}",
        f"Write the greys as ids, `labels.classes: {{{renamed}}}`{also}. Or save the masks anew, divided by "
        f"{step:.4g} and rounded.",
    )


def _offset(found: set[int], space: LabelSpace) -> int | None:
    """+1 or -1 if all values would be known were the declared ids moved by it; void may move along or stay, and 0
    may be there as something unlabelled."""
    void, classes = set(space.ignore), set(space.original_ids) | set(space.merge)
    if len(classes) < 2:
        return None
    for shift in (1, -1):
        moved = {i + shift for i in classes}
        for voids in (void, {i + shift for i in void}, {0} | void):
            tell_tale = max(moved) if shift == 1 else min(moved)
            if found <= moved | voids and tell_tale in found and len(found & moved) >= 2:
                return shift
    return None


def _off_by_one(shift: int, seen: str, found: Counter[int], space: LabelSpace) -> Finding:
    ids = sorted(space.original_ids)
    renamed = ", ".join(f"{i + shift}: {space.classes[i]}" for i in ids[:3]) + (", …" if len(ids) > 3 else "")
    declared, there = f"{ids[0]} to {ids[-1]}", f"{ids[0] + shift} to {ids[-1] + shift}"
    cure = f"Write `labels.classes: {{{renamed}}}`"
    if shift == 1 and 0 in found:
        cure += (
            f" and, as 0 is there too ({share_text(found[0] / found.total())} of pixels), `labels.reduce_zero_label: "
            "true` if 0 means 'not labelled'. If 0 is the first class indeed, name the last id in `classes` instead."
        )
    else:
        cure += "; ids in `ignore` may have moved along."
    if shift == -1 and space.reduce_zero_label:
        cure += " The masks were reduced already, so also write `labels.reduce_zero_label: false`."
    return Finding(
        "error",
        "ids-off-by-one",
        f"the recipe declares ids {declared}, the masks seem to hold {there}: {seen}",
        cure,
    )


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
