"""What the values in masks mean: the `labels` section of a recipe, with a reason for each line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ..doctor.report import share_text
from ..doctor.survey import MOSTLY_LINES, Survey, unpack, zero_in_lines
from ..errors import DataError
from ..labels import MOST_ID, LabelSpace

Ask = Callable[[str, Sequence[str]], str]
"""A question and its answers, the likeliest first; gives one of them."""

_MOST_COLOURS = 64  # more are those of an image, or of edges that were smoothed
_MOST_IDS = 512
_MOST_IN_ONE = 64  # ids in one 8-bit mask
_MOST_OF_JPEG = 16  # ids in masks that JPEG has blurred
_MOST_GAPS = 8  # times as many values up to the highest as occur: then they are no ids, but greys
_BACKGROUND, _VOID, _CLASS = "background", "not labelled", "a class"
_NAMED_BACKGROUND = ("background", "bg", "_background_")


@dataclass
class Labels:
    """The `labels` section of a recipe.

    Attributes:
        fields: as in the recipe.
        reasons: of a field, why it is so.
    """

    fields: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def space(self) -> LabelSpace:
        return LabelSpace.from_dict(self.fields)


def read_labels(survey: Survey, ask: Ask, names: Sequence[str] = ()) -> Labels:
    """The labels of masks that were read with the encoding `index`.

    Args:
        survey: of all pairs.
        ask: what settles what the masks cannot tell.
        names: of the classes, in the order of their ids; `class_3` and so on for those that are not given.

    Raises:
        DataError: if the masks hold no labels, such as smoothed greys, or fewer or more classes than `names`.
    """
    coloured, plain = survey.counts(colored=True), survey.counts(colored=False)
    if coloured and plain:
        raise DataError(
            "some masks are coloured and some are grey, so one recipe cannot read all of them. Save them one way: as "
            "PNG files whose pixel values are the class ids."
        )
    if coloured:
        return _colours(coloured, ask, names)
    if not plain:
        raise DataError("no mask could be read; `file` or an image viewer tells what they are.")
    return _ids(plain, survey, ask, names)


def _ids(found: Counter[int], survey: Survey, ask: Ask, names: Sequence[str]) -> Labels:
    if min(found) < 0 or max(found) > MOST_ID:
        raise DataError(f"the masks hold {min(found)} to {max(found)}; save them with ids from 0 to {MOST_ID}.")
    each = median(len(pair.values) for pair in survey.pairs if not pair.colored)
    lossy = any(pair.mask.format == "JPEG" for pair in survey.pairs)
    smooth = each > _MOST_IN_ONE and max(found) <= 255 or lossy and len(found) > _MOST_OF_JPEG
    if smooth or len(found) > _MOST_IDS or (len(found) > 32 and max(found) > _MOST_GAPS * len(found)):
        raise DataError(
            f"the masks hold {len(found)} different values, from {min(found)} to {max(found)}. Labels have few values: "
            "these masks were resized with smoothing, saved as JPEG, or number single objects. Export them again as "
            "PNG files whose pixel values are the class ids."
        )
    if set(found) <= {0, 255} and 255 in found:
        return _binary(found, names)
    ignore: list[int] = []
    reasons: dict[str, str] = {}
    ids = sorted(found)
    if ids[-1] == 255 and _is_void(255, ids, found, ask, "stands far above the others, as 'not labelled' often does"):
        ignore.append(255)
        reasons["ignore"] = f"255 is 'not labelled': {share_text(found[255] / found.total())} of the pixels"
    zero = _meaning_of_zero(found, survey, ask, names) if 0 in found else None
    fields: dict[str, Any] = {}
    classes = [i for i in ids if i not in ignore and not (i == 0 and zero == _VOID)]
    named = _named(classes, names, {0: _BACKGROUND} if zero == _BACKGROUND else {}, found)
    fields["classes"] = named
    reasons["classes"] = f"the ids of the masks: {_shares(found, named)}"
    if zero == _VOID:
        fields["reduce_zero_label"] = True
        reasons["reduce_zero_label"] = f"0 is 'not labelled': {share_text(found[0] / found.total())} of the pixels"
    if ignore:
        fields["ignore"] = ignore
    if colours := _palette(survey, named):
        fields["colors"] = colours
        reasons["colors"] = "those of the masks' own palette"
    return Labels(fields, reasons)


def _binary(found: Counter[int], names: Sequence[str]) -> Labels:
    named = _named([0, 1], names, {0: _BACKGROUND}, None)
    share = share_text(found[255] / found.total())
    return Labels(
        {"encoding": "binary", "classes": named},
        {
            "encoding": "the masks hold 0 and 255: 255 becomes id 1",
            "classes": f"255 covers {share} of the pixels, 0 the rest",
        },
    )


def _is_void(value: int, ids: list[int], found: Counter[int], ask: Ask, because: str) -> bool:
    others = [i for i in ids if i != value]
    step = value - others[-1] if others else 0
    if len(others) >= 2 and all(b - a == step for a, b in zip(others, others[1:], strict=False)):
        return False  # one of evenly spread greys
    share = share_text(found[value] / found.total())
    answer = ask(f"The value {value} covers {share} of the pixels and {because}. It is", (_VOID, _CLASS))
    return answer == _VOID


def _meaning_of_zero(found: Counter[int], survey: Survey, ask: Ask, names: Sequence[str]) -> str:
    share = share_text(found[0] / found.total())
    if names and names[0].lower() in _NAMED_BACKGROUND:
        return _BACKGROUND
    seams = zero_in_lines(survey.pairs) > MOSTLY_LINES
    others = len(found) - 1
    if seams:
        likely, because = _VOID, "is drawn in lines between regions"
    elif others >= 20 and found[0] < found.total() / 4:
        likely, because = _VOID, f"stands beside {others} classes that cover most of the images"
    else:
        likely, because = _BACKGROUND, "may be what is none of the classes"
    order = [likely, *(answer for answer in (_BACKGROUND, _VOID, _CLASS) if answer != likely)]
    return ask(f"The value 0 covers {share} of the pixels and {because}. It is", order)


def _colours(found: Counter[int], ask: Ask, names: Sequence[str]) -> Labels:
    if len(found) > _MOST_COLOURS:
        raise DataError(
            f"the masks hold {len(found)} different colours. Labels have few: these masks were resized with smoothing, "
            "saved as JPEG, or are images drawn over. Export them again as PNG files of plain colours, or of class ids."
        )
    # black first, then by how much they cover: the order is the same whenever it is looked at
    order = sorted(found, key=lambda packed: (packed != 0, -found[packed], packed))
    fields: dict[str, Any] = {"encoding": "rgb"}
    reasons = {"encoding": "the colours of the masks are the labels"}
    black = None
    if 0 in found and len(found) > 2:
        share = share_text(found[0] / found.total())
        likely = (_BACKGROUND, _VOID, _CLASS)
        black = ask(f"Black covers {share} of the pixels. It is", likely)
    elif 0 in found:
        black = _BACKGROUND
    ids = dict(enumerate(order))
    if 0 not in found:
        ids = {i + 1: packed for i, packed in enumerate(order)}
    classes = [i for i, packed in ids.items() if not (packed == 0 and black == _VOID)]
    named = _named(classes, names, {0: _BACKGROUND} if black == _BACKGROUND else {}, None)
    fields["classes"] = named
    total = found.total()
    reasons["classes"] = "ids are given by this recipe: " + ", ".join(
        f"{i} covers {share_text(found[ids[i]] / total)}" for i in list(named)[:6]
    )
    if black == _VOID:
        fields["reduce_zero_label"] = True
        reasons["reduce_zero_label"] = "black is 'not labelled'"
    fields["colors"] = {i: list(unpack(packed)) for i, packed in ids.items()}
    return Labels(fields, reasons)


def _named(
    classes: Sequence[int], names: Sequence[str], known: dict[int, str], found: Counter[int] | None
) -> dict[int, str]:
    if not names:
        return {i: known.get(i, f"class_{i}") for i in classes}
    if len(names) == len(classes):
        return dict(zip(classes, names, strict=True))
    if (
        len(names) > len(classes)
        and found is not None
        and classes == list(range(classes[0], classes[0] + len(classes)))
    ):
        return {classes[0] + i: name for i, name in enumerate(names)}  # ids at the end that no mask shows
    raise DataError(
        f"--classes names {len(names)} classes, and the masks hold {len(classes)} ids: {', '.join(map(str, classes))}. "
        "Name each of them, in this order."
    )


def _shares(found: Counter[int], named: dict[int, str]) -> str:
    total, rare = found.total(), sorted(named, key=lambda i: found[i])
    if len(named) <= 6:
        return ", ".join(f"{i} covers {share_text(found[i] / total)}" for i in named)
    few = ", ".join(f"{i} ({share_text(found[i] / total)})" for i in rare[:3])
    return f"{len(named)} of them, the rarest {few}"


def _palette(survey: Survey, named: dict[int, str]) -> dict[int, list[int]]:
    """The colours of palette masks, if they agree and tell all classes apart."""
    colours: dict[int, list[int]] = {}
    for pair in survey.pairs:
        for value, colour in pair.palette.items():
            if colours.setdefault(value, list(colour)) != list(colour):
                return {}
    if not set(named) <= set(colours):
        return {}
    chosen = {i: colours[i] for i in named}
    greys = all(len(set(colour)) == 1 for colour in chosen.values())
    distinct = len({tuple(colour) for colour in chosen.values()}) == len(chosen)
    return {} if greys or not distinct else chosen
